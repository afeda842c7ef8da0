"""The device's loop, in machine code: look at the rings, stay awake a little, lie down properly.

A device sleeps in poll(2) on its doorbell, its ZeroMQ descriptor, and what the device itself waits for. Between two
sleeps it is *awake* (its epoch is in the control page), and then the core sends it nothing; so before it sleeps it must
say so, put a full fence, and look at every ring again. All that is here, once, and the loops that serve a device
natively (`devproc.blk.fast`) are built of the same pieces. A sleep that the doorbell ends, or a descriptor of the
device's that is only there to wake it, does not leave machine code; whatever else comes is Python's.

Staying awake by spinning pays only where a host core is free for it, and then a lot. So it is measured: `sleep_gap`
is how long a sleep lately lasted until there was work again, and a spin that does not find work within that time was
wasted. Two in a row end the spinning. It is tried again when work keeps coming soon after the loop lay down, and each
failure doubles the number of times that must be seen before the next trial. A sleep is longer than the spin in its
place would be, by the wake-ups that it takes on both sides: so "soon" is twice as long as a spin may last, or two sides
that sleep would never find out that neither need. Now and then one sleep is taken instead of a spin, to measure.
"""

from __future__ import annotations

from enum import IntEnum

from native import Array, Record, addressof, fn, monotonic_ns, pause, plain, u16, u32, u64, wrap64
from proto.doorbell import POLLIN, POLLOUT, PollFd, Signal, call_core, poll_ns, silence_bell
from proto.pages import (
    MAX_QUEUES,
    CoreToDevice,
    DeviceToCore,
    LinkMode,
    QueueStatistics,
    device_lies_down,
    device_quiet,
    device_wakes,
)
from proto.ring import (
    Chain,
    Ring,
    ring_arm,
    ring_disarm,
    ring_flush,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_should_call,
)
from proto.trace import TracePoint, trace

__all__ = [
    "POLLED_MAX",
    "SPIN_MAX",
    "Loop",
    "Reason",
    "account",
    "begin_turn",
    "flush_and_call",
    "lie_down",
    "look",
    "pop_now",
    "put_now",
    "rest",
    "stop_ring",
    "wait_for_work",
]

SPIN_MAX = 400_000  # ns; two wake-ups by message, the core's and then ours, and what a Linux guest does in between
GAP_MAX = 2 * SPIN_MAX  # ns; longer sleeps count as this, and start no trial
TRIALS_MAX = 1024
STRIKES = 2  # wasted spins in a row that end the spinning
MEASURE_EVERY = 256  # spins
WAKES = POLLIN | POLLOUT  # what a descriptor does that only wakes the loop; an error is Python's
POLLED_MAX = 16  # descriptors on which the loop sleeps by itself; with more, Python does


class Reason(IntEnum):
    """Why a loop came back."""

    SLEEP = 0  # nothing to do, lying down: send the CALLs that are due, if any, and sleep in poll
    WORK = 1  # `Loop.ready` has a bit for each queue with something to pop
    CALL = 2  # busy, but `Loop.calls` has a bit for each queue for which a CALL must be sent
    SERVICE = 3  # busy, but it is time to look at messages
    BROKEN = 4  # `Loop.broken` has a bit for each queue that stopped


class Loop(Record):
    """The loop's memory; private to the process."""

    mine: u64  # address of the DeviceToCore page
    theirs: u64  # address of the CoreToDevice page
    rings: Array[u64] = plain(count=MAX_QUEUES)  # addresses of the rings being served
    count: u32
    ready: u32
    calls: u32
    broken: u32
    deadline: u64  # when to return with SERVICE
    lay_down: u64  # when
    lying: u32  # not 0: the loop lay down and has not begun a turn since
    sleep_gap: u64  # ns from lying down to work, a running mean
    spinning: u32  # not 0: spin before lying down
    strikes: u32  # spins wasted in a row
    spins: u32  # since a sleep was measured
    trials: u32  # how often work must come soon after lying down before spinning is tried again
    seen: u32  # how often it has
    trace: u64  # address of the process's trace ring, or 0
    service: u64  # ns from a turn's begin to its deadline
    until: u64  # when Python wants to look, CLOCK_MONOTONIC in ns: the loop sleeps no longer; 0: not at all
    bell: u32  # rings at the core, or NO_BELL
    wakers: u32  # the first of `polled`, the doorbell among them, are only there to wake the loop
    npolled: u32
    polled: Array[PollFd] = plain(count=POLLED_MAX)  # what ends a sleep; polled[0] is the doorbell


