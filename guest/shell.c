// The shell: lines from the UART or from the bootargs, split into words, looked up in the tables of commands.
#include "guest.h"

#define LINE_MAX 256
#define WORDS_MAX 16

const struct command *const command_groups[] = {system_commands, cpu_commands, disk_commands, fs_commands, net_commands, NULL};
int last_status;

static const struct command *find(const char *name) {
  for (const struct command *const *group = command_groups; *group; group++)
    for (const struct command *command = *group; command->name; command++)
      if (strcmp(command->name, name) == 0)
        return command;
  return NULL;
}

int usage(const char *name) {
  const struct command *command = find(name);
  print("usage: %s %s\n", command->name, command->arguments);
  return 2;
}

bool argument_number(int argc, char **argv, int index, uint64_t otherwise, uint64_t *value) {
  *value = otherwise;
  if (index >= argc || parse_number(argv[index], value))
    return true;
  print("%s: %s is not a number\n", argv[0], argv[index]);
  return false;
}

static int run_words(int argc, char **argv) {
  if (argc == 0)
    return last_status;
  const struct command *command = find(argv[0]);
  if (!command) {
    print("%s: no such command; help lists them\n", argv[0]);
    return 127;
  }
  return command->run(argc, argv);
}

int run_line(char *line) {
  while (*line) {
    char *words[WORDS_MAX];
    int count = 0;
    bool in_word = false, ends = false;
    for (; *line && !ends; line++) {
      ends = *line == ';';
      if (ends || *line == ' ') {
        *line = 0;
        in_word = false;
      } else if (!in_word && count < WORDS_MAX) {
        words[count++] = line;
        in_word = true;
      }
    }
    last_status = run_words(count, words);
  }
  return last_status;
}

void run_script(const char *script) {
  char line[LINE_MAX];
  size_t n = 0;
  for (; *script && *script != ' ' && n < LINE_MAX - 1; script++)
    line[n++] = *script == ',' ? ' ' : *script;
  line[n] = 0;
  print("> %s\n", line);
  run_line(line);
}

// A line with the little editing one misses at once: backspace, Ctrl-U, Ctrl-C, and Ctrl-P or up for the line before.
static void read_line(char *line, const char *before) {
  size_t n = 0;
  for (;;) {
    int c = uart_get();
    if (c == 0x1b) {  // up is ESC [ A
      if (uart_get() != '[' || uart_get() != 'A')
        continue;
      c = 'P' - '@';
    }
    switch (c) {
    case '\r':
    case '\n':
      line[n] = 0;
      print("\n");
      return;
    case 0x7f:
    case '\b':
      if (n) {
        n--;
        print("\b \b");
      }
      break;
    case 'C' - '@':
      line[0] = 0;
      print("^C\n");
      return;
    case 'U' - '@':
    case 'P' - '@':
      for (; n; n--)
        print("\b \b");
      if (c == 'P' - '@')
        for (; before[n]; n++)
          uart_put(line[n] = before[n]);
      break;
    default:
      if (c >= ' ' && n < LINE_MAX - 1)
        uart_put(line[n++] = c);
    }
  }
}

_Noreturn void shell(void) {
  static char line[LINE_MAX], before[LINE_MAX];
  for (;;) {
    print("> ");
    read_line(line, before);
    if (line[0])
      memcpy(before, line, sizeof before);
    run_line(line);
  }
}
