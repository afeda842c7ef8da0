// Commands for a shared folder over v86fs: by hand, and a workload that checks itself.
#include "drivers.h"
#include "guest.h"

#define ROOT 1UL
#define PIECE (32UL << 10)  // bytes in one READ or WRITE
#define S_IFMT 0170000U
#define S_IFDIR 0040000U
#define S_IFLNK 0120000U

enum { ENOENT = 2, EEXIST = 17, ENOTEMPTY = 39 };
enum { SETATTR_MODE = 1, SETATTR_SIZE = 8 };

struct attributes {
  uint64_t inode, size, mtime;
  uint32_t mode;
};

static uint8_t buffer[PIECE];

// Requests: 0, or the device's errno, or less than 0 when it did not answer -------------------------

static int lookup(uint64_t parent, const char *name, size_t size, struct attributes *found) {
  v86fs_begin(V86FS_LOOKUP);
  v86fs_put64(parent);
  v86fs_put_text(name, size);
  int status = v86fs_call(NULL, 0, NULL, 0);
  found->inode = v86fs_get64();
  found->mode = v86fs_get32();
  found->size = v86fs_get64();
  return status;
}

static int get_attributes(uint64_t inode, struct attributes *found) {
  v86fs_begin(V86FS_GETATTR);
  v86fs_put64(inode);
  int status = v86fs_call(NULL, 0, NULL, 0);
  found->inode = inode;
  found->mode = v86fs_get32();
  found->size = v86fs_get64();
  found->mtime = v86fs_get64();
  return status;
}

// CREATE and MKDIR.
static int make(enum v86fs_type type, uint64_t parent, const char *name, uint32_t mode, uint64_t *inode) {
  v86fs_begin(type);
  v86fs_put64(parent);
  v86fs_put_text(name, strlen(name));
  v86fs_put32(mode);
  int status = v86fs_call(NULL, 0, NULL, 0);
  *inode = v86fs_get64();
  return status;
}

static int make_link(uint64_t parent, const char *name, const char *target) {
  v86fs_begin(V86FS_SYMLINK);
  v86fs_put64(parent);
  v86fs_put_text(name, strlen(name));
  v86fs_put_text(target, strlen(target));
  return v86fs_call(NULL, 0, NULL, 0);
}

static int read_link(uint64_t inode, const char **target, uint32_t *size) {
  v86fs_begin(V86FS_READLINK);
  v86fs_put64(inode);
  int status = v86fs_call(NULL, 0, NULL, 0);
  *target = v86fs_get_text(size);
  return status;
}

static int unlink(uint64_t parent, const char *name) {
  v86fs_begin(V86FS_UNLINK);
  v86fs_put64(parent);
  v86fs_put_text(name, strlen(name));
  return v86fs_call(NULL, 0, NULL, 0);
}

static int rename(uint64_t from, const char *name, uint64_t to, const char *new_name) {
  v86fs_begin(V86FS_RENAME);
  v86fs_put64(from);
  v86fs_put_text(name, strlen(name));
  v86fs_put64(to);
  v86fs_put_text(new_name, strlen(new_name));
  return v86fs_call(NULL, 0, NULL, 0);
}

static int set_size(uint64_t inode, uint64_t size) {
  v86fs_begin(V86FS_SETATTR);
  v86fs_put64(inode);
  v86fs_put32(SETATTR_SIZE);
  v86fs_put32(0);
  v86fs_put64(size);
  return v86fs_call(NULL, 0, NULL, 0);
}

static int with_number(enum v86fs_type type, uint64_t number) {  // FSYNC and CLOSE
  v86fs_begin(type);
  v86fs_put64(number);
  return v86fs_call(NULL, 0, NULL, 0);
}

static int open(uint64_t inode, uint64_t *handle) {
  v86fs_begin(V86FS_OPEN);
  v86fs_put64(inode);
  v86fs_put32(2);  // O_RDWR
  int status = v86fs_call(NULL, 0, NULL, 0);
  *handle = v86fs_get64();
  return status;
}

