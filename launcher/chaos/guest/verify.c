/* A load of block requests for Linux that can tell whether each of them was carried out, once, and where it belongs:
 * what `fio --verify=crc32c` does.
 *
 *     verify FILE BYTES DEPTH SEED ROUND COUNT
 *
 * Writes COUNT blocks of BYTES at random places, DEPTH under way at once, past the page cache. Each carries its place,
 * the number of its write, and a crc32c over all of it. What was there before a write is read and checked first: it must
 * be of the last round's or this one's last write to that place. At the end the disk is flushed and every place read.
 * A place is never written twice at the same time. prints "verified N writes, M reads". ROUND 0 finds any old content. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

enum { IO_SETUP = 0, IO_SUBMIT = 2, IO_GETEVENTS = 4, OPENAT = 56, LSEEK = 62, WRITE = 64, FSYNC = 82, EXIT = 93 };
enum { AT_FDCWD = -100, O_RDWR = 2, O_DIRECT = 0x4000, SEEK_END = 2, PREAD = 0, PWRITE = 1 };
enum { DEPTH_MAX = 64, SIZE_MAX = 1 << 16, PLACES_MAX = 1 << 15 };

struct iocb {
  u64 data;
  u32 key, flags;
  unsigned short opcode;
  short priority;
  u32 fd;
  u64 buffer, bytes;
  i64 offset;
  u64 reserved;
  u32 more, event;
};

struct io_event {
  u64 data, object;
  i64 result, second;
};

struct block {
  u64 magic, place, number, seed;
  u64 words[(SIZE_MAX - 40) / 8];
};

#define MAGIC 0x62756c6b68656164UL
static u8 buffers[DEPTH_MAX][SIZE_MAX] __attribute__((aligned(4096)));
static struct iocb requests[DEPTH_MAX];
static struct io_event events[DEPTH_MAX];
static u64 last[PLACES_MAX]; /* number of the last write to a place; 0: not known */
static u8 busy[PLACES_MAX];
static u32 table[256];
static u64 place_of[DEPTH_MAX], state, size, depth, places, context;
static i64 fd;

static i64 call(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e) {
  register i64 a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a3 __asm__("a3") = d;
  register i64 a4 __asm__("a4") = e, a7 __asm__("a7") = number;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a7) : "memory");
  return a0;
}

static void say(const char *text) {
  u64 length = 0;
  while (text[length])
    length++;
  call(WRITE, 1, (i64)text, length, 0, 0);
}

static void say_number(u64 value) {
  char digits[24];
  int at = 23;
  digits[at] = 0;
  do
    digits[--at] = '0' + value % 10;
  while (value /= 10);
  say(digits + at);
}

static void end(const char *why, u64 value) {
  say("verify: ");
  say(why);
  say(" ");
  say_number(value);
  say("\n");
  call(EXIT, 1, 0, 0, 0, 0);
}

static u64 number(const char *text) {
  u64 value = 0;
  for (; *text; text++) {
    if (*text < '0' || *text > '9')
      end("an argument is no number:", 0);
    value = value * 10 + (*text - '0');
  }
  return value;
}

static u64 random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static u32 crc32c(const u8 *data, u64 length) {
  u32 crc = ~0u;
  for (u64 i = 0; i < length; i++)
    crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
  return ~crc;
}

static void fill(u8 *buffer, u64 place, u64 write, u64 seed) {
  u64 *words = (u64 *)buffer, x = place * 0x9e3779b97f4a7c15 ^ write ^ seed << 32;
  words[0] = MAGIC, words[1] = place, words[2] = write, words[3] = seed;
  for (u64 i = 4; i < size / 8 - 1; i++)
    words[i] = x += 0x9e3779b97f4a7c15;
  words[size / 8 - 1] = crc32c(buffer, size - 8);
}

static u64 check(const u8 *buffer, u64 place, u64 seed) { /* number of the write that it is of */
  const u64 *words = (const u64 *)buffer;
  if (words[0] != MAGIC)
    end("no block of ours at place", place);
  if (words[size / 8 - 1] != crc32c(buffer, size - 8))
    end("wrong crc32c at place", place);
  if (words[1] != place)
    end("a block of another place at place", place);
  if (words[3] != seed)
    end("a block of another seed at place", place);
  if (last[place] && words[2] != last[place])
    end(words[2] < last[place] ? "an older block came back at place" : "a write came early at place", place);
  return words[2];
}

static void submit(u64 slot, int opcode) {
  struct iocb *request = &requests[slot];
  *request = (struct iocb){.data = slot, .opcode = opcode, .fd = fd, .bytes = size, .buffer = (u64)buffers[slot]};
  request->offset = place_of[slot] * size;
  if (call(IO_SUBMIT, context, 1, (i64)&request, 0, 0) != 1)
    end("a request was refused at place", place_of[slot]);
}

