// The 16550 UART (National Semiconductor PC16550D): output by polling, input by interrupt into a ring.
//
// When the ring is full the receive interrupt is turned off and the rest stays in the device, which holds its sender up: a
// paste of any length arrives whole.
#include "guest.h"

enum {        // registers
  RHR = 0,    // read: the oldest received byte
  THR = 0,    // write: transmit a byte
  IER = 1,    // which events interrupt
  FCR = 2,    // FIFO control
  LCR = 3,    // line control
  MCR = 4,    // modem control
  LSR = 5,    // line status
};
enum { IER_RX = 1 };
enum { FCR_ENABLE = 1, FCR_CLEAR = 6 };
enum { LCR_8N1 = 3 };
enum { MCR_OUT2 = 8 };  // on a PC this connects the interrupt line
enum { LSR_RX_READY = 1, LSR_TX_EMPTY = 0x20 };

#define DEFAULT_BASE 0x10000000UL  // until the device tree is read
#define RING_SIZE 1024             // a power of two

static uint64_t base = DEFAULT_BASE;
static volatile uint8_t ring[RING_SIZE];
static volatile uint32_t head, tail;  // bytes put in and taken out, ever
static int tx_fifo = 1, tx_room;      // the transmit FIFO's size, and how many bytes certainly fit into it

static void receive(void *argument) {
  (void)argument;
  while (mmio_read8(base + LSR) & LSR_RX_READY) {
    if (head - tail == RING_SIZE) {
      mmio_write8(base + IER, 0);
      return;
    }
    ring[head % RING_SIZE] = mmio_read8(base + RHR);
    head++;
  }
}

void uart_init(void) {
  const struct device *uart = device_find("ns16550a", 0);
  if (!uart)
    panic("the device tree has no 16550");
  base = uart->base;
  mmio_write8(base + LCR, LCR_8N1);
  mmio_write8(base + FCR, FCR_ENABLE);
  tx_fifo = 16;
  mmio_write8(base + MCR, MCR_OUT2);
  plic_enable(uart->irq, receive, NULL);
  mmio_write8(base + IER, IER_RX);
}

void uart_put(char c) {
  if (tx_room == 0) {
    while (!(mmio_read8(base + LSR) & LSR_TX_EMPTY))
      ;
    tx_room = tx_fifo;
  }
  mmio_write8(base + THR, c);
  tx_room--;
}

bool uart_has_input(void) { return head != tail; }

static bool input(void *argument) {
  (void)argument;
  return uart_has_input();
}

int uart_get(void) {
  wait_until(input, NULL, ~0UL);
  uint8_t c = ring[tail % RING_SIZE];
  bool was_full = head - tail == RING_SIZE;
  tail++;
  if (was_full)
    mmio_write8(base + IER, IER_RX);
  return c;
}
