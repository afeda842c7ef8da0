// What a virtio driver needs: the transport's steps and a split virtqueue (virtio 1.2, sections 2.7 and 4.2).
#pragma once
#include "guest.h"

#define VIRTIO_F_INDIRECT_DESC (1UL << 28)
#define VIRTIO_F_EVENT_IDX (1UL << 29)
#define VIRTIO_F_VERSION_1 (1UL << 32)

enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_ENTROPY = 4, VIRTIO_ID_V86FS = 63 };

#define QUEUE_MAX 256
#define CHAIN_MAX 4  // descriptors in one request of ours

struct virtq_desc {  // 2.7.5
  uint64_t addr;     // guest-physical
  uint32_t len;
  uint16_t flags;
  uint16_t next;     // if flags say so
};
enum { VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2, VIRTQ_DESC_F_INDIRECT = 4 };

struct virtq_avail {           // 2.7.6: written by us
  uint16_t flags;              // 0: interrupts wanted; not looked at with EVENT_IDX
  uint16_t idx;                // where the next entry will go, counted without end
  uint16_t ring[QUEUE_MAX];    // heads of chains
  // followed, at ring[size], by used_event: interrupt when used.idx passes it
};

struct virtq_used_elem {
  uint32_t id;   // the head of the chain
  uint32_t len;  // bytes the device wrote into it
};

struct virtq_used {                          // 2.7.8: written by the device
  uint16_t flags;                            // 1: need not be notified; not looked at with EVENT_IDX
  uint16_t idx;                              // where the next entry will go, counted without end
  struct virtq_used_elem ring[QUEUE_MAX];
  // followed, at ring[size], by avail_event: notify when avail.idx passes it
};

struct virtq {
  _Alignas(16) struct virtq_desc desc[QUEUE_MAX];
  _Alignas(2) struct virtq_avail avail;
  uint16_t used_event_room;  // when size is QUEUE_MAX
  _Alignas(4) struct virtq_used used;
  uint16_t avail_event_room;  // likewise
  _Alignas(16) struct virtq_desc indirect[QUEUE_MAX][CHAIN_MAX];  // one table for each head
  void *token[QUEUE_MAX];    // what the caller wants back with each head
  uint16_t free_head;        // the free descriptors are chained by next
  uint16_t free_count;
  uint16_t last_used;        // used entries taken, ever
  uint16_t notified;         // avail.idx at the last notification
  uint16_t size, index;
  struct virtio_device *device;
};

struct segment {    // a piece of memory in a request
  void *data;
  uint32_t size;
  bool writable;    // by the device
};

struct virtio_device {
  uint64_t base;                               // of its registers
  uint32_t irq;
  uint64_t features;                           // negotiated
  void (*interrupt)(struct virtio_device *);   // queues have used entries, or the configuration changed
  uint64_t notifications, interrupts;          // counted
};

// The steps of section 3.1.1, in their order; between start and ready come the queues. `wanted` is a mask.
bool virtio_start(struct virtio_device *device, const struct device *registers, uint32_t id, uint64_t wanted);
void virtio_queue(struct virtio_device *device, struct virtq *queue, uint16_t index, uint16_t size);
void virtio_ready(struct virtio_device *device);
uint64_t virtio_config64(struct virtio_device *device, uint32_t offset);
uint32_t virtio_config32(struct virtio_device *device, uint32_t offset);

// Put a chain on the queue; the device learns of it from virtq_notify. False: no room until something comes back.
bool virtq_add(struct virtq *queue, const struct segment *segments, int count, void *token);
void virtq_notify(struct virtq *queue);
// The next used chain's token, or NULL: then an interrupt will say when there is another.
void *virtq_take(struct virtq *queue, uint32_t *written);

extern uint64_t virtio_features;  // which ring features may be negotiated: changed before the drivers start