@fn
def begin_turn(loop: Loop, service_ns: u64) -> None:
    """Awake: say so, stop asking for notifications, set the time for SERVICE."""
    mine = DeviceToCore(loop.mine)
    if loop.lying != 0:
        _woken(loop)
    mine.heartbeat = mine.heartbeat + 1
    _rise(loop)
    loop.ready = 0
    loop.broken = 0
    loop.service = service_ns
    loop.deadline = monotonic_ns() + service_ns


@fn
def _rise(loop: Loop) -> None:
    device_wakes(DeviceToCore(loop.mine))
    for number in range(loop.count):
        ring_disarm(Ring(loop.rings[number]))


@fn
def look(loop: Loop) -> bool:
    """Is there anything to pop? Sets `ready`."""
    ready: u32 = 0
    for number in range(loop.count):
        ring = Ring(loop.rings[number])
        if ring.parked == 0 and ring_has_work(ring):
            ready = ready | (u32(1) << ring.queue)
    loop.ready = ready
    return ready != 0


@fn
def stop_ring(loop: Loop, ring: Ring) -> None:
    """The ring is broken: report it; it has no more work."""
    loop.broken = loop.broken | (u32(1) << ring.queue)


@fn
def flush_and_call(loop: Loop, ring: Ring) -> None:
    """Give the batch back, and have the driver interrupted if it wants to be."""
    if ring.batch != 0:
        ring.now = monotonic_ns()
    ring_flush(ring)
    if ring_should_call(ring):
        _call_at(loop, ring.queue, ring.now)


@fn
def call(loop: Loop, queue: u32) -> None:
    """Have the driver interrupted."""
    _call_at(loop, queue, monotonic_ns())


@fn
def _call_at(loop: Loop, queue: u32, now: u64) -> None:
    mine = DeviceToCore(loop.mine)
    signal: u32 = call_core(mine, CoreToDevice(loop.theirs), queue, loop.bell)
    if signal == Signal.MESSAGE:
        loop.calls = loop.calls | (u32(1) << queue)
    trace(loop.trace, now, TracePoint.CALL, queue, 0, 0, u64(mine.call_sequence), u64(signal), 0, 0, 0)


@fn
def pop_now(ring: Ring, chain: Chain) -> u32:
    """`ring_pop` for a caller without a clock."""
    ring.now = monotonic_ns()
    return ring_pop(ring, chain)


@fn
def put_now(ring: Ring, chain: Chain, written: u32, status: u32) -> None:
    """`ring_put` for a caller without a clock; `status` is for the trace."""
    ring.now = monotonic_ns()
    ring.status = status
    ring_put(ring, chain, written)


@fn
def _spin(loop: Loop) -> bool:
    """Look at the rings for as long as a sleep would take. True when work came."""
    if loop.spinning == 0 or (CoreToDevice(loop.theirs).mode & LinkMode.MESSAGES) != 0:
        return False
    loop.spins = loop.spins + 1
    if loop.spins % MEASURE_EVERY == 0:
        return False
    mine = DeviceToCore(loop.mine)
    mine.spins = mine.spins + 1
    length: u64 = loop.sleep_gap if loop.sleep_gap < SPIN_MAX else SPIN_MAX
    begun: u64 = monotonic_ns()
    now: u64 = begun
    found: bool = False
    while not found and now - begun <= length:
        for _ in range(u32(32)):
            if not found:
                found = look(loop)
                pause()
        now = monotonic_ns()
    if found and now - begun <= length:
        loop.strikes = 0
        if loop.spins % 16 == 0 and loop.trials > 1:
            loop.trials = loop.trials // 2
    else:  # nothing came; or it came while the host ran somebody else here, and sleeping would have been as quick
        _wasted(loop)
    return found


