"""The two shared pages of a device, and the page on which the core says how it is doing.

Each device has two pages of 4096 bytes, made by the keeper and mapped by the core and the device process:

* `CoreToDevice` is written by the core and read-only for the device,
* `DeviceToCore` is written by the device (and only read by the core).

Every cache line has one writer (several harts count as one), so that nobody's spinning slows another's store. What
they say: who is awake (then nothing is sent), which notifications are waiting, how far MMIO has been carried out,
that the device's loop still turns, and the counters that `bulkhead ps` shows. All fields are little-endian and
naturally aligned.

**Notifications.** Shared words speak to who is awake; a doorbell (`proto.doorbell`) or a message wakes. A side that
runs holds its epoch in `awake`. Whoever publishes something (a ring index, a counter) puts a full fence between
publishing it and looking at the other's `awake`. A side that wants to sleep sets `awake` to 0, puts a full fence, and
looks again at everything that may have been published: so either it sees the news, or the publisher sees that it sleeps
and wakes it. Once a sleep is enough: `sleeps` numbers the sleeps, and the publisher remembers for which one it has done
so (its *latch*). With the mode LINK_MESSAGES nobody looks at these words, and every notification is a message.

Epochs. A device process of epoch E writes only E or 0 into `awake`; a word left behind by a dead predecessor
therefore means "asleep". The keeper resets the words of a dead process (`reset_device_page`); a new session opens
with `open_session`.

The functions marked `@fn` are the protocol; the core calls those named `core_*` and `needs_kick`, the device runtime
calls the others. Both sides must be running them as machine code while the other lives: Python has no fences.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from native import (
    Array,
    Record,
    acquire,
    addressof,
    atomic_add32,
    atomic_cas32,
    atomic_swap32,
    fence,
    fn,
    plain,
    relaxed,
    u32,
    u64,
    wrap32,
)
from proto.errors import ProtocolError
from proto.inflight import InflightEntry, InflightHeader

__all__ = [
    "MAX_HARTS",
    "MAX_QUEUES",
    "PAGE_SIZE",
    "PAGE_VERSION",
    "CoreState",
    "CoreStats",
    "CoreToDevice",
    "DeviceToCore",
    "LinkMode",
    "QueueStatistics",
    "call_again",
    "call_pending",
    "check_pages",
    "core_may_sleep",
    "core_wakes",
    "device_lies_down",
    "device_quiet",
    "device_wakes",
    "format_core_page",
    "format_device_page",
    "format_stats_page",
    "kick_again",
    "layout_hash",
    "mmio_begin",
    "mmio_end",
    "needs_kick",
    "open_session",
    "queue_statistics",
    "read_word",
    "reset_device_page",
    "set_irq_level",
    "signal_core",
    "take_calls",
]

PAGE_SIZE = 4096
PAGE_VERSION = 1
CORE_TO_DEVICE_MAGIC = 0x43324442  # "BD2C"
DEVICE_TO_CORE_MAGIC = 0x44324342  # "BC2D"
CORE_STATS_MAGIC = 0x53524342  # "BCRS"
MAX_QUEUES = 16
MAX_HARTS = 8


class LinkMode(IntFlag):
    """Bits of `CoreToDevice.mode`."""

    WORDS = 0
    MESSAGES = 1  # every notification is a message; awake words are ignored


class CoreToDevice(Record):
    """What the core tells the device."""

    # written once, when the page is made; epoch and mode when a session opens
    magic: u32 = relaxed()
    version: u32 = relaxed()
    layout_hash: u64 = relaxed()
    epoch: u32 = relaxed()
    mode: u32 = relaxed()
    # the harts: are any running?
    awake: u32 = acquire(offset=0x040)
    sleeps: u32 = acquire()
    # the core's own memory of what it has seen
    calls_seen: u32 = relaxed(offset=0x080)
    # notifications by the guest; kick_latch is the device's sleep for which a KICK was sent
    kick_sequence: u32 = acquire(offset=0x0C0)
    kick_latch: u32 = relaxed()
    kicks: Array[u32] = relaxed(count=MAX_QUEUES, offset=0x100)
    # counters
    kicks_sent: u64 = relaxed(offset=0x140)
    kicks_saved: u64 = relaxed()
    calls_taken: u64 = relaxed(offset=0x180)


class QueueStatistics(Record):
    """One queue's counters, on a cache line of its own, written by the thread that serves it."""

    requests: u64 = relaxed()  # completed
    bytes_read: u64 = relaxed()  # by the guest
    bytes_written: u64 = relaxed()  # by the guest
    errors: u64 = relaxed()  # requests answered with an error
    popped: u64 = relaxed()  # in flight = popped - completed
    rejected: u64 = relaxed()  # malformed chains
    batches: u64 = relaxed()
    marked: u64 = relaxed()  # the request that is being carried out alone (its counter + 1), or 0


