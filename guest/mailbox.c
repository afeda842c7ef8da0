// The driver of the project's example of a device that is not virtio (devproc/mailbox.py): a FIFO of 32-bit words.
//
// Its interrupt is a level: it stays until the FIFO is empty or CONTROL is 0. Every register access goes to another
// process and back; reading DATA takes a word out, so it must happen exactly once.
#include "drivers.h"

enum { DATA = 0x00, COUNT = 0x04, CONTROL = 0x08, SPACE = 0x0c };
enum { CONTROL_INTERRUPT = 1 };

#define TIMEOUT (10 * TIMER_HZ)

static uint64_t base;
static struct mailbox_result result;

static void serve(void *argument) {
  (void)argument;
  result.interrupts++;
  for (uint32_t count = mmio_read32(base + COUNT); count--;) {
    uint32_t word = mmio_read32(base + DATA);
    if (result.received < MAILBOX_MAX)
      result.words[result.received++] = word;
  }
}

bool mailbox_init(void) {
  const struct device *device = device_find("bulkhead,mailbox", 0);
  if (!device)
    return false;
  base = device->base;
  mmio_write32(base + CONTROL, 0);
  plic_enable(device->irq, serve, NULL);
  return true;
}

static bool all_received(void *argument) { return result.received >= *(uint32_t *)argument; }

const struct mailbox_result *mailbox_exchange(const uint32_t *words, uint32_t count) {
  result = (struct mailbox_result){0};
  result.space = mmio_read32(base + SPACE);
  for (uint32_t i = 0; i < count; i++)
    mmio_write32(base + DATA, words[i]);
  result.waiting = mmio_read32(base + COUNT);
  mmio_write32(base + CONTROL, CONTROL_INTERRUPT);
  uint32_t expected_words = MIN(count, result.space);
  wait_until(all_received, &expected_words, now() + TIMEOUT);
  mmio_write32(base + CONTROL, 0);
  return &result;
}