@fn(cold=True)
def _wasted(loop: Loop) -> None:
    loop.strikes = loop.strikes + 1
    if loop.strikes < STRIKES:
        return
    loop.strikes = 0
    loop.spinning = 0
    loop.seen = 0
    if loop.trials < TRIALS_MAX:
        loop.trials = loop.trials * 2


@fn
def _woken(loop: Loop) -> None:
    """The loop slept and was woken. Short sleeps, often enough, start a trial of spinning."""
    mine = DeviceToCore(loop.mine)
    loop.lying = 0
    mine.wakeups = mine.wakeups + 1
    gap: u64 = monotonic_ns() - loop.lay_down
    if gap > GAP_MAX:
        gap = GAP_MAX
    loop.sleep_gap = (loop.sleep_gap * 7 + gap) // 8
    if loop.spinning != 0 or gap >= GAP_MAX:
        return
    loop.seen = loop.seen + 1
    if loop.seen >= loop.trials:
        loop.seen = 0
        loop.spinning = 1


@fn
def rest(loop: Loop) -> bool:
    """Nothing to do: spin, then lie down, and sleep. True when it is Python's turn to sleep, or to see what ended the
    sleep; False when there is something to pop after all."""
    if _spin(loop):
        return False
    while lie_down(loop):
        if not _doze(loop):
            return True
        _woken(loop)
        _rise(loop)
        loop.deadline = monotonic_ns() + loop.service
        if loop.wakers > 1 or look(loop):
            return False
    return False


@fn
def _doze(loop: Loop) -> bool:
    """Sleep until somebody wakes the loop. True: somebody did, and nothing is Python's business."""
    now: u64 = monotonic_ns()
    if loop.npolled == 0 or now >= loop.until:
        return False
    if not poll_ns(addressof(loop.polled[0]), u64(loop.npolled), loop.until - now):
        return False
    for number in range(loop.npolled):
        happened: u16 = loop.polled[number].revents
        if (number >= loop.wakers and happened != 0) or (happened & ~WAKES) != 0:
            return False
    if loop.polled[0].revents != 0:
        silence_bell(loop.polled[0].fd)
    return True


@fn
def lie_down(loop: Loop) -> bool:
    """Say that the loop sleeps, and look at every ring once more. True when all were empty."""
    mine = DeviceToCore(loop.mine)
    for number in range(loop.count):
        ring = Ring(loop.rings[number])
        if ring.parked == 0:
            ring_arm(ring)
    kicks: u32 = device_lies_down(mine, CoreToDevice(loop.theirs))
    if look(loop):
        _rise(loop)
        return False
    device_quiet(mine, kicks)
    loop.lay_down = monotonic_ns()
    loop.lying = 1
    return True


@fn
def wait_for_work(loop: Loop, service_ns: u64) -> u32:
    """The loop of devices whose requests are handled in Python: WORK or SLEEP."""
    begin_turn(loop, service_ns)
    if look(loop) or not rest(loop):
        return Reason.WORK
    return Reason.SLEEP


@fn
def account(ring: Ring, read: u64, written: u64, errors: u64) -> None:
    """Count what a request handled in Python has moved, and whether it failed."""
    statistics = QueueStatistics(ring.statistics)
    statistics.bytes_read = wrap64(statistics.bytes_read + read)
    statistics.bytes_written = wrap64(statistics.bytes_written + written)
    statistics.errors = wrap64(statistics.errors + errors)
