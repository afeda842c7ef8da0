// Time: the `time` CSR counts at 10 MHz; the SBI's timer (extension TIME) interrupts once, at a deadline.
//
// There is no periodic tick: a guest that waits costs the host nothing.
#include "guest.h"

#define SBI_TIME 0x54494d45
#define NEVER (~0UL)

static void sbi_set_timer(uint64_t deadline) {
  register uint64_t a0 asm("a0") = deadline;
  register uint64_t a1 asm("a1");
  register uint64_t a6 asm("a6") = 0;
  register uint64_t a7 asm("a7") = SBI_TIME;
  asm volatile("ecall" : "+r"(a0), "=r"(a1) : "r"(a6), "r"(a7) : "memory");
  if (a0)
    panic("the SBI has no timer (error %ld)", (int64_t)a0);
}

static uint64_t armed = NEVER;  // when the next timer interrupt comes

uint64_t now(void) { return csr_read(time); }

static void arm(uint64_t deadline) {
  armed = deadline;
  sbi_set_timer(deadline);
}

void timer_init(void) { arm(NEVER); }

void timer_interrupt(void) { arm(NEVER); }  // which also takes the pending one back

// WFI ends when an interrupt is pending, whether or not it may be taken. So: off, look, wait, on. An interrupt that comes
// between the look and the wait is not lost, and its handler runs before the next look. A timer left armed for an earlier
// deadline is not set again: that wakes once too often, where setting it each time would cost each request a call.
bool wait_until(bool (*condition)(void *), void *argument, uint64_t deadline) {
  for (;;) {
    interrupts_off();
    bool met = condition(argument);
    if (met || now() >= deadline) {
      interrupts_on();
      return met;
    }
    if (deadline < armed)
      arm(deadline);
    asm volatile("wfi");
    interrupts_on();
  }
}

static bool never(void *argument) {
  (void)argument;
  return false;
}

void sleep_until(uint64_t deadline) { wait_until(never, NULL, deadline); }
