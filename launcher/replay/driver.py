"""The guest's side of a split virtqueue, as machine code: what replays, the ring tests and `bench.blk_ring`
drive devices with.

A driver that behaves like Linux's: descriptors prepared beforehand, EVENT_IDX or flags, a notification when the
device asked for one, and an interrupt asked for only before it sleeps. How a notification travels is a parameter, so
that the same program measures different devices: an eventfd (vhost-user), or the words, doorbells and messages of this
project's link.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Any

from native import (
    Record,
    Unit,
    fence,
    fn,
    load16,
    local,
    monotonic_ns,
    pause,
    store16,
    store32,
    store64,
    sys,
    syscall,
    u16,
    u32,
    u64,
    wrap16,
    wrap64,
)
from proto.doorbell import NO_BELL, POLLIN, PollFd, Signal, kick_device, poll_ns, silence_bell
from proto.pages import (
    CoreToDevice,
    DeviceToCore,
    call_pending,
    core_may_sleep,
    core_wakes,
    open_session,
    take_calls,
)
from proto.ring import Avail, Used
from proto.virtio import AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY

__all__ = ["Driver", "Stop", "Transport", "load_driver", "looks", "rests"]

SLOT_HEADERS = 32  # bytes a slot's header and status take


class Transport(IntEnum):
    """How notifications travel."""

    EVENTFD = 0
    LINK = 1


class Stop(IntEnum):
    """Why `run` came back."""

    DONE = 0
    KICK = 1  # a KICK message must be sent
    SLEEP = 2  # interrupts are asked for and nothing is used: sleep until one comes


class Driver(Record):
    """The driver's memory, private to its process."""

    num: u32
    event_idx: u32
    desc: u64  # addresses in this process
    avail: u64
    used: u64
    transport: u32
    queue: u32
    kick_fd: u64
    call_fd: u64
    mine: u64  # the control pages, as the core has them
    theirs: u64
    rings: u32  # the doorbells, or NO_BELL
    listens: u32
    avail_idx: u16
    used_idx: u16
    # a closed loop of block requests
    depth: u32
    headers: u64  # address of the slots' headers and status bytes
    total: u64
    sent: u64
    done: u64
    seed: u64
    blocks: u64  # positions to choose from
    sequential: u32  # not 0: one after the other, not at random
    block_sectors: u64
    type: u32
    failed: u32
    spin: u64  # ns to look before sleeping
    kicks: u64
    sleeps: u64
    idle: u32  # slots free at the start


class Bytes8(Record):
    """What an eventfd reads and writes."""

    value: u64


@fn
def publish(driver: Driver, head: u32) -> None:
    """Put one head into the available ring; `notify` makes it count."""
    Avail(driver.avail).ring[u32(driver.avail_idx) & (driver.num - 1)] = u16(head)
    driver.avail_idx = wrap16(driver.avail_idx + 1)


@fn
def notify(driver: Driver) -> bool:
    """Move avail.idx. True when the device wants to be told."""
    avail = Avail(driver.avail)
    used = Used(driver.used)
    old: u16 = avail.idx
    new: u16 = driver.avail_idx
    avail.idx = new
    fence()
    if driver.event_idx == 0:
        return (used.flags & USED_F_NO_NOTIFY) == 0
    event: u16 = load16(driver.used + 4 + 8 * u64(driver.num))
    return wrap16(new - event - 1) < wrap16(new - old)


@fn
def take_used(driver: Driver) -> u64:
    """The next used element as `len << 32 | id`, or all ones."""
    used = Used(driver.used)
    if used.idx == driver.used_idx:
        return 0xFFFFFFFFFFFFFFFF
    element = used.ring[u32(driver.used_idx) & (driver.num - 1)]
    driver.used_idx = wrap16(driver.used_idx + 1)
    return u64(element.len) << 32 | u64(element.id)


@fn
def ask_interrupt(driver: Driver) -> bool:
    """Ask for an interrupt for the next used element. False when one is there already."""
    if driver.event_idx == 0:
        Avail(driver.avail).flags = 0
    else:
        store16(driver.avail + 4 + 2 * u64(driver.num), driver.used_idx)
    fence()
    return Used(driver.used).idx == driver.used_idx


@fn
def refuse_interrupts(driver: Driver) -> None:
    """While the driver looks by itself."""
    if driver.event_idx == 0:
        Avail(driver.avail).flags = AVAIL_F_NO_INTERRUPT


