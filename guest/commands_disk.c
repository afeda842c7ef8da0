// Commands for disks: sectors by hand, write-and-verify, and how fast a disk is.
#include "drivers.h"
#include "guest.h"

#define CHUNK (64UL << 10)  // bytes in one request of fill and check
#define DEPTH_MAX 64

static int current;  // the disk that commands without a number mean
static _Alignas(4096) uint8_t buffer[DEPTH_MAX * 4096], expected_data[CHUNK];

static bool have_disk(void) {
  if (disk_count == 0)
    print("there is no disk\n");
  return disk_count > 0;
}

static int report(const char *what, uint64_t sector, int status) {
  static const char *const meanings[] = {"OK", "I/O error", "not supported by the device"};
  if (status)
    print("disk %d: %s at sector %lu: %s\n", current, what, sector,
          status < 0 ? "no answer" : status < 3 ? meanings[status] : "unknown status");
  return status != 0;
}

static int select_disk(int argc, char **argv) {
  uint64_t number;
  if (!have_disk() || !argument_number(argc, argv, 1, current, &number))
    return 1;
  if (number >= (uint64_t)disk_count) {
    print("disk: there are %d\n", disk_count);
    return 1;
  }
  current = number;
  for (int i = 0; i < disk_count; i++) {
    struct disk_features features = disk_features(i);
    print("%c disk %d: %lu sectors (%lu MiB)%s%s%s%s\n", i == current ? '*' : ' ', i, disk_sectors(i),
          disk_sectors(i) >> 11, features.read_only ? " read-only" : "", features.flush ? " flush" : "",
          features.discard ? " discard" : "", features.write_zeroes ? " write-zeroes" : "");
  }
  return 0;
}

static int read_sectors(int argc, char **argv) {
  uint64_t sector, count;
  if (argc < 2 || !argument_number(argc, argv, 1, 0, &sector) || !argument_number(argc, argv, 2, 1, &count))
    return usage("read");
  if (!have_disk())
    return 1;
  for (; count; count--, sector++) {
    if (report("read", sector, disk_do(current, DISK_READ, sector, buffer, SECTOR)))
      return 1;
    hexdump(buffer, SECTOR, sector * SECTOR);
  }
  return 0;
}

static int write_sector(int argc, char **argv) {
  uint64_t sector;
  if (argc < 3 || !argument_number(argc, argv, 1, 0, &sector))
    return usage("write");
  if (!have_disk())
    return 1;
  memset(buffer, 0, SECTOR);
  memcpy(buffer, argv[2], MIN(strlen(argv[2]), SECTOR));
  return report("write", sector, disk_do(current, DISK_WRITE, sector, buffer, SECTOR));
}

static int get_id(int argc, char **argv) {
  (void)argc, (void)argv;
  memset(buffer, 0, 32);
  if (!have_disk() || report("get-id", 0, disk_do(current, DISK_GET_ID, 0, buffer, 0)))
    return 1;
  print("%s\n", (const char *)buffer);
  return 0;
}

static int flush(int argc, char **argv) {
  (void)argc, (void)argv;
  return !have_disk() || report("flush", 0, disk_do(current, DISK_FLUSH, 0, NULL, 0));
}

static int range_command(int argc, char **argv, enum disk_operation operation) {
  uint64_t sector, count;
  if (argc < 3 || !argument_number(argc, argv, 1, 0, &sector) || !argument_number(argc, argv, 2, 0, &count))
    return usage(argv[0]);
  return !have_disk() || report(argv[0], sector, disk_do(current, operation, sector, NULL, count * SECTOR));
}

static int discard(int argc, char **argv) { return range_command(argc, argv, DISK_DISCARD); }
static int zero(int argc, char **argv) { return range_command(argc, argv, DISK_ZERO); }

// Write and verify --------------------------------------------------------------------------------