/* Each slot reads its place, writes it, and takes another; then all places are read once. */
static void work(u64 count, u64 first, u64 seed, int old) {
  u64 begun = 0, under_way = 0;
  for (u64 slot = 0; slot < depth; slot++, begun++, under_way++) {
    do
      place_of[slot] = random() % places;
    while (busy[place_of[slot]]);
    busy[place_of[slot]] = 1;
    submit(slot, PREAD);
  }
  while (under_way) {
    i64 done = call(IO_GETEVENTS, context, 1, depth, (i64)events, 0);
    if (done < 1)
      end("no answer", 0);
    for (i64 i = 0; i < done; i++) {
      u64 slot = events[i].data, place = place_of[slot];
      if (events[i].result != (i64)size)
        end("a request failed at place", place);
      if (requests[slot].opcode == PREAD) {
        if (old || last[place])
          check(buffers[slot], place, seed);
        last[place] = ++first;
        fill(buffers[slot], place, first, seed);
        submit(slot, PWRITE);
        continue;
      }
      busy[place] = 0;
      under_way--;
      if (begun < count) {
        do
          place_of[slot] = random() % places;
        while (busy[place_of[slot]]);
        busy[place_of[slot]] = 1;
        submit(slot, PREAD);
        begun++, under_way++;
      }
    }
  }
}

static void read_all(u64 seed, int old) {
  u64 next = 0, under_way = 0;
  for (u64 slot = 0; slot < depth && next < places; slot++, next++, under_way++)
    place_of[slot] = next, submit(slot, PREAD);
  while (under_way) {
    i64 done = call(IO_GETEVENTS, context, 1, depth, (i64)events, 0);
    if (done < 1)
      end("no answer", 0);
    for (i64 i = 0; i < done; i++) {
      u64 slot = events[i].data;
      if (events[i].result != (i64)size)
        end("a request failed at place", place_of[slot]);
      if (old || last[place_of[slot]])
        check(buffers[slot], place_of[slot], seed);
      under_way--;
      if (next < places)
        place_of[slot] = next++, submit(slot, PREAD), under_way++;
    }
  }
}

static void fill_all(u64 seed) { /* round 0: every place gets its first block */
  u64 next = 0, under_way = 0;
  for (u64 slot = 0; slot < depth && next < places; slot++, next++, under_way++) {
    place_of[slot] = next;
    fill(buffers[slot], next, 1, seed);
    submit(slot, PWRITE);
  }
  while (under_way) {
    i64 done = call(IO_GETEVENTS, context, 1, depth, (i64)events, 0);
    for (i64 i = 0; i < done; i++) {
      u64 slot = events[i].data;
      if (events[i].result != (i64)size)
        end("a request failed at place", place_of[slot]);
      last[place_of[slot]] = 1;
      under_way--;
      if (next < places) {
        place_of[slot] = next++;
        fill(buffers[slot], place_of[slot], 1, seed);
        submit(slot, PWRITE);
        under_way++;
      }
    }
  }
}

__attribute__((used)) static void begin(u64 *stack) {
  char **arguments = (char **)(stack + 1);
  if (stack[0] != 7)
    end("usage: verify FILE BYTES DEPTH SEED ROUND COUNT", 0);
  size = number(arguments[2]), depth = number(arguments[3]);
  u64 seed = number(arguments[4]), round = number(arguments[5]), count = number(arguments[6]);
  for (u32 i = 0; i < 256; i++) {
    u32 crc = i;
    for (int bit = 0; bit < 8; bit++)
      crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    table[i] = crc;
  }
  state = (seed + 1) * 0x9e3779b97f4a7c15 ^ round;
  fd = call(OPENAT, AT_FDCWD, (i64)arguments[1], O_RDWR | O_DIRECT, 0, 0);
  if (fd < 0 || size < 512 || size > SIZE_MAX || size % 512 || !depth || depth > DEPTH_MAX)
    end("it cannot be opened, or too much is wanted", -fd);
  places = call(LSEEK, fd, 0, SEEK_END, 0, 0) / size;
  if (places > PLACES_MAX)
    places = PLACES_MAX;
  if (places <= depth || call(IO_SETUP, depth, (i64)&context, 0, 0, 0))
    end("it is too small, or there is no AIO", places);
  if (round == 0)
    fill_all(seed);
  work(count, (round << 32) + 1, seed, round != 0);
  if (call(FSYNC, fd, 0, 0, 0, 0))
    end("the flush failed", 0);
  read_all(seed, 1);
  say("verified ");
  say_number(count + (round ? 0 : places));
  say(" writes, ");
  say_number(count + places);
  say(" reads\n");
  call(EXIT, 0, 0, 0, 0, 0);
}

__attribute__((naked, used)) void _start(void) {
  __asm__ volatile(".option push\n.option norelax\nla gp, __global_pointer$\n.option pop\nmv a0, sp\ncall begin\n");
}
