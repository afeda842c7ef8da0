// The network card's driver (virtio 1.2, section 5.1): frames as they are, through any of several queue pairs.
#include "drivers.h"
#include "virtio.h"

#define TIMEOUT (30 * TIMER_HZ)
#define BUFFERS 16  // posted in each receive queue
#define HEADER_SIZE 12

enum { FEATURE_MTU = 3, FEATURE_MAC = 5, FEATURE_STATUS = 16, FEATURE_CTRL_VQ = 17, FEATURE_MQ = 22 };  // 5.1.3
enum { CONFIG_MAC = 0, CONFIG_PAIRS = 8, LINK_UP = 1 };                                               // 5.1.4
enum { CTRL_MQ = 4, MQ_PAIRS_SET = 0, CTRL_OK = 0 };                                                  // 5.1.6.5

struct packet {
  uint8_t header[HEADER_SIZE];  // struct virtio_net_hdr: all 0, nothing is left to the device
  uint8_t frame[NET_FRAME_MAX];
};

static struct virtio_device device;
static struct virtq queues[2 * NET_PAIRS_MAX + 1];  // 5.1.2: receive 0, transmit 0, receive 1, … and then control
static struct packet posted[NET_PAIRS_MAX][BUFFERS], outgoing;
static struct net_state state;
static volatile bool sent, ordered;
static struct { uint8_t kind, command; uint16_t pairs; volatile uint8_t ack; } order;

void (*net_heard)(uint16_t pair, const uint8_t *frame, uint32_t size);

static bool has(int feature) { return device.features >> feature & 1; }
static struct virtq *receive(uint16_t pair) { return &queues[2 * pair]; }
static struct virtq *transmit(uint16_t pair) { return &queues[2 * pair + 1]; }
static struct virtq *control(void) { return &queues[2 * state.pairs]; }

static void post(uint16_t pair, struct packet *packet) {
  struct segment segment = {packet, sizeof *packet, true};
  virtq_add(receive(pair), &segment, 1, packet);
}

static void hear(uint16_t pair) {
  struct packet *packet;
  uint32_t size;
  bool any = false;
  for (; (packet = virtq_take(receive(pair), &size)); any = true) {
    state.received[pair]++;
    if (net_heard && size > HEADER_SIZE)
      net_heard(pair, packet->frame, size - HEADER_SIZE);
    post(pair, packet);
  }
  if (any)
    virtq_notify(receive(pair));
}

static void serve(struct virtio_device *which) {
  (void)which;
  for (uint16_t pair = 0; pair < state.pairs; pair++) {
    hear(pair);
    while (virtq_take(transmit(pair), NULL))
      sent = true;
  }
  while (has(FEATURE_CTRL_VQ) && virtq_take(control(), NULL))
    ordered = true;
}

static void read_configuration(void) {
  uint64_t start = virtio_config64(&device, CONFIG_MAC);
  for (int i = 0; i < 6; i++)
    state.mac[i] = start >> 8 * i;
  state.up = !has(FEATURE_STATUS) || (start >> 48 & LINK_UP);
  uint32_t counts = virtio_config32(&device, CONFIG_PAIRS);
  state.mtu = has(FEATURE_MTU) ? counts >> 16 : 1500;
  state.pairs = has(FEATURE_MQ) ? MIN(counts & 0xffff, NET_PAIRS_MAX) : 1;
}

bool net_init(void) {
  const struct device *registers;
  uint64_t wanted = 1UL << FEATURE_MTU | 1UL << FEATURE_MAC | 1UL << FEATURE_STATUS | 1UL << FEATURE_CTRL_VQ | 1UL << FEATURE_MQ;
  device.interrupt = serve;
  for (int n = 0; (registers = device_find("virtio,mmio", n)); n++) {
    if (!virtio_start(&device, registers, VIRTIO_ID_NET, wanted))
      continue;
    read_configuration();
    state.used = 1;
    for (int i = 0; i < 2 * state.pairs + has(FEATURE_CTRL_VQ); i++)
      virtio_queue(&device, &queues[i], i, 64);
    virtio_ready(&device);
    interrupts_off();
    for (uint16_t pair = 0; pair < state.pairs; pair++) {
      for (int i = 0; i < BUFFERS; i++)
        post(pair, &posted[pair][i]);
      virtq_notify(receive(pair));
    }
    interrupts_on();
    return true;
  }
  device.base = 0;
  return false;
}

const struct net_state *net_state(void) {
  if (!device.base)
    return NULL;
  uint16_t pairs = state.pairs;
  read_configuration();
  state.pairs = pairs;
  return &state;
}

static bool is_set(void *flag) { return *(volatile bool *)flag; }

static bool put(struct virtq *queue, const struct segment *segments, int count, volatile bool *done) {
  *done = false;
  interrupts_off();
  bool added = virtq_add(queue, segments, count, queue);
  virtq_notify(queue);
  interrupts_on();
  return added && wait_until(is_set, (void *)done, now() + TIMEOUT);
}

bool net_use_pairs(uint16_t pairs) {
  if (!device.base || !has(FEATURE_MQ) || pairs == 0 || pairs > state.pairs)
    return false;
  order.kind = CTRL_MQ;
  order.command = MQ_PAIRS_SET;
  order.pairs = pairs;
  order.ack = 0xff;
  struct segment segments[] = {{&order.kind, 2, false}, {&order.pairs, 2, false}, {(void *)&order.ack, 1, true}};
  if (!put(control(), segments, 3, &ordered) || order.ack != CTRL_OK)
    return false;
  state.used = pairs;
  return true;
}

bool net_send(uint16_t pair, const void *frame, uint32_t size) {
  if (!device.base || pair >= state.used || size > NET_FRAME_MAX)
    return false;
  memcpy(outgoing.frame, frame, size);
  struct segment segment = {&outgoing, HEADER_SIZE + size, false};
  if (!put(transmit(pair), &segment, 1, &sent))
    return false;
  state.sent[pair]++;
  return true;
}
