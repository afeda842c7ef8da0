// Runs the same work on the host: the line of runtime.c, without instructions.
#include <stdio.h>
#include <time.h>

#include "bench.h"

int main(void) {
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  uint64_t checksum = work();
  clock_gettime(CLOCK_MONOTONIC, &end);
  long microseconds = (end.tv_sec - start.tv_sec) * 1000000 + (end.tv_nsec - start.tv_nsec) / 1000;
  printf("%s checksum=%lx microseconds=%ld\n", program_name, (unsigned long)checksum, microseconds);
  return 0;
}