static int read_data(uint64_t handle, uint64_t offset, void *data, uint32_t size, uint32_t *done) {
  v86fs_begin(V86FS_READ);
  v86fs_put64(handle);
  v86fs_put64(offset);
  v86fs_put32(size);
  int status = v86fs_call(NULL, 0, data, size);
  *done = v86fs_get32();
  return status;
}

static int write_data(uint64_t inode, uint64_t offset, const void *data, uint32_t size) {
  v86fs_begin(V86FS_WRITE);
  v86fs_put64(inode);
  v86fs_put64(offset);
  v86fs_put32(size);
  int status = v86fs_call(data, size, NULL, 0);
  return status || v86fs_get32() == size ? status : -3;
}

static int list(uint64_t inode, uint32_t *count) {  // then v86fs_get64, _get8 and _get_text for each
  v86fs_begin(V86FS_READDIR);
  v86fs_put64(inode);
  int status = v86fs_call(NULL, 0, NULL, 0);
  *count = v86fs_get32();
  return status;
}

// Paths -------------------------------------------------------------------------------------------

static int failed(const char *command, const char *what, int status) {
  static const struct { int number; const char *text; } meanings[] = {
      {1, "not permitted"}, {2, "no such file or directory"}, {9, "bad handle"}, {13, "permission denied"},
      {17, "it exists"}, {20, "not a directory"}, {21, "is a directory"}, {22, "invalid"}, {28, "no space left"},
      {30, "read-only file system"}, {39, "directory not empty"}, {40, "symbolic link"}, {116, "stale"},
  };
  if (status == 0)
    return 0;
  const char *text = status < 0 ? "no answer" : "error";
  for (size_t i = 0; i < ARRAY_SIZE(meanings); i++)
    if (meanings[i].number == status)
      text = meanings[i].text;
  print("%s: %s: %s (%d)\n", command, what, text, status);
  return 1;
}

// The directory that a path's last name is in, and that name.
static int walk_to_parent(const char *path, uint64_t *directory, const char **name) {
  *directory = ROOT;
  for (;;) {
    while (*path == '/')
      path++;
    size_t size = 0;
    while (path[size] && path[size] != '/')
      size++;
    *name = path;
    if (!path[size])
      return 0;
    struct attributes found;
    int status = lookup(*directory, path, size, &found);
    if (status)
      return status;
    *directory = found.inode;
    path += size;
  }
}

static int walk(const char *path, struct attributes *found) {
  uint64_t directory;
  const char *name;
  int status = walk_to_parent(path, &directory, &name);
  if (status)
    return status;
  return *name ? lookup(directory, name, strlen(name), found) : get_attributes(directory, found);
}

static bool have_share(void) {
  static bool mounted;
  if (!v86fs_there()) {
    print("there is no v86fs share\n");
    return false;
  }
  if (!mounted) {
    v86fs_begin(V86FS_MOUNT);
    v86fs_put_text("", 0);
    mounted = !failed("mount", "", v86fs_call(NULL, 0, NULL, 0));
  }
  return mounted;
}

// Commands ----------------------------------------------------------------------------------------

static int list_directory(int argc, char **argv) {
  struct attributes found;
  uint32_t count, size;
  const char *path = argc > 1 ? argv[1] : "";
  if (!have_share() || failed("ls", path, walk(path, &found)) || failed("ls", path, list(found.inode, &count)))
    return 1;
  for (; count; count--) {
    uint64_t inode = v86fs_get64();
    uint8_t kind = v86fs_get8();
    const char *name = v86fs_get_text(&size);
    print("%6lu %c ", inode, kind == 4 ? 'd' : kind == 8 ? '-' : kind == 10 ? 'l' : '?');
    for (uint32_t i = 0; i < size; i++)
      print("%c", name[i]);
    print("\n");
  }
  return 0;
}

