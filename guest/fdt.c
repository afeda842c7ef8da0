// The flattened device tree (devicetree specification v0.4, chapter 5): one walk, into a table of devices.
//
// Numbers in it are big-endian. A node's registers are written in cells whose number its parent gives (#address-cells,
// #size-cells); interrupts are the PLIC's, one cell each.
#include "guest.h"

#define FDT_MAGIC 0xd00dfeed
enum { FDT_BEGIN_NODE = 1, FDT_END_NODE = 2, FDT_PROP = 3, FDT_NOP = 4, FDT_END = 9 };

#define MAX_DEVICES 48
#define MAX_DEPTH 8

struct header {             // section 5.2
  uint32_t magic;           // FDT_MAGIC
  uint32_t totalsize;       // of everything, in bytes
  uint32_t off_dt_struct;   // where the nodes are
  uint32_t off_dt_strings;  // where property names are
};

struct device devices[MAX_DEVICES];
int device_count;
const char *bootargs = "";

static uint32_t be32(const void *p) {
  const uint8_t *b = p;
  return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static uint64_t cells(const uint8_t *p, uint32_t count) {
  uint64_t value = 0;
  for (; count--; p += 4)
    value = value << 32 | be32(p);
  return value;
}

struct level {                          // an open node
  uint32_t address_cells, size_cells;   // for its children
  struct device device;                 // what is known of itself
  bool has_registers;
};

static void property(struct level *parent, struct level *node, const char *name, const uint8_t *value, uint32_t size) {
  struct device *device = &node->device;
  if (strcmp(name, "#address-cells") == 0)
    node->address_cells = be32(value);
  else if (strcmp(name, "#size-cells") == 0)
    node->size_cells = be32(value);
  else if (strcmp(name, "reg") == 0 && parent && size >= 4 * (parent->address_cells + parent->size_cells)) {
    device->base = cells(value, parent->address_cells);
    device->size = cells(value + 4 * parent->address_cells, parent->size_cells);
    node->has_registers = parent->size_cells > 0;
  } else if (strcmp(name, "compatible") == 0 || (strcmp(name, "device_type") == 0 && !device->compatible)) {
    device->compatible = (const char *)value;
    device->compatible_size = size;
  } else if (strcmp(name, "interrupts") == 0)
    device->irq = be32(value);
  else if (strcmp(name, "bootargs") == 0)
    bootargs = (const char *)value;
}

static void add_device(const struct device *device) {
  int at = device_count;
  if (at == MAX_DEVICES)
    return;
  for (; at > 0 && devices[at - 1].base > device->base; at--)  // by address: then the first slot has the first disk
    devices[at] = devices[at - 1];
  devices[at] = *device;
  device_count++;
}

bool fdt_read(const void *tree) {
  const struct header *header = tree;
  if (!tree || be32(&header->magic) != FDT_MAGIC)
    return false;
  const uint8_t *p = (const uint8_t *)tree + be32(&header->off_dt_struct);
  const char *strings = (const char *)tree + be32(&header->off_dt_strings);
  static struct level levels[MAX_DEPTH];
  int depth = -1;
  for (;;) {
    uint32_t token = be32(p);
    p += 4;
    if (token == FDT_BEGIN_NODE) {
      if (++depth == MAX_DEPTH)
        return false;
      levels[depth] = (struct level){.address_cells = 2, .size_cells = 1, .device.name = (const char *)p};
      p += (strlen((const char *)p) + 1 + 3) & ~3UL;
    } else if (token == FDT_PROP) {
      uint32_t size = be32(p);
      const char *name = strings + be32(p + 4);
      property(depth ? &levels[depth - 1] : NULL, &levels[depth], name, p + 8, size);
      p += 8 + ((size + 3) & ~3U);
    } else if (token == FDT_END_NODE) {
      struct level *node = &levels[depth--];
      if (node->has_registers && node->device.compatible)
        add_device(&node->device);
    } else if (token != FDT_NOP)
      return token == FDT_END;
  }
}

bool device_is(const struct device *device, const char *compatible) {
  const char *name = device->compatible, *end = name + device->compatible_size;
  for (; name < end; name += strlen(name) + 1)
    if (strcmp(name, compatible) == 0)
      return true;
  return false;
}

const struct device *device_find(const char *compatible, int nth) {
  for (int i = 0; i < device_count; i++)
    if (device_is(&devices[i], compatible) && nth-- == 0)
      return &devices[i];
  return NULL;
}
