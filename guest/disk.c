// The virtio block device's driver (virtio 1.2, section 5.2): one queue, requests answered in any order.
#include "drivers.h"
#include "virtio.h"

enum {  // feature bits, 5.2.3
  F_RO = 1 << 5,
  F_FLUSH = 1 << 9,
  F_DISCARD = 1 << 13,
  F_WRITE_ZEROES = 1 << 14,
};

enum { CONFIG_CAPACITY = 0 };  // 5.2.4: in sectors of 512 bytes, whatever the block size

#define ID_SIZE 20

struct disk {
  struct virtio_device device;
  struct virtq queue;
  uint64_t sectors;
  bool lost;  // a request never came back: what it used must not be used again
};

static struct disk disks[MAX_DISKS];
int disk_count;

static void serve(struct virtio_device *device) {
  struct disk *disk = (struct disk *)device;
  struct disk_request *request;
  while ((request = virtq_take(&disk->queue, NULL)))
    request->done = true;
}

void disks_init(void) {
  const struct device *registers;
  for (int n = 0; disk_count < MAX_DISKS && (registers = device_find("virtio,mmio", n)); n++) {
    struct disk *disk = &disks[disk_count];
    uint64_t wanted = F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
    disk->device.interrupt = serve;
    if (!virtio_start(&disk->device, registers, VIRTIO_ID_BLOCK, wanted))
      continue;
    virtio_queue(&disk->device, &disk->queue, 0, 128);
    virtio_ready(&disk->device);
    disk->sectors = virtio_config64(&disk->device, CONFIG_CAPACITY);
    disk_count++;
  }
}

uint64_t disk_sectors(int disk) { return disks[disk].sectors; }

struct disk_features disk_features(int disk) {
  uint64_t features = disks[disk].device.features;
  return (struct disk_features){
      .flush = features & F_FLUSH,
      .discard = features & F_DISCARD,
      .write_zeroes = features & F_WRITE_ZEROES,
      .read_only = features & F_RO,
  };
}

void disk_statistics(int disk, uint64_t *notifications, uint64_t *interrupts) {
  *notifications = disks[disk].device.notifications;
  *interrupts = disks[disk].device.interrupts;
}

bool disk_submit(int disk, struct disk_request *request, enum disk_operation operation, uint64_t sector) {
  request->header.type = operation;
  request->header.reserved = 0;
  request->header.sector = sector;
  request->status = 0xff;
  request->done = false;
  struct segment segments[3] = {{&request->header, sizeof request->header, false}};
  int count = 1;
  switch (operation) {
  case DISK_READ:
  case DISK_GET_ID:
    segments[count++] = (struct segment){request->data, request->size, true};
    break;
  case DISK_WRITE:
    segments[count++] = (struct segment){request->data, request->size, false};
    break;
  case DISK_DISCARD:
  case DISK_ZERO:
    request->header.sector = 0;
    request->range.sector = sector;
    request->range.sectors = request->size / SECTOR;
    request->range.flags = 0;
    segments[count++] = (struct segment){&request->range, sizeof request->range, false};
    break;
  case DISK_FLUSH:
    break;
  }
  segments[count++] = (struct segment){(void *)&request->status, 1, true};
  interrupts_off();
  bool added = virtq_add(&disks[disk].queue, segments, count, request);
  interrupts_on();
  return added;
}

void disk_notify(int disk) {
  interrupts_off();
  virtq_notify(&disks[disk].queue);
  interrupts_on();
}

static bool is_done(void *argument) { return ((struct disk_request *)argument)->done; }

bool disk_wait(struct disk_request *request) { return wait_until(is_done, request, now() + DISK_TIMEOUT); }

int disk_do(int disk, enum disk_operation operation, uint64_t sector, void *data, uint32_t size) {
  static struct disk_request request;  // not on the stack: a device that answers too late writes into it
  if (disks[disk].lost)
    return -1;
  request.data = data;
  request.size = operation == DISK_GET_ID ? ID_SIZE : size;
  if (!disk_submit(disk, &request, operation, sector))
    panic("disk %d has no room for a single request", disk);
  disk_notify(disk);
  disks[disk].lost = !disk_wait(&request);
  return disks[disk].lost ? -1 : request.status;
}