static int show_file(int argc, char **argv) {
  struct attributes found;
  uint64_t handle, offset = 0;
  uint32_t done;
  if (argc < 2)
    return usage("cat");
  if (!have_share() || failed("cat", argv[1], walk(argv[1], &found)) || failed("cat", argv[1], open(found.inode, &handle)))
    return 1;
  do {
    if (failed("cat", argv[1], read_data(handle, offset, buffer, PIECE, &done)))
      return 1;
    for (uint32_t i = 0; i < done; i++)
      print("%c", buffer[i]);
    offset += done;
  } while (done);
  return failed("cat", argv[1], with_number(V86FS_CLOSE, handle));
}

static int put_text(int argc, char **argv) {
  uint64_t directory, inode;
  struct attributes found;
  const char *name;
  size_t size = 0;
  if (argc < 2)
    return usage("put");
  for (int i = 2; i < argc; i++) {
    memcpy(buffer + size, argv[i], strlen(argv[i]));
    size += strlen(argv[i]);
    buffer[size++] = i == argc - 1 ? '\n' : ' ';
  }
  if (!have_share() || failed("put", argv[1], walk_to_parent(argv[1], &directory, &name)))
    return 1;
  int status = make(V86FS_CREATE, directory, name, 0644, &inode);
  if (status == EEXIST && (status = lookup(directory, name, strlen(name), &found)) == 0)
    status = set_size(inode = found.inode, 0);
  if (status == 0 && size)
    status = write_data(inode, 0, buffer, size);
  return failed("put", argv[1], status ? status : with_number(V86FS_FSYNC, inode));
}

static int make_directory(int argc, char **argv) {
  uint64_t directory, inode;
  const char *name;
  if (argc < 2)
    return usage("mkdir");
  if (!have_share() || failed("mkdir", argv[1], walk_to_parent(argv[1], &directory, &name)))
    return 1;
  return failed("mkdir", argv[1], make(V86FS_MKDIR, directory, name, 0755, &inode));
}

static int remove(int argc, char **argv) {
  uint64_t directory;
  const char *name;
  if (argc < 2)
    return usage("rm");
  if (!have_share() || failed("rm", argv[1], walk_to_parent(argv[1], &directory, &name)))
    return 1;
  return failed("rm", argv[1], unlink(directory, name));
}

static int move(int argc, char **argv) {
  uint64_t from, to;
  const char *name, *new_name;
  if (argc < 3)
    return usage("mv");
  if (!have_share() || failed("mv", argv[1], walk_to_parent(argv[1], &from, &name)) ||
      failed("mv", argv[2], walk_to_parent(argv[2], &to, &new_name)))
    return 1;
  return failed("mv", argv[1], rename(from, name, to, new_name));
}

static int link(int argc, char **argv) {
  uint64_t directory;
  const char *name;
  if (argc < 4 || strcmp(argv[1], "-s") != 0)
    return usage("ln");
  if (!have_share() || failed("ln", argv[3], walk_to_parent(argv[3], &directory, &name)))
    return 1;
  return failed("ln", argv[3], make_link(directory, name, argv[2]));
}

static int show_status(int argc, char **argv) {
  struct attributes found;
  const char *path = argc > 1 ? argv[1] : "", *target;
  uint32_t size;
  if (!have_share() || failed("stat", path, walk(path, &found)) ||
      failed("stat", path, get_attributes(found.inode, &found)))
    return 1;
  print("inode %lu mode %06x size %lu mtime %lu", found.inode, found.mode, found.size, found.mtime);
  if ((found.mode & S_IFMT) == S_IFLNK) {
    if (failed("stat", path, read_link(found.inode, &target, &size)))
      return 1;
    print(" -> ");
    for (uint32_t i = 0; i < size; i++)
      print("%c", target[i]);
  }
  print("\n");
  return 0;
}

