// The virtio entropy device's driver (virtio 1.2, section 5.4): one queue; every buffer comes back with random bytes.
#include "drivers.h"
#include "virtio.h"

#define TIMEOUT (10 * TIMER_HZ)

static struct virtio_device device;
static struct virtq queue;
static volatile bool done;
static uint32_t got;

static void serve(struct virtio_device *which) {
  (void)which;
  while (virtq_take(&queue, &got))
    done = true;
}

bool entropy_init(void) {
  const struct device *registers;
  device.interrupt = serve;
  for (int n = 0; (registers = device_find("virtio,mmio", n)); n++)
    if (virtio_start(&device, registers, VIRTIO_ID_ENTROPY, 0)) {
      virtio_queue(&device, &queue, 0, 8);
      virtio_ready(&device);
      return true;
    }
  device.base = 0;
  return false;
}

static bool is_done(void *argument) {
  (void)argument;
  return done;
}

uint32_t entropy_read(void *data, uint32_t size) {
  if (!device.base)
    return 0;
  struct segment segment = {data, size, true};
  done = false;
  interrupts_off();
  bool added = virtq_add(&queue, &segment, 1, &queue);
  virtq_notify(&queue);
  interrupts_on();
  return added && wait_until(is_done, NULL, now() + TIMEOUT) ? got : 0;
}
