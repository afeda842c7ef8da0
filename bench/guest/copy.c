// Memory: copies by words and by bytes (aligned differently, so byte loads and stores), and fills.
#include "bench.h"

const char program_name[] = "copy";

#define ROUNDS 6000
#define SIZE 65536

static _Alignas(64) uint8_t from[SIZE + 64], to[2 * SIZE + 64];

static NOINLINE void copy_words(uint64_t *d, const uint64_t *s, size_t n) {
  for (; n >= 4; n -= 4, d += 4, s += 4) {
    uint64_t a = s[0], b = s[1], c = s[2], e = s[3];
    d[0] = a, d[1] = b, d[2] = c, d[3] = e;
  }
  while (n--)
    *d++ = *s++;
}

static NOINLINE void copy_bytes(uint8_t *d, const uint8_t *s, size_t n) {
  while (n--)
    *d++ = *s++;
}

static NOINLINE void fill_words(uint64_t *d, uint64_t value, size_t n) {
  while (n--)
    *d++ = value;
}

uint64_t work(void) {
  uint64_t result = 0;
  for (int i = 0; i < SIZE; i++)
    from[i] = i * 7;
  for (uint64_t round = 0; round < ROUNDS; round++) {
    copy_words((uint64_t *)to, (const uint64_t *)from, SIZE / 8);
    copy_bytes(to + 1, from + 3, SIZE / 4);
    fill_words((uint64_t *)(to + SIZE), round, SIZE / 8);
    result = result * 5 + ((uint64_t *)to)[round % (SIZE / 8)] + to[SIZE + round % SIZE];
    from[round % SIZE] ^= round;
  }
  return result;
}
