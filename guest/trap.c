// Traps (privileged architecture, chapter 12 "Supervisor-Level ISA"): interrupts go to their drivers; an exception is
// either one that the code waits for, or the end.
#include "guest.h"

enum { INTERRUPT_TIMER = 5, INTERRUPT_EXTERNAL = 9 };

volatile struct expected expected;
uint64_t interrupt_counts[2];

static const char *const causes[] = {
    "instruction address misaligned", "instruction access fault", "illegal instruction", "breakpoint",
    "load address misaligned", "load access fault", "store address misaligned", "store access fault",
    "call from U-mode", "call from S-mode", "", "call from M-mode",
    "instruction page fault", "load page fault", "", "store page fault",
};

static const char *const names[] = {
    "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
};

static _Noreturn void unexpected(const struct trap_frame *frame, uint64_t cause) {
  print("\n");
  for (size_t i = 0; i < ARRAY_SIZE(names); i++)
    print("%4s %016lx%s", names[i], frame->x[i], i % 4 == 3 ? "\n" : " ");
  print("\n");
  const char *what = cause < ARRAY_SIZE(causes) && causes[cause][0] ? causes[cause] : "unknown cause";
  panic("%s (%lu) at pc %lx, address %lx", what, cause, frame->pc, csr_read(stval));
}

static void exception(struct trap_frame *frame, uint64_t cause) {
  if (!expected.armed)
    unexpected(frame, cause);
  expected.taken = true;
  expected.cause = cause;
  expected.address = csr_read(stval);
  frame->pc += (*(const uint16_t *)frame->pc & 3) == 3 ? 4 : 2;  // the length is in the lowest bits (chapter 1.5)
}

void trap(struct trap_frame *frame) {
  uint64_t cause = csr_read(scause);
  switch (cause) {
  case CAUSE_INTERRUPT | INTERRUPT_TIMER:
    interrupt_counts[0]++;
    timer_interrupt();
    break;
  case CAUSE_INTERRUPT | INTERRUPT_EXTERNAL:
    interrupt_counts[1]++;
    plic_interrupt();
    break;
  default:
    if (cause & CAUSE_INTERRUPT)
      panic("interrupt %lu, which was never enabled", cause & ~CAUSE_INTERRUPT);
    exception(frame, cause);
  }
}

void trap_init(void) {
  csr_write(sie, SIE_STIE | SIE_SEIE);
  interrupts_on();
}
