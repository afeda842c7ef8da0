// The devices as commands use them.
#pragma once
#include "guest.h"

#define SECTOR 512UL
#define MAX_DISKS 4
#define DISK_TIMEOUT (60 * TIMER_HZ)

struct disk_features {
  bool flush, discard, write_zeroes, read_only;
};

struct disk_request {
  struct { uint32_t type, reserved; uint64_t sector; } header;  // virtio 1.2, 5.2.6: what the device reads
  struct { uint64_t sector; uint32_t sectors, flags; } range;   // … for discard and write zeroes
  volatile uint8_t status;                                      // what it writes: 0 OK, 1 IOERR, 2 UNSUPP
  volatile bool done;
  void *data;
  uint32_t size;                                                // bytes
};

enum disk_operation { DISK_READ = 0, DISK_WRITE = 1, DISK_FLUSH = 4, DISK_GET_ID = 8, DISK_DISCARD = 11, DISK_ZERO = 13 };

extern int disk_count;

void disks_init(void);
uint64_t disk_sectors(int disk);
struct disk_features disk_features(int disk);
void disk_statistics(int disk, uint64_t *notifications, uint64_t *interrupts);

// Start a request; it is done when its `done` says so, which an interrupt does. False: the queue is full.
// Reads, writes and get-id use data and size; discard and zero use size alone; flush neither.
bool disk_submit(int disk, struct disk_request *request, enum disk_operation operation, uint64_t sector);
void disk_notify(int disk);  // after one or more disk_submit
bool disk_wait(struct disk_request *request);  // false: nothing came before DISK_TIMEOUT
// All of that for one request; 0 or the device's status, or -1 when it does not answer.
int disk_do(int disk, enum disk_operation operation, uint64_t sector, void *data, uint32_t size);

bool entropy_init(void);  // false: no such device
uint32_t entropy_read(void *data, uint32_t size);  // bytes got; 0: none before the deadline

#define NET_PAIRS_MAX 7
#define NET_FRAME_MAX 1514  // bytes, without a checksum

struct net_state {
  uint8_t mac[6];
  uint16_t mtu;
  bool up;
  uint16_t pairs, used;                                         // that the card has, and that are in use
  uint64_t sent[NET_PAIRS_MAX], received[NET_PAIRS_MAX];        // frames
};

bool net_init(void);                       // false: no such device
const struct net_state *net_state(void);   // NULL: no such device
bool net_use_pairs(uint16_t pairs);        // by the control queue; false: the card has not so many, or said no
bool net_send(uint16_t pair, const void *frame, uint32_t size);  // false: not taken before the deadline
extern void (*net_heard)(uint16_t pair, const uint8_t *frame, uint32_t size);  // called in an interrupt

#define MAILBOX_MAX 16

struct mailbox_result {
  uint32_t space;       // words that fitted before
  uint32_t waiting;     // words in the mailbox before it was emptied
  uint32_t received;    // words that came back, and what they were
  uint32_t words[MAILBOX_MAX];
  uint32_t interrupts;  // that it took
};

bool mailbox_init(void);  // false: no such device
// Put words in, and let interrupts take them out again.
const struct mailbox_result *mailbox_exchange(const uint32_t *words, uint32_t count);

// One request at a time to the v86fs device: begin, put its fields in order, call, get the response's.
enum v86fs_type {
  V86FS_MOUNT, V86FS_LOOKUP, V86FS_GETATTR, V86FS_READDIR, V86FS_OPEN, V86FS_CLOSE, V86FS_READ, V86FS_CREATE,
  V86FS_WRITE, V86FS_MKDIR, V86FS_SETATTR, V86FS_FSYNC, V86FS_UNLINK, V86FS_RENAME, V86FS_SYMLINK, V86FS_READLINK,
  V86FS_STATFS,
};

#define V86FS_NOTICE_MAX 600

struct v86fs_notice {  // what the device pushed
  uint32_t size;
  uint8_t message[V86FS_NOTICE_MAX];
};

bool v86fs_init(void);  // false: no such device
bool v86fs_there(void);
void v86fs_begin(enum v86fs_type type);
void v86fs_put32(uint32_t value);
void v86fs_put64(uint64_t value);
void v86fs_put_text(const char *text, size_t size);
// Send it, with data behind its fields (WRITE) or with room for what comes behind the response's (READ). The status of the
// response; below 0: there was none.
int v86fs_call(const void *data, uint32_t data_size, void *room, uint32_t room_size);
uint8_t v86fs_get8(void);
uint32_t v86fs_get32(void);
uint64_t v86fs_get64(void);
const char *v86fs_get_text(uint32_t *size);  // not zero-terminated, and there until the next request
bool v86fs_has_notice(void);
const struct v86fs_notice *v86fs_notice(void);  // the oldest that was not given yet, or NULL
