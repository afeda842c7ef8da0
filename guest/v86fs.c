// The v86fs device's driver (device type 63; docs/shares.md): requests one at a time, metadata on queue 0 and data on
// queue 1, and buffers on queue 2 that come back when the host has changed something.
#include "drivers.h"
#include "virtio.h"

#define TIMEOUT (120 * TIMER_HZ)  // a device that is started again answers what its predecessor was asked
#define HEADER_SIZE 7
#define MESSAGE_MAX (64UL << 10)
#define NOTICES 32

enum { HIPRI, REQUESTS, NOTIFY, QUEUES };

static struct virtio_device device;
static struct virtq queues[QUEUES];
static uint8_t request[1024], response[MESSAGE_MAX], posted[NOTICES][V86FS_NOTICE_MAX];
static uint32_t at, end;  // in the request while it is written, in the response while it is read
static uint16_t tag;
static volatile bool done;
static bool lost;  // a request never came back: what it used must not be used again
static volatile uint32_t heard, told;
static struct v86fs_notice notices[NOTICES];

static void hear(const uint8_t *message, uint32_t size) {
  struct v86fs_notice *notice = &notices[heard % NOTICES];
  notice->size = MIN(size, V86FS_NOTICE_MAX);
  memcpy(notice->message, message, notice->size);
  heard++;
}

static void post(uint8_t *buffer) {
  struct segment segment = {buffer, V86FS_NOTICE_MAX, true};
  virtq_add(&queues[NOTIFY], &segment, 1, buffer);
}

static void serve(struct virtio_device *which) {
  (void)which;
  uint8_t *buffer;
  uint32_t size;
  while (virtq_take(&queues[HIPRI], NULL) || virtq_take(&queues[REQUESTS], NULL))
    done = true;
  bool again = false;
  for (; (buffer = virtq_take(&queues[NOTIFY], &size)); again = true) {
    hear(buffer, size);
    post(buffer);
  }
  if (again)
    virtq_notify(&queues[NOTIFY]);
}

bool v86fs_init(void) {
  const struct device *registers;
  device.interrupt = serve;
  for (int n = 0; (registers = device_find("virtio,mmio", n)); n++) {
    if (!virtio_start(&device, registers, VIRTIO_ID_V86FS, 0))
      continue;
    for (int i = 0; i < QUEUES; i++)
      virtio_queue(&device, &queues[i], i, 128);
    virtio_ready(&device);
    interrupts_off();
    for (int i = 0; i < NOTICES; i++)
      post(posted[i]);
    virtq_notify(&queues[NOTIFY]);
    interrupts_on();
    return true;
  }
  device.base = 0;
  return false;
}

bool v86fs_there(void) { return device.base != 0; }

// Little-endian, and not aligned: byte by byte.
static void put(uint64_t value, uint32_t bytes) {
  for (; bytes--; value >>= 8)
    request[at++] = value;
}

static uint64_t get(uint32_t bytes) {
  uint64_t value = 0;
  for (uint32_t i = 0; i < bytes && at < end; i++)
    value |= (uint64_t)response[at++] << 8 * i;
  return value;
}

void v86fs_begin(enum v86fs_type type) {
  at = 4;
  put(type, 1);
  put(++tag, 2);
}

void v86fs_put32(uint32_t value) { put(value, 4); }
void v86fs_put64(uint64_t value) { put(value, 8); }

void v86fs_put_text(const char *text, size_t size) {
  size = MIN(size, sizeof request - 64 - at);
  put(size, 2);
  memcpy(request + at, text, size);
  at += size;
}

uint32_t v86fs_get32(void) { return get(4); }
uint64_t v86fs_get64(void) { return get(8); }
uint8_t v86fs_get8(void) { return get(1); }

const char *v86fs_get_text(uint32_t *size) {
  *size = get(2);
  *size = MIN(*size, end - at);
  const char *text = (const char *)response + at;
  at += *size;
  return text;
}

static bool is_done(void *argument) {
  (void)argument;
  return done;
}

int v86fs_call(const void *data, uint32_t data_size, void *room, uint32_t room_size) {
  if (!device.base || lost)
    return -1;
  uint32_t length = at + data_size;
  at = 0;
  put(length, 4);
  struct segment segments[4] = {{request, length - data_size, false}};
  int count = 1;
  if (data_size)
    segments[count++] = (struct segment){(void *)data, data_size, false};
  segments[count++] = (struct segment){response, room_size ? HEADER_SIZE + 8 : sizeof response, true};
  if (room_size)
    segments[count++] = (struct segment){room, room_size, true};
  struct virtq *queue = &queues[data_size || room_size ? REQUESTS : HIPRI];
  uint8_t type = request[4];
  memset(response, 0xee, HEADER_SIZE + 4);
  done = false;
  interrupts_off();
  virtq_add(queue, segments, count, queue);
  virtq_notify(queue);
  interrupts_on();
  if (!wait_until(is_done, NULL, now() + TIMEOUT)) {
    lost = true;
    return -1;
  }
  at = 0;
  end = HEADER_SIZE;
  uint32_t size = get(4);
  uint8_t answered = get(1);
  if (answered != (type | 0x80) || get(2) != tag || size < HEADER_SIZE + 4)
    return -2;
  end = MIN(size, room_size ? HEADER_SIZE + 8 : sizeof response);
  return get(4);
}

bool v86fs_has_notice(void) { return told != heard; }

const struct v86fs_notice *v86fs_notice(void) {
  static struct v86fs_notice notice;
  interrupts_off();
  if (heard - told > NOTICES)
    told = heard - NOTICES;  // the oldest were overwritten
  bool there = told != heard;
  if (there)
    notice = notices[told++ % NOTICES];
  interrupts_on();
  return there ? &notice : NULL;
}
