// Runs the work on the bare machine and prints one line on the UART:
//   NAME checksum=HEX microseconds=N instructions=N
// then ends the machine through the finisher. (QEMU's instret counts something else; bench/ takes Bulkhead's.)
#include "bench.h"

#define UART ((volatile uint8_t *)0x10000000)
#define FINISHER ((volatile uint32_t *)0x100000)
#define TICKS_PER_MICROSECOND 10

#define csr_read(csr) ({ uint64_t v_; asm volatile("csrr %0, " #csr : "=r"(v_)::"memory"); v_; })

enum { LSR = 5, LSR_TX_EMPTY = 0x20 };

void *memcpy(void *to, const void *from, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}

void *memset(void *to, int byte, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((volatile uint8_t *)to)[i] = (uint8_t)byte;
  return to;
}

static void put(const char *s) {
  for (; *s; s++) {
    while (!(UART[LSR] & LSR_TX_EMPTY))
      ;
    UART[0] = *s;
  }
}

static void put_number(const char *what, uint64_t n, uint64_t base) {
  char text[24];
  int at = sizeof text - 1;
  text[at] = 0;
  do
    text[--at] = "0123456789abcdef"[n % base];
  while (n /= base);
  put(what);
  put(text + at);
}

void main(void) {
  uint64_t time = csr_read(time), instructions = csr_read(minstret);
  uint64_t checksum = work();
  instructions = csr_read(minstret) - instructions;
  time = csr_read(time) - time;
  put(program_name);
  put_number(" checksum=", checksum, 16);
  put_number(" microseconds=", time / TICKS_PER_MICROSECOND, 10);
  put_number(" instructions=", instructions, 10);
  put("\r\n");
  *FINISHER = 0x5555;
}
