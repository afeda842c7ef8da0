"""The thread that listens to the devices' doorbells while no hart runs: from a byte in a pipe to the interrupt.

It is one native call from the machine's start to its end, and asleep in poll(2) nearly always: a device rings only when
every hart sleeps (`proto.pages.signal_core`), once a sleep. What it does then, the link thread does too, at a CALL
message and at every look at the clock; who of them comes first does not matter.
"""

from core.board.state import MAX_WINDOWS, Board
from core.board.window import window_progress
from core.virtio.mmio import transport_poll
from core.virtio.transport import MAX_SLOTS
from native import Array, Record, addressof, fn, plain, u32, u64
from proto.doorbell import PollFd, poll_ns, silence_bell

END = MAX_SLOTS + MAX_WINDOWS  # the place of an eventfd that wakes this thread at the machine's end
PLACES = END + 1
PATIENCE_NS = 60_000_000_000


class Bells(Record):
    """The doorbells, in the places of their devices: slots, then windows. A place without one has the descriptor -1."""

    board: u64  # address of the Board
    entries: Array[PollFd] = plain(count=PLACES)


@fn
def answer_bells(bells: Bells) -> None:
    """Take the calls of devices that ring, until the machine ends."""
    board = Board(bells.board)
    while board.stopping == 0:
        if poll_ns(addressof(bells.entries[0]), PLACES, PATIENCE_NS):
            for place in range(u32(END)):
                entry = bells.entries[place]
                if entry.revents != 0:
                    silence_bell(entry.fd)
                    answer(board, place)


@fn
def answer(board: Board, place: u32) -> None:
    """Take the calls of one device."""
    if place < MAX_SLOTS:
        transport_poll(board, board.transports[place])
    else:
        window_progress(board, place - MAX_SLOTS)