// What fill writes at a place depends on the place and the seed, so data that went elsewhere is found out.
static void pattern(uint64_t *words, uint64_t offset, uint64_t seed) {
  for (uint64_t i = 0; i < CHUNK / 8; i++) {
    uint64_t x = (offset + 8 * i + seed * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
    words[i] = x ^ x >> 29;
  }
}

static bool range_arguments(int argc, char **argv, uint64_t *size, uint64_t *seed) {
  uint64_t mebibytes;
  if (!have_disk() || !argument_number(argc, argv, 1, 1, &mebibytes) || !argument_number(argc, argv, 2, 1, seed))
    return false;
  *size = MIN(mebibytes << 20, disk_sectors(current) * SECTOR / CHUNK * CHUNK);
  return true;
}

static void report_speed(const char *what, uint64_t size, uint64_t ticks, uint32_t crc) {
  print("%s %lu MiB in %lu ms, %lu MB/s, crc32 %08x\n", what, size >> 20, ticks / (TIMER_HZ / 1000),
        size * (TIMER_HZ / 1000000) / MAX(ticks, 1), crc);
}

static int fill(int argc, char **argv) {
  uint64_t size, seed, start = now();
  uint32_t crc = 0;
  if (!range_arguments(argc, argv, &size, &seed))
    return 1;
  for (uint64_t offset = 0; offset < size; offset += CHUNK) {
    pattern((uint64_t *)buffer, offset, seed);
    crc = crc32(crc, buffer, CHUNK);
    if (report("write", offset / SECTOR, disk_do(current, DISK_WRITE, offset / SECTOR, buffer, CHUNK)))
      return 1;
  }
  if (disk_features(current).flush && report("flush", 0, disk_do(current, DISK_FLUSH, 0, NULL, 0)))
    return 1;
  report_speed("filled", size, now() - start, crc);
  return 0;
}

static int check(int argc, char **argv) {
  uint64_t size, seed, start = now();
  uint32_t crc = 0;
  if (!range_arguments(argc, argv, &size, &seed))
    return 1;
  for (uint64_t offset = 0; offset < size; offset += CHUNK) {
    memset(buffer, 0xee, CHUNK);
    if (report("read", offset / SECTOR, disk_do(current, DISK_READ, offset / SECTOR, buffer, CHUNK)))
      return 1;
    pattern((uint64_t *)expected_data, offset, seed);
    crc = crc32(crc, buffer, CHUNK);
    for (uint64_t i = 0; i < CHUNK; i += 8)
      if (*(uint64_t *)(buffer + i) != *(uint64_t *)(expected_data + i)) {
        print("disk %d: wrong data at byte %lu: %016lx, not %016lx\n", current, offset + i, *(uint64_t *)(buffer + i),
              *(uint64_t *)(expected_data + i));
        return 1;
      }
  }
  report_speed("checked", size, now() - start, crc);
  return 0;
}

static int verify(int argc, char **argv) { return fill(argc, argv) || check(argc, argv); }

// Speed -------------------------------------------------------------------------------------------

struct phase {
  const char *name;
  uint32_t size;   // bytes in a request
  uint32_t depth;  // requests under way at once
  bool random;
};

static const struct phase phases[] = {
    {"4 KiB random, depth 1", 4096, 1, true},
    {"4 KiB random, depth 32", 4096, 32, true},
    {"64 KiB sequential, depth 4", 65536, 4, false},
};

static struct disk_request requests[DEPTH_MAX];
static uint64_t random_state = 88172645463325252;

static uint64_t next_sector(const struct phase *phase, uint64_t number) {
  uint64_t places = disk_sectors(current) * SECTOR / phase->size;
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (phase->random ? random_state : number) % places * (phase->size / SECTOR);
}

static bool any_done(void *argument) {
  const struct phase *phase = argument;
  for (uint32_t i = 0; i < phase->depth; i++)
    if (requests[i].done)
      return true;
  return false;
}

// Keep `depth` requests under way for a time. The number that were answered, or -1 when one failed.
static int64_t run_phase(const struct phase *phase, enum disk_operation operation, uint64_t ticks) {
  static bool under_way[DEPTH_MAX];
  uint64_t start = now();
  int64_t submitted = 0, answered = 0;
  for (;;) {
    bool going = now() - start < ticks, added = false;
    for (uint32_t i = 0; i < phase->depth; i++) {
      struct disk_request *request = &requests[i];
      if (request->done) {
        request->done = under_way[i] = false;
        answered++;
        if (report("benchmark", request->header.sector, request->status))
          return -1;
      }
      request->data = buffer + (uint64_t)i * phase->size;
      request->size = phase->size;
      if (going && !under_way[i] && disk_submit(current, request, operation, next_sector(phase, submitted))) {
        under_way[i] = added = true;
        submitted++;
      }
    }
    if (added)
      disk_notify(current);
    if (answered == submitted)
      return answered;
    if (!wait_until(any_done, (void *)phase, now() + DISK_TIMEOUT)) {
      print("disk %d: no answer\n", current);
      return -1;
    }
  }
}

static int benchmark(int argc, char **argv) {
  uint64_t milliseconds;
  bool writes = argc > 1 && strcmp(argv[1], "write") == 0;
  if (argc > 1 && !writes && strcmp(argv[1], "read") != 0)
    return usage("diskbench");
  if (!have_disk() || !argument_number(argc, argv, 2, 1000, &milliseconds))
    return 1;
  for (size_t i = 0; i < ARRAY_SIZE(phases); i++) {
    const struct phase *phase = &phases[i];
    uint64_t kicks[2], irqs[2], start = now();
    disk_statistics(current, &kicks[0], &irqs[0]);
    int64_t count = run_phase(phase, writes ? DISK_WRITE : DISK_READ, milliseconds * (TIMER_HZ / 1000));
    if (count < 0)
      return 1;
    uint64_t microseconds = MAX((now() - start) / (TIMER_HZ / 1000000), 1);
    disk_statistics(current, &kicks[1], &irqs[1]);
    print("%s %-26s %8lu IOPS %6lu MB/s  %lu notifications and %lu interrupts for %lu requests\n",
          writes ? "write" : "read", phase->name, count * 1000000 / microseconds, count * phase->size / microseconds,
          kicks[1] - kicks[0], irqs[1] - irqs[0], count);
  }
  return 0;
}

const struct command disk_commands[] = {
    {"disk", "[NUMBER]", "list disks; choose the one that the others mean", select_disk},
    {"read", "SECTOR [COUNT]", "sectors in hex", read_sectors},
    {"write", "SECTOR WORD", "write one sector", write_sector},
    {"flush", "", "make what was written durable", flush},
    {"discard", "SECTOR COUNT", "these sectors may be forgotten", discard},
    {"zero", "SECTOR COUNT", "these sectors become zeros", zero},
    {"diskid", "", "the name the disk gives itself", get_id},
    {"fill", "[MEBIBYTES [SEED]]", "write a pattern from the start of the disk, and flush", fill},
    {"check", "[MEBIBYTES [SEED]]", "read it and compare", check},
    {"verify", "[MEBIBYTES [SEED]]", "both", verify},
    {"diskbench", "[read|write] [MILLISECONDS]", "requests and bytes per second", benchmark},
    {0},
};
