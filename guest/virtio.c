// virtio over MMIO, version 2 (virtio 1.2, section 4.2), and the split virtqueue (section 2.7), driver's side.
#include "virtio.h"

enum {  // 4.2.2, table 4.1
  MAGIC_VALUE = 0x000,
  VERSION = 0x004,
  DEVICE_ID = 0x008,
  DEVICE_FEATURES = 0x010,
  DEVICE_FEATURES_SEL = 0x014,
  DRIVER_FEATURES = 0x020,
  DRIVER_FEATURES_SEL = 0x024,
  QUEUE_SEL = 0x030,
  QUEUE_NUM_MAX = 0x034,
  QUEUE_NUM = 0x038,
  QUEUE_READY = 0x044,
  QUEUE_NOTIFY = 0x050,
  INTERRUPT_STATUS = 0x060,
  INTERRUPT_ACK = 0x064,
  STATUS = 0x070,
  QUEUE_DESC = 0x080,    // each of the three in two halves
  QUEUE_DRIVER = 0x090,
  QUEUE_DEVICE = 0x0a0,
  CONFIG_GENERATION = 0x0fc,
  CONFIG = 0x100,
};

#define MAGIC 0x74726976  // "virt"

enum {  // 2.1
  STATUS_ACKNOWLEDGE = 1,
  STATUS_DRIVER = 2,
  STATUS_DRIVER_OK = 4,
  STATUS_FEATURES_OK = 8,
};

uint64_t virtio_features = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;

static uint32_t read_register(struct virtio_device *device, uint32_t offset) {
  return mmio_read32(device->base + offset);
}

static void write_register(struct virtio_device *device, uint32_t offset, uint32_t value) {
  mmio_write32(device->base + offset, value);
}

static void add_status(struct virtio_device *device, uint32_t bits) {
  write_register(device, STATUS, read_register(device, STATUS) | bits);
}

static void serve_interrupt(void *argument) {
  struct virtio_device *device = argument;
  device->interrupts++;
  write_register(device, INTERRUPT_ACK, read_register(device, INTERRUPT_STATUS));
  fence();
  device->interrupt(device);
}

bool virtio_start(struct virtio_device *device, const struct device *registers, uint32_t id, uint64_t wanted) {
  device->base = registers->base;
  device->irq = registers->irq;
  if (read_register(device, MAGIC_VALUE) != MAGIC || read_register(device, VERSION) != 2 ||
      read_register(device, DEVICE_ID) != id)
    return false;
  write_register(device, STATUS, 0);  // 3.1.1 step 1
  add_status(device, STATUS_ACKNOWLEDGE);
  add_status(device, STATUS_DRIVER);
  uint64_t offered = 0;
  for (uint32_t half = 0; half < 2; half++) {  // step 4
    write_register(device, DEVICE_FEATURES_SEL, half);
    offered |= (uint64_t)read_register(device, DEVICE_FEATURES) << 32 * half;
  }
  device->features = offered & (wanted | virtio_features | VIRTIO_F_VERSION_1);
  for (uint32_t half = 0; half < 2; half++) {
    write_register(device, DRIVER_FEATURES_SEL, half);
    write_register(device, DRIVER_FEATURES, device->features >> 32 * half);
  }
  add_status(device, STATUS_FEATURES_OK);                         // step 5
  return read_register(device, STATUS) & STATUS_FEATURES_OK;  // step 6
}

static void write_address(struct virtio_device *device, uint32_t offset, const volatile void *address) {
  write_register(device, offset, (uint64_t)address);
  write_register(device, offset + 4, (uint64_t)address >> 32);
}

void virtio_queue(struct virtio_device *device, struct virtq *queue, uint16_t index, uint16_t size) {
  memset(queue, 0, sizeof *queue);
  queue->device = device;
  queue->index = index;
  write_register(device, QUEUE_SEL, index);  // 4.2.3.2
  queue->size = MIN(size, MIN(QUEUE_MAX, read_register(device, QUEUE_NUM_MAX)));
  if (queue->size == 0)
    panic("virtio device at %lx has no queue %u", device->base, index);
  queue->free_count = queue->size;
  for (uint16_t i = 0; i < queue->size; i++)
    queue->desc[i].next = i + 1;
  write_register(device, QUEUE_NUM, queue->size);
  write_address(device, QUEUE_DESC, queue->desc);
  write_address(device, QUEUE_DRIVER, &queue->avail);
  write_address(device, QUEUE_DEVICE, &queue->used);
  write_register(device, QUEUE_READY, 1);
}