class DeviceToCore(Record):
    """What the device tells the core and the keeper."""

    # written once, when the page is made; epoch when a process takes the page over
    magic: u32 = relaxed()
    version: u32 = relaxed()
    layout_hash: u64 = relaxed()
    epoch: u32 = relaxed()
    # the device's loop: awake holds its epoch, or 0
    awake: u32 = acquire(offset=0x040)
    sleeps: u32 = acquire()
    quiet_at: u32 = acquire()  # kick_sequence before the last look that found all rings empty
    listens: u32 = acquire()  # the epoch, if the process's sleep ends with its doorbell, too
    # calls to the core; call_latch is the core's sleep for which a CALL was sent
    call_sequence: u32 = acquire(offset=0x080)
    call_latch: u32 = relaxed()
    dirty_generation: u32 = acquire()  # moves after dirty maps were marked, before used.idx does
    calls: Array[u32] = relaxed(count=MAX_QUEUES, offset=0x0C0)
    # the loop still turns
    heartbeat: u64 = relaxed(offset=0x100)
    waiting: u32 = relaxed()  # not 0: in a call of its backend's, which may take however long it likes
    # MMIO of a device that is not virtio: at most once, by sequence number
    mmio_started: u64 = relaxed(offset=0x140)
    mmio_done: u64 = acquire()
    mmio_value: u64 = relaxed()
    irq_level: u32 = acquire()
    # counters
    calls_sent: u64 = relaxed(offset=0x180)
    calls_saved: u64 = relaxed()
    wakeups: u64 = relaxed()
    spins: u64 = relaxed()
    queues: Array[QueueStatistics] = plain(count=MAX_QUEUES, offset=0x200)


class CoreState(IntEnum):
    """`CoreStats.state`."""

    STARTING = 0
    RUNNING = 1
    PAUSED = 2
    HALTED = 3


class HartStatistics(Record):
    """One hart's counters, on a cache line of its own, written by its thread."""

    instret: u64 = relaxed()
    running_ns: u64 = relaxed()  # time spent executing, not in WFI
    sleeps: u64 = relaxed()
    traps: u64 = relaxed()
    interrupts: u64 = relaxed()
    mmio: u64 = relaxed()
    spare: Array[u64] = relaxed(count=2)


class CoreStats(Record):
    """How the core is doing, for `ps`, the keeper and the tests."""

    magic: u32 = relaxed()
    version: u32 = relaxed()
    layout_hash: u64 = relaxed()
    state: u32 = acquire(offset=0x040)
    nharts: u32 = relaxed()
    instret: u64 = relaxed()  # all harts
    kips: u64 = relaxed()  # thousand instructions a second over the last interval
    started_ns: u64 = relaxed()  # CLOCK_MONOTONIC when the first instruction ran
    updated_ns: u64 = relaxed()  # CLOCK_MONOTONIC of this update
    heartbeat: u64 = relaxed(offset=0x080)  # the link thread's loop still turns
    events: u64 = relaxed()
    messages_sent: u64 = relaxed()
    messages_received: u64 = relaxed()
    harts: Array[HartStatistics] = plain(count=MAX_HARTS, offset=0x100)


def layout_hash() -> int:
    """A number that changes whenever any shared-memory layout does: FNV-1a, 64 bits, over the layouts' text. Both
    ends of a session must have the same."""
    records = (CoreToDevice, DeviceToCore, CoreStats, InflightHeader, InflightEntry)
    value = 0xCBF29CE484222325
    for byte in "\n".join(record.layout() for record in records).encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


# The device runs these.


@fn
def device_wakes(mine: DeviceToCore) -> None:
    """Say that the device's loop runs: from now on it looks at its rings by itself."""
    mine.awake = mine.epoch


@fn
def device_lies_down(mine: DeviceToCore, theirs: CoreToDevice) -> u32:
    """Say that the loop is about to sleep. The caller now looks at every ring once more, and calls `device_quiet`
    with the number returned when all were empty, or `device_wakes` when one was not."""
    kicks: u32 = theirs.kick_sequence
    mine.sleeps = wrap32(mine.sleeps + 1)
    mine.awake = 0
    fence()
    return kicks


