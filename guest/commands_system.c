// Commands about the machine as a whole: what there is, registers by hand, random bytes, and its end.
#include "drivers.h"
#include "guest.h"

static int help(int argc, char **argv) {
  (void)argc, (void)argv;
  for (const struct command *const *group = command_groups; *group; group++)
    for (const struct command *command = *group; command->name; command++)
      print("  %-10s %-27s %s\n", command->name, command->arguments, command->help);
  print("Commands may follow one another with ; between them. In the bootargs: cmd=verify,16;exit\n");
  return 0;
}

static int echo(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    print("%s%s", argv[i], i + 1 < argc ? " " : "");
  print("\n");
  return 0;
}

static int info(int argc, char **argv) {
  (void)argc, (void)argv;
  const struct device *memory = device_find("memory", 0);
  print("memory      %lx to %lx (%lu MiB)\n", memory->base, memory->base + memory->size, memory->size >> 20);
  print("bootargs    %s\n", bootargs);
  print("uptime      %lu ms\n", now() / (TIMER_HZ / 1000));
  print("interrupts  %lu timer, %lu external\n", interrupt_counts[0], interrupt_counts[1]);
  for (int i = 0; i < disk_count; i++) {
    uint64_t notifications, interrupts;
    disk_statistics(i, &notifications, &interrupts);
    print("disk %d      %lu notifications, %lu interrupts\n", i, notifications, interrupts);
  }
  return 0;
}

static int list_devices(int argc, char **argv) {
  (void)argc, (void)argv;
  for (int i = 0; i < device_count; i++) {
    const struct device *device = &devices[i];
    print("%10lx %8lx  irq %2u  %-24s %s\n", device->base, device->size, device->irq, device->name, device->compatible);
  }
  return 0;
}

static int random_bytes(int argc, char **argv) {
  static uint8_t bytes[256];
  uint64_t n;
  if (!argument_number(argc, argv, 1, 16, &n))
    return 2;
  uint32_t got = entropy_read(bytes, MIN(n, sizeof bytes));
  if (!got) {
    print("rng: no entropy device answers\n");
    return 1;
  }
  hexdump(bytes, got, 0);
  return 0;
}

static int mailbox(int argc, char **argv) {
  static bool there;
  uint32_t words[MAILBOX_MAX];
  uint64_t word;
  if (argc < 2 || argc > MAILBOX_MAX)
    return usage("mailbox");
  for (int i = 1; i < argc; i++) {
    if (!argument_number(argc, argv, i, 0, &word))
      return 2;
    words[i - 1] = word;
  }
  if (!there && !(there = mailbox_init())) {
    print("mailbox: there is none\n");
    return 1;
  }
  const struct mailbox_result *result = mailbox_exchange(words, argc - 1);
  print("room for %u, %u waiting; %u interrupt%s, received", result->space, result->waiting, result->interrupts,
        result->interrupts == 1 ? "" : "s");
  for (uint32_t i = 0; i < result->received; i++)
    print(" %u", result->words[i]);
  print("\n");
  return result->received != (uint32_t)argc - 1 || memcmp(words, result->words, sizeof words[0] * result->received);
}

// Registers by hand: for devices that have no driver here, such as one being written. A fault is told, not fatal.
static int access(const char *name, uint64_t address, uint64_t width, uint64_t *value, bool write) {
  expected.taken = false;
  expected.armed = true;
  switch (width) {
#define WIDTH(bytes, type)                                                                                             \
  case bytes:                                                                                                          \
    if (write)                                                                                                         \
      *(volatile type *)address = *value;                                                                              \
    else                                                                                                               \
      *value = *(volatile type *)address;                                                                              \
    break;
    WIDTH(1, uint8_t)
    WIDTH(2, uint16_t)
    WIDTH(4, uint32_t)
    WIDTH(8, uint64_t)
#undef WIDTH
  default:
    expected.armed = false;
    return usage(name);
  }
  expected.armed = false;
  if (expected.taken)
    print("%s: exception %lu at %lx\n", name, expected.cause, expected.address);
  return expected.taken;
}

static int peek(int argc, char **argv) {
  uint64_t address, width, value = 0;
  if (argc < 2 || !argument_number(argc, argv, 1, 0, &address) || !argument_number(argc, argv, 2, 4, &width))
    return usage("peek");
  int status = access("peek", address, width, &value, false);
  if (!status)
    print("%lx: %lx\n", address, value);
  return status;
}

static int poke(int argc, char **argv) {
  uint64_t address, value, width;
  if (argc < 3 || !argument_number(argc, argv, 1, 0, &address) || !argument_number(argc, argv, 2, 0, &value) ||
      !argument_number(argc, argv, 3, 4, &width))
    return usage("poke");
  return access("poke", address, width, &value, true);
}

static int dump(int argc, char **argv) {
  uint64_t address, size;
  if (argc < 2 || !argument_number(argc, argv, 1, 0, &address) || !argument_number(argc, argv, 2, 64, &size))
    return usage("dump");
  hexdump((const void *)address, size, address);
  return 0;
}

static int sleep(int argc, char **argv) {
  uint64_t milliseconds;
  if (!argument_number(argc, argv, 1, 1000, &milliseconds))
    return 2;
  sleep_until(now() + milliseconds * (TIMER_HZ / 1000));
  return 0;
}

static int do_panic(int argc, char **argv) {
  panic("%s", argc > 1 ? argv[1] : "asked for");
}

static int do_exit(int argc, char **argv) {
  uint64_t code;
  if (!argument_number(argc, argv, 1, last_status, &code))
    return 2;
  finish(code);
}

const struct command system_commands[] = {
    {"help", "", "this list", help},
    {"echo", "WORD...", "print words", echo},
    {"info", "", "memory, bootargs, interrupts so far", info},
    {"devices", "", "what the device tree lists", list_devices},
    {"rng", "[BYTES]", "random bytes from the entropy device", random_bytes},
    {"mailbox", "NUMBER...", "numbers into the example device, and back by interrupt", mailbox},
    {"peek", "ADDRESS [WIDTH]", "read a register, 1, 2, 4 or 8 bytes wide", peek},
    {"poke", "ADDRESS VALUE [WIDTH]", "write one", poke},
    {"dump", "ADDRESS [BYTES]", "memory in hex", dump},
    {"sleep", "[MILLISECONDS]", "wait for the timer", sleep},
    {"panic", "[WHY]", "end the machine as a crash does: code 255", do_panic},
    {"exit", "[CODE]", "end the machine; without CODE, the last command's status", do_exit},
    {0},
};
