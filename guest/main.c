// The bundled guest: a small kernel with a shell, to see a machine work and to try its devices by hand or from a script.
#include "drivers.h"
#include "guest.h"
#include "virtio.h"

// The value of NAME=… in the bootargs, up to the next space; NULL without.
static const char *boot_option(const char *name) {
  size_t length = strlen(name);
  for (const char *at = bootargs; *at;) {
    if (strncmp(at, name, length) == 0 && at[length] == '=')
      return at + length + 1;
    while (*at && *at != ' ')
      at++;
    while (*at == ' ')
      at++;
  }
  return NULL;
}

void main(uint64_t hart, const void *tree) {
  if (!fdt_read(tree))
    panic("no device tree at %lx", (uint64_t)tree);
  plic_init(hart);
  uart_init();
  timer_init();
  trap_init();
  const char *ring = boot_option("ring");  // ring=plain: neither EVENT_IDX nor indirect descriptors
  if (ring && strncmp(ring, "plain", 5) == 0)
    virtio_features = 0;
  disks_init();
  bool entropy = entropy_init();
  const struct device *memory = device_find("memory", 0);
  v86fs_init();
  net_init();
  print("\nbulkhead guest · %lu MiB · %d disk%s%s · help says what there is\n",
        memory ? memory->size >> 20 : 0, disk_count, disk_count == 1 ? "" : "s", entropy ? " · rng" : "");
  const char *script = boot_option("cmd");
  if (script)
    run_script(script);
  shell();
}
