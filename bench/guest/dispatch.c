// Branches: an interpreter of a made-up byte code, with a jump table, indirect calls, and conditions on random bits.
#include "bench.h"

const char program_name[] = "dispatch";

#define ROUNDS 20000000

typedef uint64_t (*function)(uint64_t, uint64_t);

static NOINLINE uint64_t add(uint64_t a, uint64_t b) { return a + b; }
static NOINLINE uint64_t mix(uint64_t a, uint64_t b) { return a ^ b << 3; }
static NOINLINE uint64_t subtract(uint64_t a, uint64_t b) { return a - b; }
static NOINLINE uint64_t spread(uint64_t a, uint64_t b) { return a >> 5 | b; }

static function volatile functions[] = {add, mix, subtract, spread};

static NOINLINE uint64_t step(uint64_t x, uint64_t a) {
  switch (x & 15) {
  case 0: return a + x;
  case 1: return a ^ x >> 3;
  case 2: return a - (x << 2);
  case 3: return a & 1 ? a * 3 : a >> 1;
  case 4: return a | x;
  case 5: return a & ~x;
  case 6: return a + (a << 5);
  case 7: return (int64_t)a < 0 ? -a : a;
  case 8: return a ^ a >> 17;
  case 9: return a + 0x9e3779b9;
  case 10: return x & 64 ? a + 7 : x & 128 ? a - 9 : a;
  case 11: return a << 7 | a >> 57;
  case 12: return x;
  case 13: return a - 3;
  case 14: return a ^ 0x5555;
  default: return a * 5 + 1;
  }
}

uint64_t work(void) {
  uint64_t state = 88172645463325252, a = 1;
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t x = xorshift(&state);
    a = step(x, a);
    if (x & 0x100)
      a += 3;
    if (x >> 9 & 1)
      a ^= 11;
    a = a & 2 ? a + (x & 0xff) : a - 5;
    a = functions[x >> 20 & 3](a, x);
  }
  return a;
}
