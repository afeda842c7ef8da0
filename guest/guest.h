// What the guest's files offer one another, in the order in which they are built on one another.
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

// The machine -------------------------------------------------------------------------------------

#define csr_read(csr) ({ uint64_t v_; asm volatile("csrr %0, " #csr : "=r"(v_)::"memory"); v_; })
#define csr_write(csr, v) asm volatile("csrw " #csr ", %0" ::"r"((uint64_t)(v)) : "memory")
#define csr_set(csr, v) asm volatile("csrs " #csr ", %0" ::"r"((uint64_t)(v)) : "memory")
#define csr_clear(csr, v) asm volatile("csrc " #csr ", %0" ::"r"((uint64_t)(v)) : "memory")

#define SSTATUS_SIE (1UL << 1)
#define SIE_STIE (1UL << 5)
#define SIE_SEIE (1UL << 9)
#define CAUSE_INTERRUPT (1UL << 63)

static inline uint32_t mmio_read32(uint64_t address) { return *(volatile uint32_t *)address; }
static inline void mmio_write32(uint64_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline uint8_t mmio_read8(uint64_t address) { return *(volatile uint8_t *)address; }
static inline void mmio_write8(uint64_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

// Memory and device registers are ordered separately: a fence between them covers both.
static inline void fence(void) { asm volatile("fence iorw, iorw" ::: "memory"); }

// Interrupts are on while the guest runs; between these two they wait. They do not nest.
static inline void interrupts_off(void) { csr_clear(sstatus, SSTATUS_SIE); }
static inline void interrupts_on(void) { csr_set(sstatus, SSTATUS_SIE); }

// text.c ------------------------------------------------------------------------------------------

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
bool parse_number(const char *s, uint64_t *value);  // decimal or 0x…, with k, m or g behind it
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));  // %s %c %d %u %x with l, width, 0 and -
void hexdump(const void *data, size_t n, uint64_t address);
uint32_t crc32(uint32_t crc, const void *data, size_t n);  // IEEE 802.3, as zlib's: starts with 0

// fdt.c -------------------------------------------------------------------------------------------

struct device {              // one node of the device tree that has registers
  const char *name;          // "virtio_mmio@10001000"
  const char *compatible;    // the first of its names, or its device_type
  uint32_t compatible_size;  // of all of them, zero-terminated, one after the other
  uint64_t base, size;       // its first register range
  uint32_t irq;              // its interrupt at the PLIC, 0: none
};

extern struct device devices[];
extern int device_count;
extern const char *bootargs;  // /chosen's, "" without

bool fdt_read(const void *tree);  // false: there is no device tree at that address
const struct device *device_find(const char *compatible, int nth);
bool device_is(const struct device *device, const char *compatible);

// trap.c ------------------------------------------------------------------------------------------

struct trap_frame {  // written by trap_entry
  uint64_t pc;       // sepc
  uint64_t x[31];    // x1 … x31
};

struct expected {           // an exception that the code itself provokes
  bool armed, taken;        // while armed, an exception is noted and its instruction skipped
  uint64_t cause, address;  // scause and stval of the one taken
};

extern volatile struct expected expected;
extern uint64_t interrupt_counts[2];  // timer, external

void trap_init(void);
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

// plic.c ------------------------------------------------------------------------------------------

typedef void (*irq_handler)(void *argument);
void plic_init(uint64_t hart);
void plic_enable(uint32_t irq, irq_handler handler, void *argument);
void plic_interrupt(void);

// timer.c -----------------------------------------------------------------------------------------

#define TIMER_HZ 10000000UL  // the board's mtime

uint64_t now(void);               // in ticks
void timer_init(void);
void timer_interrupt(void);
void sleep_until(uint64_t deadline);
bool wait_until(bool (*condition)(void *), void *argument, uint64_t deadline);  // false: the deadline came first

// uart.c ------------------------------------------------------------------------------------------

void uart_init(void);
void uart_put(char c);
int uart_get(void);  // waits; every other interrupt is served meanwhile
bool uart_has_input(void);

// finisher.c --------------------------------------------------------------------------------------

_Noreturn void finish(uint32_t code);  // the code is the exit code of the whole machine

// shell.c and the commands ------------------------------------------------------------------------

struct command {
  const char *name, *arguments, *help;
  int (*run)(int argc, char **argv);  // 0: went well
};

extern const struct command *const command_groups[];  // ends with NULL
extern const struct command system_commands[], cpu_commands[], disk_commands[], fs_commands[], net_commands[];  // each ends with a command without name
_Noreturn void shell(void);
int run_line(char *line);              // commands with ";" between them; the status of the last one
void run_script(const char *script);  // the same with "," for spaces, ends at a space: cmd= of the bootargs
extern int last_status;

int usage(const char *command);
bool argument_number(int argc, char **argv, int index, uint64_t otherwise, uint64_t *value);  // false: said why
