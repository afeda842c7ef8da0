// What every benchmark program offers: a name, and work that depends on nothing but itself and gives a checksum.
// The same source is built for the bare machine (runtime.c) and for the host (native.c).
#pragma once
#include <stddef.h>
#include <stdint.h>

extern const char program_name[];
uint64_t work(void);

#define NOINLINE __attribute__((noinline))

static inline uint64_t xorshift(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}