@fn
def device_quiet(mine: DeviceToCore, kicks: u32) -> None:
    """All rings were empty after the kick numbered `kicks`."""
    mine.quiet_at = kicks


@fn
def signal_core(mine: DeviceToCore, theirs: CoreToDevice, queue: u32) -> bool:
    """The guest wants an interrupt for `queue` (or the device's line changed). True: a CALL message must be sent."""
    atomic_add32(addressof(mine.calls[queue % MAX_QUEUES]), 1)
    atomic_add32(addressof(mine.call_sequence), 1)
    fence()
    if (theirs.mode & LinkMode.MESSAGES) == 0:
        if theirs.awake == mine.epoch:
            mine.calls_saved = mine.calls_saved + 1
            return False
        sleep: u32 = theirs.sleeps
        if atomic_swap32(addressof(mine.call_latch), sleep) == sleep:
            mine.calls_saved = mine.calls_saved + 1
            return False
    mine.calls_sent = mine.calls_sent + 1
    return True


@fn
def call_again(mine: DeviceToCore, theirs: CoreToDevice) -> None:
    """The CALL could not be sent: forget that it was, so that the next `signal_core` says again that one is due."""
    mine.call_latch = wrap32(theirs.sleeps - 1)


@fn
def mmio_begin(mine: DeviceToCore, sequence: u64) -> bool:
    """About to carry out MMIO access `sequence` (they count up from 1). False: it was begun before, by this process
    or by a predecessor, and must not be carried out again."""
    if sequence <= mine.mmio_started:
        return False
    mine.mmio_started = sequence
    fence()
    return True


@fn
def mmio_end(mine: DeviceToCore, sequence: u64, value: u64) -> None:
    """MMIO access `sequence` has been carried out; `value` is what was read."""
    mine.mmio_value = value
    mine.mmio_done = sequence


@fn
def set_irq_level(mine: DeviceToCore, level: u32) -> bool:
    """Set the interrupt line of a device that is not virtio. True when it changed: then `signal_core(…, 0)` is due."""
    changed: bool = mine.irq_level != level
    mine.irq_level = level
    return changed


# The core runs these.


@fn
def needs_kick(mine: CoreToDevice, theirs: DeviceToCore, queue: u32) -> bool:
    """The guest wrote QueueNotify. True: a KICK message must be sent."""
    atomic_add32(addressof(mine.kicks[queue % MAX_QUEUES]), 1)
    atomic_add32(addressof(mine.kick_sequence), 1)
    fence()
    if (mine.mode & LinkMode.MESSAGES) == 0:
        if theirs.awake == mine.epoch:
            mine.kicks_saved = mine.kicks_saved + 1
            return False
        sleep: u32 = theirs.sleeps
        if atomic_swap32(addressof(mine.kick_latch), sleep) == sleep:
            mine.kicks_saved = mine.kicks_saved + 1
            return False
    mine.kicks_sent = mine.kicks_sent + 1
    return True


@fn
def kick_again(mine: CoreToDevice, theirs: DeviceToCore) -> None:
    """The KICK could not be sent: forget that it was."""
    mine.kick_latch = wrap32(theirs.sleeps - 1)


@fn
def core_wakes(mine: CoreToDevice) -> None:
    """A hart runs: from now on somebody looks at `call_pending`."""
    mine.awake = mine.epoch


@fn
def core_may_sleep(mine: CoreToDevice, theirs: DeviceToCore) -> bool:
    """The last hart is about to sleep. False: a call came in, and the hart takes it and calls `core_wakes` instead.

    Two harts may be here at once: one that was the last, and is slow, and one that ran meanwhile and is the last again.
    A sleep counted by one must not be taken back by the other, or a call for the old number were the last."""
    atomic_add32(addressof(mine.sleeps), 1)
    mine.awake = 0
    fence()
    return theirs.call_sequence == mine.calls_seen


@fn
def call_pending(mine: CoreToDevice, theirs: DeviceToCore) -> bool:
    """Has the device called since the core last took its calls? Two loads; harts ask whenever their budget ends."""
    return theirs.call_sequence != mine.calls_seen


@fn
def take_calls(mine: CoreToDevice, theirs: DeviceToCore) -> u32:
    """How many calls came since the last time; not 0: the interrupt is due. Any thread of the core may ask."""
    now: u32 = theirs.call_sequence
    before: u32 = atomic_swap32(addressof(mine.calls_seen), now)
    if now != before:
        mine.calls_taken = mine.calls_taken + 1
    return wrap32(now - before)


