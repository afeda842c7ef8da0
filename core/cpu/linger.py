"""Looking before sleeping: a hart in WFI that waits for a device watches the shared words for a while before it sleeps.

As long as it looks, the core is awake: the device sends no message, and the hart sees the answer at once instead of
after two wake-ups (of the link thread, and then its own). That pays only while a device is at work and a host CPU is
free for it. So a hart looks only when there was traffic since it last waited and a device is awake, only when no other
hart runs that would look anyway, and for no longer than a wake-up costs. Looking in vain twice in a row ends it; it is
tried again when sleeps turn out to be that short, and each failure doubles how often that must be seen before the next
trial. An idle guest never looks.

In lockstep, and for devices whose notifications are all messages, nobody looks.
"""

from core.board.poll import board_poll, next_deadline_ns
from core.board.state import Board
from core.cpu.interrupts import pending_bits
from core.cpu.state import Hart
from native import fn, monotonic_ns, pause, u32, u64, wrap32
from proto.pages import CoreToDevice, DeviceToCore, LinkMode

LINGER_NS = 150_000  # what a wake-up by message costs, with some to spare
STRIKES = 2  # in vain, in a row
TRIALS_MAX = 256
FORGIVE = 16  # looks that paid, for which one failure is forgotten
LOOKS = 16  # between two looks at the clock


@fn
def linger(hart: Hart) -> bool:
    """The hart is about to sleep. True: something came while it looked, and it goes on."""
    board = Board(hart.board)
    if not had_traffic(hart, board) or hart.lingering == 0:
        return False
    if board.running_harts != 1 or board.clint.lockstep != 0:
        return False
    begun = monotonic_ns()
    deadline = next_deadline_ns(hart)
    end = begun + LINGER_NS if begun + LINGER_NS < deadline else deadline
    now = begun
    found: bool = False
    while not found and now < end:
        for _ in range(u32(LOOKS)):
            if not found:
                board_poll(board)
                found = hart.attention != 0 or pending_bits(hart) & hart.mie != 0
                pause()
        now = monotonic_ns()
    if found and now - begun < LINGER_NS:
        paid(hart)
    elif end != deadline:  # in vain, or the host ran somebody else here meanwhile
        in_vain(hart)
    return found


@fn
def had_traffic(hart: Hart, board: Board) -> bool:
    """Was a device notified, or has one called, since this hart last asked, and is one of them awake?"""
    traffic: u32 = 0
    awake: bool = False
    for slot in range(board.nslots):
        transport = board.transports[slot]
        if transport.core_page != 0:
            mine = CoreToDevice(transport.core_page)
            if mine.mode & LinkMode.MESSAGES == 0:
                theirs = DeviceToCore(transport.device_page)
                traffic = wrap32(traffic + mine.kick_sequence + theirs.call_sequence)
                awake = awake or theirs.awake == mine.epoch
    found = awake and u64(traffic) != hart.linger_traffic
    hart.linger_traffic = u64(traffic)
    hart.linger_due = u64(found)
    return found


@fn
def paid(hart: Hart) -> None:
    """Looking was quicker than sleeping."""
    hart.linger_strikes = 0
    hart.linger_seen = hart.linger_seen + 1
    if hart.linger_seen == FORGIVE:
        hart.linger_seen = 0
        hart.linger_trials = hart.linger_trials // 2


@fn
def in_vain(hart: Hart) -> None:
    """It was not."""
    hart.linger_strikes = hart.linger_strikes + 1
    if hart.linger_strikes == STRIKES:
        hart.linger_strikes = 0
        hart.linger_seen = 0
        hart.lingering = 0
        if hart.linger_trials < TRIALS_MAX:
            hart.linger_trials = 2 * hart.linger_trials + 1


@fn
def slept(hart: Hart, ns: u64) -> None:
    """The hart has slept so long. Short sleeps amid traffic, often enough, start a trial."""
    if hart.linger_due == 0 or hart.lingering != 0 or ns > 2 * LINGER_NS:
        return
    hart.linger_seen = hart.linger_seen + 1
    if hart.linger_seen > hart.linger_trials:
        hart.linger_seen = 0
        hart.lingering = 1
