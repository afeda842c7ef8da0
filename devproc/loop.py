"""The device's loop, in machine code: look at the rings, stay awake a little, lie down properly.

A device sleeps in poll(2) on its ZeroMQ descriptor. Between two sleeps it is *awake* (its epoch is in the control
page), and then the core sends it nothing; so before it sleeps it must say so, put a full fence, and look at every
ring again. All that is here, once, and the loops that serve a device natively (`devproc.blk.fast`) are built of the
same pieces.

Staying awake by spinning pays only where a host core is free for it. The window adapts: a spin that finds work doubles
it, one that does not halves it, down to nothing. It opens again when work keeps coming right after the loop lay down,
and each failure of such a trial doubles the number of times that must be seen before the next one.
"""

from __future__ import annotations

from enum import IntEnum

from native import Array, Record, fn, monotonic_ns, pause, plain, u32, u64
from proto.pages import (
    MAX_QUEUES,
    CoreToDevice,
    DeviceToCore,
    LinkMode,
    device_lies_down,
    device_quiet,
    device_wakes,
    signal_core,
)
from proto.ring import Ring, ring_arm, ring_disarm, ring_flush, ring_has_work, ring_should_call

__all__ = [
    "WINDOW_MAX",
    "Loop",
    "Reason",
    "begin_turn",
    "flush_and_call",
    "look",
    "loop_woken",
    "rest",
    "stop_ring",
    "wait_for_work",
]

WINDOW_MAX = 200_000  # ns; what two wake-ups by message cost, the core's and then ours
WINDOW_MIN = 20_000
TRIALS_MAX = 1024


class Reason(IntEnum):
    """Why a loop came back."""

    SLEEP = 0  # nothing to do, lying down: sleep in poll
    WORK = 1  # `Loop.ready` has a bit for each queue with something to pop
    CALL = 2  # `Loop.calls` has a bit for each queue for which a CALL must be sent
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
    window: u64  # ns to spin before lying down
    lay_down: u64  # when
    deadline: u64  # when to return with SERVICE
    trials: u32  # how often work must come right after lying down before the window opens again
    seen: u32  # how often it has


@fn
def begin_turn(loop: Loop, service_ns: u64) -> None:
    """Awake: say so, stop asking for notifications, set the time for SERVICE."""
    mine = DeviceToCore(loop.mine)
    device_wakes(mine)
    mine.heartbeat = mine.heartbeat + 1
    for number in range(loop.count):
        ring_disarm(Ring(loop.rings[number]))
    loop.ready = 0
    loop.calls = 0
    loop.broken = 0
    loop.deadline = monotonic_ns() + service_ns


@fn
def look(loop: Loop) -> bool:
    """Is there anything to pop? Sets `ready`."""
    ready: u32 = 0
    for number in range(loop.count):
        ring = Ring(loop.rings[number])
        if ring_has_work(ring):
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
    ring_flush(ring)
    if ring_should_call(ring):
        call(loop, ring.queue)


@fn
def call(loop: Loop, queue: u32) -> None:
    """Have the driver interrupted."""
    if signal_core(DeviceToCore(loop.mine), CoreToDevice(loop.theirs), queue):
        loop.calls = loop.calls | (u32(1) << queue)


@fn
def _spin(loop: Loop) -> bool:
    """Look at the rings for the length of the window. Adapts the window."""
    if loop.window == 0 or (CoreToDevice(loop.theirs).mode & LinkMode.MESSAGES) != 0:
        return False
    mine = DeviceToCore(loop.mine)
    mine.spins = mine.spins + 1
    end: u64 = monotonic_ns() + loop.window
    while True:
        for _ in range(u32(32)):
            if look(loop):
                loop.window = loop.window * 2 if loop.window < WINDOW_MAX // 2 else WINDOW_MAX
                loop.trials = 1
                return True
            pause()
        if monotonic_ns() > end:
            break
    loop.window = loop.window // 2
    if loop.window < WINDOW_MIN:
        loop.window = 0
        loop.seen = 0
        if loop.trials < TRIALS_MAX:
            loop.trials = loop.trials * 2
    return False


@fn
def loop_woken(loop: Loop) -> None:
    """The loop slept and was woken. Short sleeps, often enough, open the window for a trial."""
    mine = DeviceToCore(loop.mine)
    mine.wakeups = mine.wakeups + 1
    if loop.window != 0 or monotonic_ns() - loop.lay_down > 2 * WINDOW_MAX:
        return
    loop.seen = loop.seen + 1
    if loop.seen >= loop.trials:
        loop.seen = 0
        loop.window = WINDOW_MAX


@fn
def rest(loop: Loop) -> bool:
    """Nothing to do: spin, then lie down. True when the loop may sleep; False when there is something to pop after
    all."""
    if _spin(loop):
        return False
    mine = DeviceToCore(loop.mine)
    for number in range(loop.count):
        ring_arm(Ring(loop.rings[number]))
    kicks: u32 = device_lies_down(mine, CoreToDevice(loop.theirs))
    if look(loop):
        device_wakes(mine)
        for number in range(loop.count):
            ring_disarm(Ring(loop.rings[number]))
        return False
    device_quiet(mine, kicks)
    loop.lay_down = monotonic_ns()
    return True


@fn
def wait_for_work(loop: Loop, service_ns: u64) -> u32:
    """The loop of devices whose requests are handled in Python: WORK or SLEEP."""
    begin_turn(loop, service_ns)
    if look(loop) or not rest(loop):
        return Reason.WORK
    return Reason.SLEEP