static int show_space(int argc, char **argv) {
  (void)argc, (void)argv;
  if (!have_share())
    return 1;
  v86fs_begin(V86FS_STATFS);
  if (failed("df", "", v86fs_call(NULL, 0, NULL, 0)))
    return 1;
  uint64_t numbers[5];
  for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
    numbers[i] = v86fs_get64();
  uint32_t block = v86fs_get32();
  print("%lu MiB, %lu MiB free, %lu MiB available, %lu of %lu files free\n", numbers[0] * block >> 20,
        numbers[1] * block >> 20, numbers[2] * block >> 20, numbers[4], numbers[3]);
  return 0;
}

static bool notice_or_key(void *argument) {
  (void)argument;
  return v86fs_has_notice() || uart_has_input();
}

static void show_notice(const struct v86fs_notice *notice) {
  static const char *const names[] = {"INVALIDATE", "INVALIDATE_DIR", "MOUNT_NOTIFY", "UMOUNT_NOTIFY"};
  uint8_t kind = notice->size > 7 ? notice->message[4] : 0;
  if (kind < 0x20 || kind > 0x23) {
    print("an empty notice\n");
    return;
  }
  print("%s", names[kind - 0x20]);
  if (kind < 0x22) {
    uint64_t inode = 0;
    for (int i = 7; i >= 0; i--)
      inode = inode << 8 | notice->message[7 + i];
    print(" %lu\n", inode);
    return;
  }
  for (uint32_t at = 7; at + 2 <= notice->size;) {
    uint32_t size = notice->message[at] | notice->message[at + 1] << 8;
    print(" ");
    for (at += 2; size-- && at < notice->size; at++)
      print("%c", notice->message[at]);
  }
  print("\n");
}

static int watch(int argc, char **argv) {
  uint64_t seconds;
  if (!argument_number(argc, argv, 1, 0, &seconds) || !have_share())
    return 1;
  uint64_t deadline = now() + seconds * TIMER_HZ;
  const struct v86fs_notice *notice;
  do {
    while ((notice = v86fs_notice()))
      show_notice(notice);
  } while (!uart_has_input() && wait_until(notice_or_key, NULL, deadline));
  return 0;
}

// The workload ------------------------------------------------------------------------------------
//
// Files in four directories, and what they must be, in memory. Each step does something to one of them and checks what
// comes of it; a request that is carried out twice or not at all shows at once (an error that must not be, or none that
// must), or when the directories and the contents are compared.

#define SLOTS 24
#define DIRECTORIES 4
#define FILE_MAX 8192

struct slot {
  bool there;
  uint32_t directory, size;
  uint64_t inode;
  uint8_t data[FILE_MAX];
};

static struct slot slots[SLOTS];
static uint64_t directories[DIRECTORIES], random_state;
static char name_buffer[16];

static uint32_t random(uint32_t below) {
  random_state = random_state * 6364136223846793005 + 1442695040888963407;
  return (random_state >> 33) % below;
}

static const char *name_of(char letter, uint32_t number) {
  name_buffer[0] = letter;
  name_buffer[1] = '0' + number / 10;
  name_buffer[2] = '0' + number % 10;
  name_buffer[3] = 0;
  return name_buffer;
}

static int is(int status, int wanted) { return status == wanted ? 0 : status ? status : -4; }

static int check_contents(struct slot *slot, uint64_t handle) {
  uint32_t done;
  int status = read_data(handle, 0, buffer, FILE_MAX + 1, &done);
  return status || (done == slot->size && memcmp(buffer, slot->data, done) == 0) ? status : -5;
}

static int step_create(struct slot *slot, const char *name) {
  slot->directory = random(DIRECTORIES);
  slot->size = 0;
  memset(slot->data, 0, FILE_MAX);
  int status = make(V86FS_CREATE, directories[slot->directory], name, 0644, &slot->inode);
  slot->there = status == 0;
  uint64_t again;
  return status ? status : is(make(V86FS_CREATE, directories[slot->directory], name, 0644, &again), EEXIST);
}

