// The platform-level interrupt controller (RISC-V PLIC specification 1.0): one context, S-mode of the boot hart.
//
// Context 2h is M-mode of hart h, 2h+1 is S-mode, as on every machine with QEMU's "virt" map.
#include "guest.h"

#define MAX_IRQ 96

enum {
  PRIORITY = 0x000000,       // + 4·irq: 0 never interrupts
  ENABLE = 0x002000,         // + 0x80·context + bit irq
  THRESHOLD = 0x200000,      // + 0x1000·context: only priorities above it interrupt
  CLAIM = 0x200004,          // + 0x1000·context: read claims the highest pending irq, write completes it
};

static uint64_t base, context;
static struct { irq_handler handler; void *argument; } handlers[MAX_IRQ];

void plic_init(uint64_t hart) {
  const struct device *plic = device_find("riscv,plic0", 0);
  if (!plic)
    panic("the device tree has no PLIC");
  base = plic->base;
  context = 2 * hart + 1;
  for (uint32_t word = 0; word < MAX_IRQ / 32; word++)
    mmio_write32(base + ENABLE + 0x80 * context + 4 * word, 0);
  mmio_write32(base + THRESHOLD + 0x1000 * context, 0);
}

void plic_enable(uint32_t irq, irq_handler handler, void *argument) {
  if (irq == 0 || irq >= MAX_IRQ)
    panic("there is no interrupt %u", irq);
  handlers[irq].handler = handler;
  handlers[irq].argument = argument;
  mmio_write32(base + PRIORITY + 4 * irq, 1);
  uint64_t word = base + ENABLE + 0x80 * context + 4 * (irq / 32);
  mmio_write32(word, mmio_read32(word) | 1U << irq % 32);
}

void plic_interrupt(void) {
  uint64_t claim = base + CLAIM + 0x1000 * context;
  uint32_t irq;
  while ((irq = mmio_read32(claim)) != 0) {
    if (irq >= MAX_IRQ || !handlers[irq].handler)
      panic("interrupt %u, which was never enabled", irq);
    handlers[irq].handler(handlers[irq].argument);
    mmio_write32(claim, irq);
  }
}
