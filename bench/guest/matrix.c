// Floating point: products of matrices of doubles, and roots and quotients of what is in them. No fused operations, so
// that the host's result is the same, bit for bit.
#include "bench.h"

const char program_name[] = "matrix";

#define ROUNDS 120
#define SIDE 96

static double a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];

static NOINLINE void multiply(void) {
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      double sum = 0;
      for (int k = 0; k < SIDE; k++)
        sum += a[i][k] * b[k][j];
      c[i][j] = sum;
    }
}

static NOINLINE void scale(void) {
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      double x = __builtin_sqrt(c[i][j] * c[i][j] + 1.0);
      a[i][j] = c[i][j] / x + b[j][i] * 0.25;
    }
}

uint64_t work(void) {
  uint64_t random = 88172645463325252;
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      a[i][j] = (double)(int64_t)xorshift(&random) * 0x1p-63;
      b[i][j] = (double)(int64_t)xorshift(&random) * 0x1p-63;
    }
  for (int round = 0; round < ROUNDS; round++) {
    multiply();
    scale();
  }
  union { double value; uint64_t bits; } result = {0};
  for (int i = 0; i < SIDE; i++)
    result.value += a[i][i];
  return result.bits;
}