static int step_write(struct slot *slot, const char *name) {
  (void)name;
  uint32_t offset = random(FILE_MAX - 1), size = 1 + random(FILE_MAX - offset);
  for (uint32_t i = 0; i < size; i++)
    slot->data[offset + i] = random(256);
  slot->size = MAX(slot->size, offset + size);
  return write_data(slot->inode, offset, slot->data + offset, size);
}

static int step_truncate(struct slot *slot, const char *name) {
  (void)name;
  uint32_t size = random(FILE_MAX);
  if (size < slot->size)
    memset(slot->data + size, 0, slot->size - size);
  slot->size = size;
  return set_size(slot->inode, size);
}

static int step_check(struct slot *slot, const char *name) {
  struct attributes found;
  uint64_t handle;
  int status = lookup(directories[slot->directory], name, strlen(name), &found);
  if (status || found.inode != slot->inode || found.size != slot->size)
    return status ? status : -6;
  status = open(slot->inode, &handle);
  if (status == 0 && (status = check_contents(slot, handle)) == 0)
    status = with_number(V86FS_CLOSE, handle);
  return status;
}

static int step_move(struct slot *slot, const char *name) {
  uint32_t to = random(DIRECTORIES), from = slot->directory;
  if (to == from)
    return 0;
  int status = rename(directories[from], name, directories[to], name);
  slot->directory = to;
  struct attributes found;
  return status ? status : is(lookup(directories[from], name, strlen(name), &found), ENOENT);
}

static int step_remove(struct slot *slot, const char *name) {
  slot->there = false;
  int status = unlink(directories[slot->directory], name);
  return status ? status : is(unlink(directories[slot->directory], name), ENOENT);
}

// A file that is open outlives its name.
static int step_remove_open(struct slot *slot, const char *name) {
  uint64_t handle;
  int status = open(slot->inode, &handle);
  if (status || (status = unlink(directories[slot->directory], name)))
    return status;
  slot->there = false;
  if ((status = step_write(slot, name)) || (status = check_contents(slot, handle)))
    return status;
  return with_number(V86FS_CLOSE, handle);
}

// Another file takes its place.
static int step_replace(struct slot *slot, const char *name) {
  uint64_t inode, where = directories[slot->directory];
  int status = make(V86FS_CREATE, where, "new", 0600, &inode);
  if (status || (status = write_data(inode, 0, "replaced", 8)) || (status = rename(where, "new", where, name)))
    return status;
  memset(slot->data, 0, FILE_MAX);
  memcpy(slot->data, "replaced", 8);
  slot->size = 8;
  slot->inode = inode;
  struct attributes found;
  return is(lookup(where, "new", 3, &found), ENOENT);
}

static int step_names(struct slot *slot, const char *name) {
  uint64_t inode, where = directories[slot->directory];
  const char *target;
  uint32_t size;
  struct attributes found;
  int status;
  if ((status = make(V86FS_MKDIR, where, "t", 0700, &inode)) || (status = make_link(inode, "l", name)) ||
      (status = is(unlink(where, "t"), ENOTEMPTY)) || (status = rename(where, "t", where, "u")) ||
      (status = lookup(inode, "l", 1, &found)) || (status = read_link(found.inode, &target, &size)))
    return status;
  if (size != strlen(name) || memcmp(target, name, size) != 0)
    return -7;
  if ((status = unlink(inode, "l")) || (status = unlink(where, "u")))
    return status;
  return is(lookup(where, "u", 1, &found), ENOENT);
}

