/* A load of block requests for Linux, as fio makes them: so many under way at once, past the page cache.
 *
 *     blockload FILE read|write BYTES DEPTH random|sequential MILLISECONDS
 *
 * prints "IOPS=n". Without a C library, so that the compiler of the other guests builds it; AIO is what Linux has had for
 * longest. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

enum { IO_SETUP = 0, IO_SUBMIT = 2, IO_GETEVENTS = 4, OPENAT = 56, LSEEK = 62, WRITE = 64, EXIT = 93, CLOCK = 113 };
enum { AT_FDCWD = -100, O_RDWR = 2, O_DIRECT = 0x4000, SEEK_END = 2, MONOTONIC = 1, PREAD = 0, PWRITE = 1 };
enum { DEPTH_MAX = 64, SIZE_MAX = 1 << 17 };

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

static u8 buffers[DEPTH_MAX][SIZE_MAX] __attribute__((aligned(4096)));
static struct iocb requests[DEPTH_MAX];
static struct io_event events[DEPTH_MAX];

static i64 call(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e) {
  register i64 a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a3 __asm__("a3") = d;
  register i64 a4 __asm__("a4") = e, a7 __asm__("a7") = number;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a7) : "memory");
  return a0;
}

static void end(const char *why) {
  u64 length = 0;
  while (why[length])
    length++;
  call(WRITE, 2, (i64)why, length, 0, 0);
  call(EXIT, 1, 0, 0, 0, 0);
}

static u64 microseconds(void) {
  i64 time[2];
  call(CLOCK, MONOTONIC, (i64)time, 0, 0, 0);
  return time[0] * 1000000 + time[1] / 1000;
}

static u64 number(const char *text) {
  u64 value = 0;
  for (; *text; text++) {
    if (*text < '0' || *text > '9')
      end("blockload: not a number\n");
    value = value * 10 + (*text - '0');
  }
  return value;
}

static void print(u64 value) {
  char text[32] = "IOPS=";
  char digits[24];
  int count = 0, at = 5;
  do
    digits[count++] = '0' + value % 10;
  while (value /= 10);
  while (count)
    text[at++] = digits[--count];
  text[at++] = '\n';
  call(WRITE, 1, (i64)text, at, 0, 0);
}

static u64 next(u64 places, u64 count, int random) {
  static u64 state = 88172645463325252;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (random ? state : count) % places;
}

__attribute__((used)) static void begin(u64 *stack) {
  char **arguments = (char **)(stack + 1);
  if (stack[0] != 7)
    end("usage: blockload FILE read|write BYTES DEPTH random|sequential MILLISECONDS\n");
  int writes = arguments[2][0] == 'w', random = arguments[5][0] == 'r';
  u64 size = number(arguments[3]), depth = number(arguments[4]), limit = number(arguments[6]) * 1000;
  i64 fd = call(OPENAT, AT_FDCWD, (i64)arguments[1], (writes ? O_RDWR : 0) | O_DIRECT, 0, 0);
  u64 context = 0;
  if (fd < 0 || !size || size > SIZE_MAX || !depth || depth > DEPTH_MAX)
    end("blockload: cannot open it, or too much is wanted\n");
  u64 places = call(LSEEK, fd, 0, SEEK_END, 0, 0) / size;
  if (!places || call(IO_SETUP, depth, (i64)&context, 0, 0, 0))
    end("blockload: it is too small, or there is no AIO\n");
  u64 submitted = 0, answered = 0, started = microseconds();
  struct iocb *list[DEPTH_MAX];
  u64 ready = depth;
  for (u64 i = 0; i < depth; i++)
    list[i] = &requests[i];
  for (;;) {
    for (u64 i = 0; i < ready; i++) {
      struct iocb *request = list[i];
      u64 slot = request - requests;
      *request = (struct iocb){.data = slot, .opcode = writes ? PWRITE : PREAD, .fd = fd, .bytes = size};
      request->buffer = (u64)buffers[slot];
      request->offset = next(places, submitted++, random) * size;
    }
    if (ready && call(IO_SUBMIT, context, ready, (i64)list, 0, 0) != (i64)ready)
      end("blockload: a request was refused\n");
    i64 done = call(IO_GETEVENTS, context, 1, depth, (i64)events, 0);
    if (done < 1)
      end("blockload: no answer\n");
    for (i64 i = 0; i < done; i++) {
      if (events[i].result != (i64)size)
        end("blockload: a request failed\n");
      list[i] = &requests[events[i].data];
    }
    answered += done;
    int over = microseconds() - started >= limit;
    ready = over ? 0 : done;
    if (over && answered == submitted)
      break;
  }
  print(answered * 1000000 / (microseconds() - started));
  call(EXIT, 0, 0, 0, 0, 0);
}

__attribute__((naked, used)) void _start(void) {
  __asm__ volatile(".option push\n.option norelax\nla gp, __global_pointer$\n.option pop\nmv a0, sp\ncall begin\n");
}
