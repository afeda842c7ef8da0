"""The bus: who answers at a physical address.

The flattened memory map lies in the board as a sorted table; an access is looked up by bisection and dispatched by
kind. RAM and ROM have host addresses and are normally reached through the harts' TLBs; everything else is MMIO.
Accesses to holes, across the end of a range, misaligned ones, and those of a width that a device does not take are
access faults: causes 5 and 7 in `hart.trap`, with the physical address in `tval` (the MMU, which knows the virtual one,
replaces it).

Widths, as in QEMU: PLIC, RTC and virtio registers 4 bytes; CLINT 4 or 8; finisher 2 or 4; the UART any, one register.
"""

from core.board.clint import clint_read, clint_write
from core.board.plic import CONTEXT, CONTEXT_STRIDE, plic_read, plic_write
from core.board.power import finisher_write
from core.board.rtc import rtc_read, rtc_write
from core.board.state import Board, BusKind, BusRange
from core.board.trace import is_traced, trace_read, trace_write
from core.board.uart import uart_read, uart_write
from core.board.window import settle_window, window_read, window_write
from core.cpu.faults import raise_access_fault
from core.cpu.state import Hart
from core.cpu.status import PMP_R, PMP_W
from core.virtio.mmio import mmio_read, mmio_write
from native import fn, load8, load16, load32, load64, store8, store16, store32, store64, u8, u16, u32, u64, wrap32

NOBODY = 0xFFFFFFFF


@fn
def find_range(board: Board, address: u64) -> u32:
    """The number of the range that holds `address`, or NOBODY."""
    low: u32 = 0
    high: u32 = board.nranges
    while low < high:
        middle: u32 = (low + high) >> 1
        entry = board.ranges[middle]
        if address < entry.base:
            high = middle
        elif address - entry.base >= entry.length:
            low = middle + 1
        else:
            return middle
    return NOBODY


@fn
def answers(board: Board, number: u32, address: u64, size: u64) -> bool:
    """May an access of `size` bytes at `address` go to range `number`?"""
    if number == NOBODY or (address & (size - 1)) != 0:
        return False
    entry = board.ranges[number]
    if size > entry.length - (address - entry.base):
        return False
    kind: u32 = entry.kind
    if kind == BusKind.PLIC or kind == BusKind.RTC:
        return size == 4
    if kind == BusKind.CLINT:
        return size >= 4
    if kind == BusKind.FINISHER:
        return size == 2 or size == 4
    return True


@fn
def host_address(board: Board, address: u64, size: u64) -> u64:
    """Host address of `size` bytes of RAM or ROM at `address`; 0 when they are not, or not wholly, in one range."""
    number: u32 = find_range(board, address)
    if number == NOBODY:
        return 0
    entry = board.ranges[number]
    within: u64 = address - entry.base
    if entry.host == 0 or size > entry.length - within:
        return 0
    return entry.host + within


@fn
def bus_read(hart: Hart, address: u64, size: u64) -> u64:
    """Read `size` bytes (1, 2, 4, 8) at physical `address`, zero-extended."""
    board = Board(hart.board)
    number: u32 = find_range(board, address)
    if not answers(board, number, address, size):
        raise_access_fault(hart, address, PMP_R)
        return 0
    entry = board.ranges[number]
    value: u64 = range_read(board, entry, address, u32(size))
    if is_traced(board, entry):
        trace_read(hart, board, entry, address, u32(size), value)
    return value


@fn
def range_read(board: Board, entry: BusRange, address: u64, size: u32) -> u64:
    """The read, at whoever answers."""
    offset: u64 = address - entry.base + entry.within
    kind: u32 = entry.kind
    if kind == BusKind.UART:
        return u64(uart_read(board, offset))
    if kind == BusKind.PLIC:
        return u64(plic_read(board, offset))
    if kind == BusKind.VIRTIO:
        return mmio_read(board, entry.index, offset, size)
    if kind == BusKind.CLINT:
        return clint_read(board, offset, size)
    if kind == BusKind.RTC:
        return u64(rtc_read(board, offset))
    if kind == BusKind.WINDOW:
        return window_read(board, entry.index, offset, size)
    if entry.host != 0:
        return memory_read(entry.host + (address - entry.base), size)
    return 0


@fn
def memory_read(host: u64, size: u32) -> u64:
    """Aligned read of RAM or ROM."""
    if size == 1:
        return u64(load8(host))
    if size == 2:
        return u64(load16(host))
    if size == 4:
        return u64(load32(host))
    return load64(host)


@fn
def bus_write(hart: Hart, address: u64, size: u64, value: u64) -> None:
    """Write the low `size` bytes (1, 2, 4, 8) of `value` at physical `address`. ROM does not answer."""
    board = Board(hart.board)
    number: u32 = find_range(board, address)
    if not answers(board, number, address, size) or board.ranges[number].kind == BusKind.ROM:
        raise_access_fault(hart, address, PMP_W)
        return
    entry = board.ranges[number]
    if is_traced(board, entry):
        trace_write(hart, board, entry, address, u32(size), value)
    range_write(board, entry, address, u32(size), value)


@fn
def range_write(board: Board, entry: BusRange, address: u64, size: u32, value: u64) -> None:
    """The write, at whoever answers."""
    offset: u64 = address - entry.base + entry.within
    kind: u32 = entry.kind
    if kind == BusKind.UART:
        uart_write(board, offset, wrap32(value))
    elif kind == BusKind.PLIC:
        if completes(offset):
            settle_window(board, wrap32(value))
        plic_write(board, offset, wrap32(value))
    elif kind == BusKind.VIRTIO:
        mmio_write(board, entry.index, offset, size, value)
    elif kind == BusKind.CLINT:
        clint_write(board, offset, size, value)
    elif kind == BusKind.RTC:
        rtc_write(board, offset, wrap32(value))
    elif kind == BusKind.FINISHER:
        if offset == 0:
            finisher_write(board, wrap32(value))
    elif kind == BusKind.WINDOW:
        window_write(board, entry.index, offset, size, value)
    elif entry.host != 0:
        memory_write(entry.host + (address - entry.base), size, value)


@fn(inline=True)
def completes(offset: u64) -> bool:
    """Is this PLIC register a claim/complete?"""
    return offset >= CONTEXT and (offset & (CONTEXT_STRIDE - 1)) == 4


@fn
def memory_write(host: u64, size: u32, value: u64) -> None:
    """Aligned write of RAM."""
    if size == 1:
        store8(host, u8(value & 0xFF))
    elif size == 2:
        store16(host, u16(value & 0xFFFF))
    elif size == 4:
        store32(host, u32(value & 0xFFFFFFFF))
    else:
        store64(host, value)
