"""What the board remembers: one record for everything that a guest can see of it, at a fixed address in core memory.

Harts and the link thread reach it natively and from Python; each part says who writes it. Registers are named as in the
documents of the parts: RISC-V PLIC 1.0, SiFive CLINT, 16550 data sheet, Goldfish RTC.
"""

from __future__ import annotations

from enum import IntEnum

from core.virtio.transport import MAX_SLOTS, Transport
from native import Array, Record, acquire, plain, relaxed, u8, u32, u64
from proto.pages import MAX_HARTS

MAX_REGIONS = 64  # ranges of the flattened map
MAX_WINDOWS = 8  # MMIO windows of devices that are not virtio
PLIC_SOURCES = 54  # 1 to 53; 0 means none
PLIC_CONTEXTS = 2 * MAX_HARTS  # M and S of each hart
UART_TX_RING = 1 << 13  # bytes on their way out
UART_RX_RING = 1 << 12  # bytes waiting on the line
UART_FIFO = 16
TICK_NS = 100  # mtime counts at 10 MHz
NEVER = (1 << 64) - 1  # a comparator that is not set; a deadline that does not come


class BusKind(IntEnum):
    """What answers in a range of the bus table."""

    RAM = 1
    ROM = 2
    CLINT = 3
    PLIC = 4
    UART = 5
    RTC = 6
    FINISHER = 7
    VIRTIO = 8
    WINDOW = 9


class BusRange(Record):
    """One line of the flattened map: addresses [base, base + length) belong to `kind`, from its byte `within` on."""

    base: u64
    length: u64
    within: u64
    host: u64  # RAM and ROM: host address of the first byte
    kind: u32  # BusKind
    index: u32  # virtio slot or window number


class Clint(Record):
    """Timer comparators (msip is a bit of each hart's mip) and the origin of time."""

    mtimecmp: Array[u64] = relaxed(count=MAX_HARTS)
    epoch_ns: u64 = relaxed()  # CLOCK_MONOTONIC at which mtime was 0
    frozen: u64 = acquire()  # not 0: the machine is paused, and mtime is one less than this
    # lockstep: time is counted in instructions, and skipped ahead while every hart sleeps
    lockstep: u32 = relaxed()  # 1: on
    instructions_per_tick: u64 = relaxed()
    skipped: u64 = relaxed()  # ticks


class Plic(Record):
    """Level-triggered interrupt controller; `lock` guards everything."""

    lock: u32 = relaxed()
    ncontexts: u32
    level: u64  # lines that are high, one bit a source
    claimed: u64  # sources between claim and completion: their gateways are shut
    asserted: u64  # contexts whose hart has been told of an interrupt
    priority: Array[u32] = plain(count=64)
    enable: Array[u64] = plain(count=PLIC_CONTEXTS)
    threshold: Array[u32] = plain(count=PLIC_CONTEXTS)


class Uart(Record):
    """16550 with its two rings. Harts hold `lock`; the link thread owns tx_tail and rx_head."""

    lock: u32 = relaxed()
    irq: u32
    ier: u32
    fcr: u32
    lcr: u32
    mcr: u32
    scr: u32
    dll: u32
    dlm: u32
    thri: u32  # 1: the transmitter-empty interrupt is pending
    delta: u32  # MSR bits 0-3: modem lines that changed since MSR was read
    line: u32  # what the PLIC was told last
    loop_head: u32  # bytes that went round in loopback mode
    loop_tail: u32
    loop: Array[u8] = plain(count=UART_FIFO)
    tx_announced: u32 = acquire(offset=0x80)  # 1: the link thread knows that bytes wait
    tx_full: u32 = acquire()  # 1: a hart found no room (futex word)
    rx_refused: u32 = acquire()  # 1: the link thread found no room
    tx_head: u32 = acquire(offset=0xC0)  # written by harts, counts bytes modulo 2**32
    rx_tail: u32 = acquire()
    tx_tail: u32 = acquire(offset=0x100)  # written by the link thread
    rx_head: u32 = acquire()
    break_at: u32 = relaxed()  # where in the receive ring a break condition stands
    break_waits: u32 = acquire()  # 1: the guest has not read it yet
    tx: Array[u8] = plain(count=UART_TX_RING, offset=0x140)
    rx: Array[u8] = plain(count=UART_RX_RING)


class Rtc(Record):
    """Goldfish real-time clock: nanoseconds since 1970."""

    lock: u32 = relaxed()
    irq: u32
    adjustment: u64 = relaxed()  # added to the host's clock, modulo 2**64
    latched: u32  # upper half of the time that TIME_LOW read
    alarm_high: u32
    written_high: u32  # TIME_HIGH, kept until TIME_LOW is written
    armed: u32 = relaxed()
    alarm: u64 = relaxed()
    irq_enabled: u32
    irq_pending: u32


class Finisher(Record):
    """SiFive test finisher; `posted` keeps a guest that goes on from ending twice."""

    posted: u32 = relaxed()


class Window(Record):
    """The MMIO range of a device that is not virtio. Harts hold `lock`, so that accesses are posted in order."""

    state: u32 = acquire()  # DeviceState
    index: u32
    irq: u32
    lock: u32 = relaxed()
    base: u64
    length: u64
    deadline_ns: u64  # how long a hart waits for an answer
    core_page: u64 = relaxed()
    device_page: u64 = relaxed()
    posted: u64 = relaxed()  # sequence number of the last access
    written: u64 = relaxed()  # sequence number of the last write
    deaf: u32 = acquire()  # 1: a deadline was missed; reads return all ones until the next epoch
    replied: u32 = acquire()  # counts answers (futex word)
    reply_sequence: u64 = acquire()
    reply_value: u64 = relaxed()
    irq_level: u32 = acquire()


class HsmState(IntEnum):
    """SBI 2.0, chapter 9: HSM hart states."""

    STARTED = 0
    STOPPED = 1
    START_PENDING = 2
    STOP_PENDING = 3
    SUSPENDED = 4


class SbiHart(Record):
    """One hart as HSM sees it, and what it is to start with."""

    state: u32 = acquire()  # HsmState
    start_address: u64 = relaxed()
    opaque: u64 = relaxed()


class Sbi(Record):
    """The built-in SBI; while `enabled` is 0, ecalls from S-mode go to the guest's M-mode."""

    enabled: u32 = relaxed()
    lock: u32 = relaxed()  # orders those who start harts
    harts: Array[SbiHart] = plain(count=MAX_HARTS)


class Board(Record):
    """Everything. The first fields are set once, before a hart runs."""

    ram_base: u64
    ram_size: u64
    ram_host: u64
    dirty_map: u64  # one byte a page of RAM
    events: u64  # address of the EventQueue
    nharts: u32
    nranges: u32
    nslots: u32  # transports[0:nslots] may hold a device
    nwindows: u32
    stopping: u32 = acquire()  # 1: harts leave, nothing waits any more
    running_harts: u32 = relaxed()  # harts that are not asleep
    reset_vector: u64
    trace: u64  # address of the core's trace ring, or 0
    harts: Array[u64] = plain(count=MAX_HARTS)
    ranges: Array[BusRange] = plain(count=MAX_REGIONS)
    clint: Clint
    plic: Plic
    uart: Uart
    rtc: Rtc
    finisher: Finisher
    sbi: Sbi
    windows: Array[Window] = plain(count=MAX_WINDOWS)
    transports: Array[Transport] = plain(count=MAX_SLOTS)