@fn
def open_session(mine: CoreToDevice, theirs: DeviceToCore, epoch: u32, mode: u32) -> None:
    """A device process of `epoch` said HELLO: from now on only its words count. Calls of its predecessor stay
    pending. Harts run meanwhile: one that goes to sleep must not be awake afterwards."""
    awake: u32 = mine.awake
    mine.mode = mode
    mine.kick_latch = wrap32(theirs.sleeps - 1)
    mine.epoch = epoch
    fence()
    if awake != 0:
        atomic_cas32(addressof(mine.awake), awake, epoch)


# The keeper runs these, on pages that nobody else uses yet or any more. `page` is a writable view of 4096 bytes.


def format_core_page(page: memoryview, mode: LinkMode = LinkMode.WORDS) -> None:
    """Make a fresh core→device page."""
    _format(page, CoreToDevice, CORE_TO_DEVICE_MAGIC)
    _put(page, CoreToDevice, "mode", 4, mode)
    _put(page, CoreToDevice, "kick_latch", 4, 0xFFFFFFFF)


def format_device_page(page: memoryview) -> None:
    """Make a fresh device→core page."""
    _format(page, DeviceToCore, DEVICE_TO_CORE_MAGIC)
    _put(page, DeviceToCore, "call_latch", 4, 0xFFFFFFFF)


def format_stats_page(page: memoryview) -> None:
    """Make a fresh `CoreStats` page."""
    _format(page, CoreStats, CORE_STATS_MAGIC)


def reset_device_page(page: memoryview, epoch: int) -> None:
    """Hand the page of a process that is dead (its pidfd says so) to a successor of `epoch`. Counters and the MMIO
    sequence stay; the successor is asleep until it says otherwise, and carries out nothing yet."""
    _check(page, DeviceToCore, DEVICE_TO_CORE_MAGIC)
    _put(page, DeviceToCore, "awake", 4, 0)
    _put(page, DeviceToCore, "epoch", 4, epoch)
    _put(page, DeviceToCore, "waiting", 4, 0)
    _put(page, DeviceToCore, "listens", 4, 0)
    _put(page, DeviceToCore, "call_latch", 4, 0xFFFFFFFF)
    for queue in range(MAX_QUEUES):
        at = DeviceToCore.offset("queues") + queue * QueueStatistics.size() + QueueStatistics.offset("marked")
        page[at : at + 8] = bytes(8)


def check_pages(core_page: memoryview, device_page: memoryview) -> None:
    """Raise ProtocolError unless both pages have this version's layout."""
    _check(core_page, CoreToDevice, CORE_TO_DEVICE_MAGIC)
    _check(device_page, DeviceToCore, DEVICE_TO_CORE_MAGIC)


@dataclass(frozen=True)
class QueueCounters:
    """A copy of one queue's counters."""

    requests: int
    bytes_read: int
    bytes_written: int
    errors: int
    popped: int
    rejected: int
    batches: int
    marked: int = 0

    @property
    def in_flight(self) -> int:
        return max(0, self.popped - self.requests)


def queue_statistics(device_page: memoryview, queue: int) -> QueueCounters:
    """Read one queue's counters. Each is whole; together they are only nearly of one moment."""
    base = DeviceToCore.offset("queues") + queue * QueueStatistics.size()
    words = device_page[base : base + 64].cast("Q")
    return QueueCounters(*words)


def read_word(page: memoryview, record: type[Record], field: str, size: int = 8) -> int:
    """One aligned field of a page, for who only looks (`ps`, tests)."""
    offset = record.offset(field)
    return int(page[offset : offset + size].cast("Q" if size == 8 else "I")[0])


def _format(page: memoryview, record: type[Record], magic: int) -> None:
    if len(page) != PAGE_SIZE or record.size() > PAGE_SIZE:
        raise ProtocolError(f"a page of {len(page)} bytes for {record.__name__}")
    page[:] = bytes(PAGE_SIZE)
    _put(page, record, "magic", 4, magic)
    _put(page, record, "version", 4, PAGE_VERSION)
    _put(page, record, "layout_hash", 8, layout_hash())


def _check(page: memoryview, record: type[Record], magic: int) -> None:
    if read_word(page, record, "magic", 4) != magic:
        raise ProtocolError(f"not a {record.__name__} page")
    if read_word(page, record, "layout_hash") != layout_hash():
        raise ProtocolError(f"the {record.__name__} page was made by another version of bulkhead")


def _put(page: memoryview, record: type[Record], field: str, size: int, value: int) -> None:
    offset = record.offset(field)
    page[offset : offset + size] = value.to_bytes(size, "little")
