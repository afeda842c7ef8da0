// Commands for the processor: how fast it is, and whether what a kernel relies on works.
#include "guest.h"

// Speed -------------------------------------------------------------------------------------------

static uint64_t integers(uint64_t rounds) {
  uint64_t a = 1, b = 88172645463325252;
  while (rounds--) {
    b ^= b << 13;
    b ^= b >> 7;
    b ^= b << 17;
    a = a * 6364136223846793005 + b;
  }
  return a;
}

static uint64_t memory(uint64_t rounds) {
  static uint64_t from[512], to[512];
  for (uint64_t i = 0; i < rounds / 512; i++) {
    memcpy(to, from, sizeof to);
    from[i % 512] += to[(i + 1) % 512] + i;
  }
  return from[0];
}

static uint64_t branches(uint64_t rounds) {
  uint64_t a = 0, x = 88172645463325252;
  for (; rounds--; x = x * 6364136223846793005 + 1442695040888963407)
    switch (x >> 61) {
    case 0: a += x; break;
    case 1: a ^= x >> 3; break;
    case 2: a -= x << 2; break;
    case 3: a = a & 1 ? a * 3 : a >> 1; break;
    case 4: a |= x; break;
    case 5: a &= ~x; break;
    case 6: a += a << 5; break;
    default: a = a << 7 | a >> 57;
    }
  return a;
}

static const struct { const char *name; uint64_t (*run)(uint64_t rounds); } loads[] = {
    {"integers", integers}, {"memory", memory}, {"branches", branches},
};

static volatile uint64_t result;  // so that no load is optimised away

static int benchmark(int argc, char **argv) {
  uint64_t milliseconds;
  if (!argument_number(argc, argv, 1, 300, &milliseconds))
    return 2;
  for (size_t i = 0; i < ARRAY_SIZE(loads); i++) {
    uint64_t start = now(), instructions = csr_read(instret), rounds = 0;
    for (; now() - start < milliseconds * (TIMER_HZ / 1000); rounds += 20000)
      result = loads[i].run(20000);
    instructions = csr_read(instret) - instructions;
    uint64_t microseconds = MAX((now() - start) / (TIMER_HZ / 1000000), 1);
    print("%-10s %6lu thousand rounds/s %6lu MIPS\n", loads[i].name, rounds * 1000 / microseconds,
          instructions / microseconds);
  }
  return 0;
}

// Self-test ---------------------------------------------------------------------------------------

enum { ILLEGAL = 2, BREAKPOINT = 3, LOAD_ACCESS = 5, STORE_ACCESS = 7, LOAD_PAGE = 13, STORE_PAGE = 15 };

#define HOLE 0x0e000000UL  // no device, no memory

// Run a statement that should end in an exception with this cause.
#define RAISES(wanted, statement)                                                                                      \
  ({                                                                                                                   \
    expected.taken = false;                                                                                            \
    expected.armed = true;                                                                                             \
    statement;                                                                                                         \
    expected.armed = false;                                                                                            \
    expected.taken && expected.cause == (wanted);                                                                      \
  })

static bool exceptions(void) {
  uint64_t ignored;
  return RAISES(ILLEGAL, asm volatile(".4byte 0xffffffff")) && RAISES(ILLEGAL, asm volatile(".2byte 0")) &&
         RAISES(BREAKPOINT, asm volatile("ebreak")) &&
         RAISES(LOAD_ACCESS, asm volatile("lb %0, 0(%1)" : "=r"(ignored) : "r"(HOLE))) &&
         RAISES(STORE_ACCESS, asm volatile("sb zero, 0(%0)" ::"r"(HOLE)));
}

static bool misaligned(void) {
  static _Alignas(8) uint8_t bytes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  uint64_t value;
  asm volatile("ld %0, 1(%1)" : "=r"(value) : "r"(bytes));
  return value == 0x0807060504030201;
}

static bool atomics(void) {
  static uint64_t word = 5;
  uint64_t old, failed, again;
  word = 5;
  asm volatile("amoadd.d %0, %1, (%2)" : "=r"(old) : "r"(3L), "r"(&word) : "memory");
  asm volatile("lr.d %0, (%2)\n sc.d %1, %3, (%2)" : "=&r"(again), "=&r"(failed) : "r"(&word), "r"(9L) : "memory");
  uint64_t without;
  asm volatile("sc.d %0, zero, (%1)" : "=r"(without) : "r"(&word) : "memory");
  return old == 5 && again == 8 && failed == 0 && without != 0 && word == 9;
}

static bool new_code(void) {  // addi a0, zero, N; ret: written, run, changed, run
  static uint32_t code[2] = {0, 0x00008067};
  for (uint32_t n = 1; n <= 3; n++) {
    code[0] = 0x00000513 | n << 20;
    asm volatile("fence.i" ::: "memory");
    if (((uint64_t(*)(void))code)() != n)
      return false;
  }
  return true;
}

static bool timer(void) {
  uint64_t start = now(), interrupts = interrupt_counts[0];
  sleep_until(start + TIMER_HZ / 100);
  return now() - start >= TIMER_HZ / 100 && interrupt_counts[0] > interrupts;
}

// Sv39 (privileged architecture, section 12.4): the lowest 4 GiB where they are, in pages of 1 GiB, and once more, for
// reading only, 128 GiB further up. Nothing 64 GiB up.
static bool paging(void) {
  static _Alignas(4096) uint64_t table[512];
  enum { V = 1, R = 2, W = 4, X = 8, A = 64, D = 128 };
  const uint64_t copy = 128;  // in GiB
  for (uint64_t gib = 0; gib < 4; gib++) {
    table[gib] = gib << 28 | V | R | W | X | A | D;
    table[copy + gib] = gib << 28 | V | R | A;
  }
  static volatile uint64_t word;
  word = 42;
  volatile uint64_t *read_only = (volatile uint64_t *)((uint64_t)&word + (copy << 30));
  volatile uint64_t *unmapped = (volatile uint64_t *)((uint64_t)&word + (64UL << 30));
  csr_write(satp, 8UL << 60 | (uint64_t)table >> 12);
  asm volatile("sfence.vma" ::: "memory");
  uint64_t ignored;
  bool right = *read_only == 42 && RAISES(STORE_PAGE, asm volatile("sd zero, 0(%0)" ::"r"(read_only) : "memory")) &&
               RAISES(LOAD_PAGE, asm volatile("ld %0, 0(%1)" : "=r"(ignored) : "r"(unmapped)));
  csr_write(satp, 0);
  asm volatile("sfence.vma" ::: "memory");
  return right && word == 42;
}

static const struct { const char *name; bool (*run)(void); } tests[] = {
    {"exceptions", exceptions}, {"misaligned", misaligned}, {"atomics", atomics},
    {"new code", new_code},     {"timer", timer},           {"paging", paging},
};

static int self_test(int argc, char **argv) {
  (void)argc, (void)argv;
  int failures = 0;
  for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
    bool right = tests[i].run();
    failures += !right;
    print("%-12s %s\n", tests[i].name, right ? "ok" : "WRONG");
  }
  return failures;
}

const struct command cpu_commands[] = {
    {"cpubench", "[MILLISECONDS]", "speed, by rounds of three loops and by instret", benchmark},
    {"selftest", "", "traps, atomics, new code, timer, paging", self_test},
    {0},
};