void virtio_ready(struct virtio_device *device) {
  plic_enable(device->irq, serve_interrupt, device);
  add_status(device, STATUS_DRIVER_OK);  // step 8
}

uint32_t virtio_config32(struct virtio_device *device, uint32_t offset) {
  return read_register(device, CONFIG + offset);
}

uint64_t virtio_config64(struct virtio_device *device, uint32_t offset) {
  uint32_t before, low, high;
  do {  // 2.5.1: both halves of one generation
    before = read_register(device, CONFIG_GENERATION);
    low = read_register(device, CONFIG + offset);
    high = read_register(device, CONFIG + offset + 4);
  } while (read_register(device, CONFIG_GENERATION) != before);
  return (uint64_t)high << 32 | low;
}

// The queue ---------------------------------------------------------------------------------------

static volatile uint16_t *used_event(struct virtq *queue) { return &queue->avail.ring[queue->size]; }
static volatile uint16_t *avail_event(struct virtq *queue) { return (uint16_t *)&queue->used.ring[queue->size]; }

static void describe(struct virtq_desc *desc, const struct segment *segment, bool last, uint16_t next) {
  desc->addr = (uint64_t)segment->data;
  desc->len = segment->size;
  desc->flags = (segment->writable ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT);
  desc->next = next;
}

bool virtq_add(struct virtq *queue, const struct segment *segments, int count, void *token) {
  bool indirect = queue->device->features & VIRTIO_F_INDIRECT_DESC;
  if (queue->free_count < (indirect ? 1 : count))
    return false;
  uint16_t head = queue->free_head;
  if (indirect) {  // 2.7.5.3: the chain is in a table of its own, the queue has one descriptor for it
    struct virtq_desc *table = queue->indirect[head];
    for (int i = 0; i < count; i++)
      describe(&table[i], &segments[i], i == count - 1, i + 1);
    queue->free_head = queue->desc[head].next;
    queue->free_count--;
    queue->desc[head].addr = (uint64_t)table;
    queue->desc[head].len = count * sizeof *table;
    queue->desc[head].flags = VIRTQ_DESC_F_INDIRECT;
  } else {
    uint16_t at = head;
    for (int i = 0; i < count; i++) {
      uint16_t next = queue->desc[at].next;
      describe(&queue->desc[at], &segments[i], i == count - 1, next);
      at = next;
    }
    queue->free_head = at;
    queue->free_count -= count;
  }
  queue->token[head] = token;
  queue->avail.ring[queue->avail.idx % queue->size] = head;  // 2.7.13.1 steps 2 to 5
  fence();
  *(volatile uint16_t *)&queue->avail.idx = queue->avail.idx + 1;
  return true;
}

void virtq_notify(struct virtq *queue) {
  fence();  // 2.7.13.4: avail.idx is visible before the device is asked whether it sleeps
  uint16_t idx = queue->avail.idx, old = queue->notified;
  queue->notified = idx;
  if (queue->device->features & VIRTIO_F_EVENT_IDX) {
    uint16_t event = *avail_event(queue);
    if ((uint16_t)(idx - event - 1) >= (uint16_t)(idx - old))  // 2.7.10: not passed
      return;
  } else if (*(volatile uint16_t *)&queue->used.flags & 1)
    return;
  queue->device->notifications++;
  write_register(queue->device, QUEUE_NOTIFY, queue->index);
}

static void give_back(struct virtq *queue, uint16_t head) {
  uint16_t last = head, count = 1;
  if (!(queue->desc[head].flags & VIRTQ_DESC_F_INDIRECT))
    for (; queue->desc[last].flags & VIRTQ_DESC_F_NEXT; count++)
      last = queue->desc[last].next;
  queue->desc[last].next = queue->free_head;
  queue->free_head = head;
  queue->free_count += count;
}

void *virtq_take(struct virtq *queue, uint32_t *written) {
  const volatile struct virtq_used *used = &queue->used;
  if (used->idx == queue->last_used) {
    *used_event(queue) = queue->last_used;  // 2.7.7: interrupt at the next one …
    fence();
    if (used->idx == queue->last_used)      // … unless it came just before that was written
      return NULL;
  }
  fence();
  uint32_t head = used->ring[queue->last_used % queue->size].id;
  if (head >= queue->size || !queue->token[head])
    panic("the device at %lx returned head %u, which it did not have", queue->device->base, head);
  if (written)
    *written = used->ring[queue->last_used % queue->size].len;
  queue->last_used++;
  void *token = queue->token[head];
  queue->token[head] = NULL;
  give_back(queue, head);
  return token;
}
