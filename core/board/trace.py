"""What the board writes into the core's trace ring: register accesses, notifications, interrupts.

Only accesses of virtio slots and windows are told; a board without a ring tells nothing. Every record has a time of
its own: an access from a guest costs far more than a look at the clock.
"""

from core.board.state import Board, BusKind, BusRange
from core.cpu.state import Hart
from native import fn, load16, monotonic_ns, u32, u64
from proto.trace import NO_QUEUE, WINDOW_SLOT, TracePoint, trace
from proto.virtio import MmioRegister

AVAIL_IDX = 2  # 2.7.6: offset in the available ring


@fn(inline=True)
def is_traced(board: Board, entry: BusRange) -> bool:
    """Is this range a device's?"""
    return board.trace != 0 and (entry.kind == BusKind.VIRTIO or entry.kind == BusKind.WINDOW)


@fn(cold=True)
def trace_read(hart: Hart, board: Board, entry: BusRange, address: u64, size: u32, value: u64) -> None:
    """A register was read."""
    _access(hart, board, entry, TracePoint.MMIO_READ, address - entry.base + entry.within, size, value)


@fn(cold=True)
def trace_write(hart: Hart, board: Board, entry: BusRange, address: u64, size: u32, value: u64) -> None:
    """A register is about to be written; a write to QueueNotify is a NOTIFY."""
    offset: u64 = address - entry.base + entry.within
    if entry.kind == BusKind.VIRTIO and offset == MmioRegister.QueueNotify and size == 4:
        queue: u64 = value & 0xFFFFFFFF
        position: u32 = _avail_idx(board, entry.index, queue)
        trace(
            board.trace,
            monotonic_ns(),
            TracePoint.NOTIFY,
            u32(queue & 0xFFFF),
            entry.index,
            position,
            hart.mhartid,
            hart.pc,
            0,
            0,
            0,
        )
    else:
        _access(hart, board, entry, TracePoint.MMIO_WRITE, offset, size, value)


@fn
def _access(hart: Hart, board: Board, entry: BusRange, point: u32, offset: u64, size: u32, value: u64) -> None:
    slot: u32 = entry.index + (WINDOW_SLOT if entry.kind == BusKind.WINDOW else 0)
    trace(board.trace, monotonic_ns(), point, NO_QUEUE, slot, size, offset, hart.pc, value, hart.mhartid, 0)


@fn
def _avail_idx(board: Board, slot: u32, queue: u64) -> u32:
    """What the driver has made available, as the device will see it; 0 when there is no such ring."""
    transport = board.transports[slot]
    if queue >= u64(transport.nqueues):
        return 0
    address: u64 = transport.queues[queue].driver
    if address < board.ram_base or (address & 1) != 0:
        return 0
    offset: u64 = address - board.ram_base
    if offset > board.ram_size - 4:
        return 0
    return u32(load16(board.ram_host + offset + AVAIL_IDX))


@fn
def trace_interrupt(board: Board, slot: u32, calls: u32, taken: u32) -> None:
    """The device's calls were taken, and its interrupt raised."""
    if board.trace != 0:
        now: u64 = monotonic_ns()
        trace(board.trace, now, TracePoint.INTERRUPT, NO_QUEUE, slot, 0, u64(calls), u64(taken), 0, 0, 0)
