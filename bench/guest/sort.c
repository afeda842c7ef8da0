// Arrays: a sieve of primes, and quicksort of random numbers: loads, stores and branches that are hard to guess.
#include "bench.h"

const char program_name[] = "sort";

#define ROUNDS 50
#define LIMIT 300000
#define COUNT 40000

static uint8_t is_prime[LIMIT];
static uint32_t numbers[COUNT];

static NOINLINE uint64_t sieve(void) {
  for (uint32_t i = 0; i < LIMIT; i++)
    is_prime[i] = i >= 2;
  for (uint32_t i = 2; i * i < LIMIT; i++)
    if (is_prime[i])
      for (uint32_t multiple = i * i; multiple < LIMIT; multiple += i)
        is_prime[multiple] = 0;
  uint64_t count = 0;
  for (uint32_t i = 0; i < LIMIT; i++)
    count += is_prime[i];
  return count;
}

static NOINLINE void quicksort(uint32_t *a, long low, long high) {
  while (low < high) {
    uint32_t pivot = a[(low + high) >> 1];
    long i = low, j = high;
    while (i <= j) {
      while (a[i] < pivot)
        i++;
      while (a[j] > pivot)
        j--;
      if (i <= j) {
        uint32_t swapped = a[i];
        a[i++] = a[j];
        a[j--] = swapped;
      }
    }
    if (j - low < high - i) {  // the smaller half by recursion
      quicksort(a, low, j);
      low = i;
    } else {
      quicksort(a, i, high);
      high = j;
    }
  }
}

uint64_t work(void) {
  uint64_t result = 0, state = 88172645463325252;
  for (int round = 0; round < ROUNDS; round++) {
    result = result * 7 + sieve();
    for (int i = 0; i < COUNT; i++)
      numbers[i] = xorshift(&state) >> 32;
    quicksort(numbers, 0, COUNT - 1);
    result = result * 7 + numbers[round * 700 % COUNT];
  }
  return result;
}