@fn
def send_kick(driver: Driver) -> bool:
    """Notify the device. True when a message must be sent."""
    driver.kicks = driver.kicks + 1
    if driver.transport == Transport.EVENTFD:
        one = local(Bytes8)
        one.value = 1
        syscall(sys.WRITE, driver.kick_fd, one.address, 8, 0, 0, 0)
        return False
    mine = CoreToDevice(driver.mine)
    return kick_device(mine, DeviceToCore(driver.theirs), driver.queue, driver.rings) == Signal.MESSAGE


@fn
def _submit(driver: Driver, slot: u32) -> None:
    """Request `slot` (descriptors 3*slot …) at the next position, which is random unless they are `sequential`."""
    position: u64 = driver.sent
    if driver.sequential == 0:
        driver.seed = wrap64(driver.seed * 6364136223846793005 + 1442695040888963407)
        position = driver.seed >> 33
    header: u64 = driver.headers + u64(slot) * SLOT_HEADERS
    store32(header, driver.type)
    store64(header + 8, (position % driver.blocks) * driver.block_sectors)
    publish(driver, slot * 3)
    driver.sent = driver.sent + 1


@fn
def _reap(driver: Driver) -> bool:
    """Take everything used and put a new request into each slot. True when there was anything."""
    found: bool = False
    while True:
        element: u64 = take_used(driver)
        if element == 0xFFFFFFFFFFFFFFFF:
            return found
        found = True
        driver.done = driver.done + 1
        slot: u32 = u32(element & 0xFFFFFFFF) // 3
        status: u16 = load16(driver.headers + u64(slot) * SLOT_HEADERS + 16)
        if (status & 0xFF) != 0:
            driver.failed = driver.failed + 1
        if driver.sent < driver.total:
            _submit(driver, slot)


@fn
def looks(driver: Driver) -> bool:
    """Spin until something is used, for at most `spin` ns."""
    if driver.spin == 0:
        return False
    used = Used(driver.used)
    end: u64 = monotonic_ns() + driver.spin
    while True:
        for _ in range(u32(32)):
            if used.idx != driver.used_idx:
                return True
            pause()
        if monotonic_ns() > end:
            return False


@fn
def run(driver: Driver) -> u32:
    """Keep `depth` requests in flight until `total` are done, or until there is a reason to stop."""
    if driver.transport == Transport.LINK:
        core_wakes(CoreToDevice(driver.mine))
    while driver.idle != 0 and driver.sent < driver.total:
        driver.idle = driver.idle - 1
        _submit(driver, driver.idle)
    while True:
        if Avail(driver.avail).idx != driver.avail_idx and notify(driver) and send_kick(driver):
            return Stop.KICK
        if driver.done == driver.total:
            return Stop.DONE
        if _reap(driver) or looks(driver):
            continue
        if not ask_interrupt(driver):
            refuse_interrupts(driver)
            continue
        if not rests(driver):
            return Stop.SLEEP
        refuse_interrupts(driver)


@fn
def rests(driver: Driver) -> bool:
    """Interrupts are asked for: sleep until one comes. False: it is Python's to do, where a message may be what comes,
    or where it takes long."""
    if driver.transport == Transport.EVENTFD:
        driver.sleeps = driver.sleeps + 1
        sleep_on(u32(driver.call_fd), 2_000_000_000)
        return True
    mine = CoreToDevice(driver.mine)
    theirs = DeviceToCore(driver.theirs)
    if core_may_sleep(mine, theirs):
        driver.sleeps = driver.sleeps + 1
        if driver.listens == NO_BELL or not sleep_on(driver.listens, 100_000_000):
            return False
    take_calls(mine, theirs)
    core_wakes(mine)
    return True


@fn
def sleep_on(fd: u32, timeout_ns: u64) -> bool:
    """Sleep until the eventfd or doorbell is signalled, and take that. False: it was not, in time."""
    entry = local(PollFd)
    entry.fd = fd
    entry.events = POLLIN
    if not poll_ns(entry.address, 1, timeout_ns):
        return False
    silence_bell(fd)
    return True


@cache
def load_driver() -> Any:
    """The driver's functions, and the core's half of the control pages."""
    exports: list[Any] = [
        publish,
        notify,
        take_used,
        ask_interrupt,
        refuse_interrupts,
        send_kick,
        run,
        call_pending,
        core_may_sleep,
        core_wakes,
        open_session,
        silence_bell,
        take_calls,
    ]
    return Unit("ring-driver", exports=exports).load()