static int check_directory(uint32_t directory) {
  uint32_t count, size, expected_count = 0;
  int status = list(directories[directory], &count);
  if (status)
    return status;
  for (uint32_t i = 0; i < SLOTS; i++)
    expected_count += slots[i].there && slots[i].directory == directory;
  if (count != expected_count)
    return -8;
  for (; count; count--) {
    uint64_t inode = v86fs_get64();
    uint8_t kind = v86fs_get8();
    const char *name = v86fs_get_text(&size);
    uint32_t number = size == 3 ? (name[1] - '0') * 10 + name[2] - '0' : SLOTS;
    if (kind != 8 || number >= SLOTS || !slots[number].there || slots[number].directory != directory ||
        slots[number].inode != inode)
      return -9;
  }
  return 0;
}

static const struct step {
  const char *name;
  int (*run)(struct slot *slot, const char *name);
} steps[] = {
    {"write", step_write},       {"write", step_write},   {"check", step_check},
    {"truncate", step_truncate}, {"move", step_move},     {"remove", step_remove},
    {"remove open", step_remove_open}, {"replace", step_replace}, {"names", step_names},
};

// A fresh directory with the four in it.
static int begin_test(const char *place) {
  uint64_t inside;
  int status = make(V86FS_MKDIR, ROOT, place, 0755, &inside);
  memset(slots, 0, sizeof slots);
  for (uint32_t i = 0; i < DIRECTORIES && !status; i++)
    status = make(V86FS_MKDIR, inside, name_of('d', i), 0755, &directories[i]);
  return status;
}

static int end_test(uint32_t *files, uint32_t *crc) {
  int status = 0;
  *files = *crc = 0;
  for (uint32_t i = 0; i < DIRECTORIES && !status; i++)
    status = check_directory(i);
  for (uint32_t i = 0; i < SLOTS && !status; i++)
    if (slots[i].there) {
      status = step_check(&slots[i], name_of('f', i));
      *crc = crc32(*crc, slots[i].data, slots[i].size);
      ++*files;
    }
  return status;
}

static int test(int argc, char **argv) {
  uint64_t seed, count;
  uint32_t files, crc;
  if (!argument_number(argc, argv, 1, 1, &seed) || !argument_number(argc, argv, 2, 1000, &count) || !have_share())
    return 1;
  random_state = seed;
  if (failed("fstest", "fstest", begin_test("fstest")))
    return 1;
  for (uint64_t i = 0; i < count; i++) {
    uint32_t number = random(SLOTS);
    struct slot *slot = &slots[number];
    const struct step *step = &steps[random(ARRAY_SIZE(steps))];
    const char *name = name_of('f', number);
    int status = slot->there ? step->run(slot, name) : step_create(slot, name);
    if (status == 0 && i % 16 == 0)
      status = check_directory(random(DIRECTORIES));
    if (status) {
      print("fstest: step %lu, %s of %s: %d\n", i, slot->there ? step->name : "create", name_of('f', number), status);
      return 1;
    }
    if (i % 256 == 255)
      print("fstest: %lu steps\n", i + 1);
  }
  if (failed("fstest", "the end", end_test(&files, &crc)))
    return 1;
  print("fstest: %lu steps, %u files, crc32 %08x, all as it must be\n", count, files, crc);
  return 0;
}

const struct command fs_commands[] = {
    {"ls", "[PATH]", "what is in a directory of the v86fs share", list_directory},
    {"cat", "PATH", "a file of it", show_file},
    {"put", "PATH [WORD…]", "make a file of these words", put_text},
    {"mkdir", "PATH", "make a directory", make_directory},
    {"rm", "PATH", "remove a file or an empty directory", remove},
    {"mv", "PATH PATH", "rename, in place of what is there", move},
    {"ln", "-s TARGET PATH", "make a symbolic link", link},
    {"stat", "[PATH]", "inode, mode (in hex), size, time of change", show_status},
    {"df", "", "space on the share", show_space},
    {"watch", "[SECONDS]", "what the host has changed, up to a key", watch},
    {"fstest", "[SEED [STEPS]]", "random work on files in fstest/, every step checked", test},
    {0},
};
