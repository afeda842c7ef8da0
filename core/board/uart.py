"""16550A UART between the guest and two rings: bytes on their way out, and bytes waiting on the line.

Registers as in National Semiconductor's PC16550D data sheet (a wide access reads or writes the one register at its
address). The transmit ring takes far more than the FIFO's 16 bytes; LSR.THRE is high while another 16 fit, so a slow
sink slows a driver that looks, and holds one that does not (`TX_DEADLINE_NS`, then the byte is lost as on real
hardware). Received bytes wait on the line until the guest reads them: there is no overrun, and the writer is told how
many were taken. Baud rate and parity are remembered and mean nothing.

Harts call `uart_read` and `uart_write`; the link thread calls `uart_take`, `uart_give` and `uart_break`; the built-in
SBI calls `uart_put` and `uart_get`. CONSOLE_TX is posted once for a burst, CONSOLE_RX when room appears after a
refusal.
"""

from enum import IntEnum, IntFlag

from core.board.lock import lock, unlock, wait_while
from core.board.plic import plic_set_line
from core.board.state import UART_FIFO, UART_RX_RING, UART_TX_RING, Board, Uart
from core.events import EventKind, EventQueue, post_event
from native import addressof, fence, fn, load8, monotonic_ns, store8, u8, u32, u64, wrap8, wrap32
from native.futex import futex_wake

SIZE = 0x100
TX_DEADLINE_NS = 1_000_000_000
TX_MASK = UART_TX_RING - 1
RX_MASK = UART_RX_RING - 1
LOOP_MASK = UART_FIFO - 1


class Register(IntEnum):
    """Offsets; with LCR.DLAB set, 0 and 1 are the divisor latch."""

    RBR_THR = 0
    IER = 1
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(IntFlag):
    """Interrupt enables."""

    RDI = 1  # received data
    THRI = 2  # transmitter holding register empty
    RLSI = 4  # receiver line status
    MSI = 8  # modem status


class Iir(IntEnum):
    """Interrupt identification, highest priority first; FIFOS marks a 16550A with its FIFOs on."""

    RLSI = 0x06
    RDI = 0x04
    TIMEOUT = 0x0C
    THRI = 0x02
    MSI = 0x00
    NONE = 0x01
    FIFOS = 0xC0


LCR_DLAB = 0x80
FCR_ENABLE = 0x01
FCR_CLEAR_RX = 0x02
FCR_TRIGGER = 0xC0
MCR_OUT2 = 0x08  # gates the interrupt line of a PC; this board's line is not gated
MCR_LOOP = 0x10
MCR_BITS = 0x1F
LSR_DR = 0x01
LSR_BI = 0x10  # the byte that would be read next is a break
LSR_THRE = 0x20
LSR_TEMT = 0x40
MSR_CTS_DSR_DCD = 0xB0  # the far end is always there


@fn(inline=True)
def tx_room(uart: Uart) -> u32:
    """Bytes that the transmit ring still takes."""
    return UART_TX_RING - wrap32(uart.tx_head - uart.tx_tail)


@fn(inline=True)
def tx_ready(board: Board) -> bool:
    """Does another FIFO's worth of bytes fit? In lockstep always: a slow sink holds the hart, and never shows."""
    return board.clint.lockstep != 0 or tx_room(board.uart) >= UART_FIFO


@fn(inline=True)
def rx_waiting(uart: Uart) -> u32:
    """Bytes that the guest could read now: from the line, or in loopback mode its own."""
    if (uart.mcr & MCR_LOOP) != 0:
        return wrap32(uart.loop_head - uart.loop_tail)
    return wrap32(uart.rx_head - uart.rx_tail)


@fn
def interrupt_id(uart: Uart) -> u32:
    """IIR without the FIFO bits: the pending interrupt of the highest priority."""
    waiting: u32 = rx_waiting(uart)
    if (uart.ier & Ier.RDI) != 0 and waiting != 0:
        if (uart.fcr & FCR_ENABLE) == 0 or waiting >= trigger_level(uart.fcr):
            return Iir.RDI
        return Iir.TIMEOUT
    if (uart.ier & Ier.THRI) != 0 and uart.thri != 0:
        return Iir.THRI
    if (uart.ier & Ier.MSI) != 0 and uart.delta != 0:
        return Iir.MSI
    return Iir.NONE


@fn
def trigger_level(fcr: u32) -> u32:
    """FCR bits 7:6: how full the receive FIFO is when it interrupts."""
    code: u32 = (fcr & FCR_TRIGGER) >> 6
    if code == 0:
        return 1
    if code == 1:
        return 4
    if code == 2:
        return 8
    return 14


@fn
def update_line(board: Board) -> None:
    """Drive the interrupt line. The caller holds the lock."""
    uart = board.uart
    high: u32 = u32(interrupt_id(uart) != Iir.NONE)
    if high != uart.line:
        uart.line = high
        plic_set_line(board, uart.irq, high != 0)


@fn
def modem_status(uart: Uart) -> u32:
    """MSR bits 7:4: the far end's lines, or in loopback mode our own, crossed over."""
    if (uart.mcr & MCR_LOOP) == 0:
        return MSR_CTS_DSR_DCD
    own: u32 = uart.mcr
    return ((own & 2) << 3) | ((own & 1) << 5) | ((own & 4) << 4) | ((own & 8) << 4)


@fn
def pop_received(board: Board) -> u32:
    """RBR: the next byte, 0 when there is none. The caller holds the lock."""
    uart = board.uart
    if rx_waiting(uart) == 0:
        return 0
    if (uart.mcr & MCR_LOOP) != 0:
        looped: u32 = u32(uart.loop[uart.loop_tail & LOOP_MASK])
        uart.loop_tail = wrap32(uart.loop_tail + 1)
        return looped
    value: u32 = u32(uart.rx[uart.rx_tail & RX_MASK])
    if uart.rx_tail == uart.break_at:
        uart.break_waits = 0
    uart.rx_tail = wrap32(uart.rx_tail + 1)
    fence()
    announce_rx(board)
    return value


@fn(inline=True)
def rx_has_room(uart: Uart) -> bool:
    """Half of the receive ring is free: worth telling a writer that was refused."""
    return wrap32(uart.rx_head - uart.rx_tail) <= UART_RX_RING // 2


@fn
def announce_rx(board: Board) -> None:
    """Tell the link thread that there is room again, if it was refused before."""
    uart = board.uart
    if uart.rx_refused != 0 and rx_has_room(uart):
        uart.rx_refused = 0
        if not post_event(EventQueue(board.events), EventKind.CONSOLE_RX, 0, 0, 0):
            uart.rx_refused = 1


@fn
def announce_tx(board: Board) -> None:
    """Tell the link thread that bytes wait, unless it knows. With a full queue, the next byte or tick tries again."""
    uart = board.uart
    fence()
    if uart.tx_announced == 0:
        uart.tx_announced = 1
        if not post_event(EventQueue(board.events), EventKind.CONSOLE_TX, 0, 0, 0):
            uart.tx_announced = 0


@fn
def wait_for_room(board: Board) -> None:
    """Hold the calling hart while the transmit ring is full, within the deadline. Without the lock: the link thread,
    which makes the room, must never wait for a hart that waits for it."""
    uart = board.uart
    if tx_room(uart) >= UART_FIFO:
        return
    deadline: u64 = monotonic_ns() + TX_DEADLINE_NS
    while tx_room(uart) < UART_FIFO and board.stopping == 0:
        uart.tx_full = 1
        announce_tx(board)
        if tx_room(uart) < UART_FIFO and not wait_while(addressof(uart.tx_full), 1, deadline):
            return


@fn
def transmit(board: Board, value: u8) -> bool:
    """Append a byte to the transmit ring; False when it is full. The caller holds the lock."""
    uart = board.uart
    if tx_room(uart) == 0:
        return False
    uart.tx[uart.tx_head & TX_MASK] = value
    uart.tx_head = wrap32(uart.tx_head + 1)
    announce_tx(board)
    return True


@fn
def uart_read(board: Board, offset: u64) -> u32:
    """Read the register at `offset`."""
    uart = board.uart
    value: u32 = 0
    lock(addressof(uart.lock))
    if offset == Register.RBR_THR:
        value = uart.dll if (uart.lcr & LCR_DLAB) != 0 else pop_received(board)
    elif offset == Register.IER:
        value = uart.dlm if (uart.lcr & LCR_DLAB) != 0 else uart.ier
    elif offset == Register.IIR_FCR:
        value = interrupt_id(uart)
        if value == Iir.THRI:
            uart.thri = 0
        if (uart.fcr & FCR_ENABLE) != 0:
            value = value | Iir.FIFOS
    elif offset == Register.LCR:
        value = uart.lcr
    elif offset == Register.MCR:
        value = uart.mcr
    elif offset == Register.LSR:
        value = line_status(board)
    elif offset == Register.MSR:
        value = modem_status(uart) | uart.delta
        uart.delta = 0
    elif offset == Register.SCR:
        value = uart.scr
    if offset != Register.LSR:
        update_line(board)
    unlock(addressof(uart.lock))
    return value


@fn(inline=True)
def line_status(board: Board) -> u32:
    """LSR: no errors but a break that was asked for; data ready; room for a FIFO of bytes; transmitter empty."""
    status: u32 = 0
    uart = board.uart
    if rx_waiting(uart) != 0:
        status = LSR_DR
        if uart.break_waits != 0 and uart.rx_tail == uart.break_at and (uart.mcr & MCR_LOOP) == 0:
            status = LSR_DR | LSR_BI
    if tx_ready(board):
        status = status | (LSR_THRE | LSR_TEMT)
    return status


@fn
def uart_write(board: Board, offset: u64, value: u32) -> None:
    """Write the register at `offset`."""
    uart = board.uart
    byte: u32 = value & 0xFF
    if offset == Register.RBR_THR:
        wait_for_room(board)
    lock(addressof(uart.lock))
    if offset == Register.RBR_THR:
        if (uart.lcr & LCR_DLAB) != 0:
            uart.dll = byte
        else:
            write_thr(board, wrap8(byte))
    elif offset == Register.IER:
        if (uart.lcr & LCR_DLAB) != 0:
            uart.dlm = byte
        else:
            write_ier(board, byte & 0x0F)
    elif offset == Register.IIR_FCR:
        write_fcr(uart, byte)
    elif offset == Register.LCR:
        uart.lcr = byte
    elif offset == Register.MCR:
        write_mcr(uart, byte & MCR_BITS)
    elif offset == Register.SCR:
        uart.scr = byte
    update_line(board)
    unlock(addressof(uart.lock))


@fn
def write_thr(board: Board, value: u8) -> None:
    """One byte out: onto the line, or round to the receiver in loopback mode."""
    uart = board.uart
    if (uart.mcr & MCR_LOOP) != 0:
        if wrap32(uart.loop_head - uart.loop_tail) < UART_FIFO:
            uart.loop[uart.loop_head & LOOP_MASK] = value
            uart.loop_head = wrap32(uart.loop_head + 1)
    else:
        transmit(board, value)
    uart.thri = u32(tx_ready(board))


@fn
def write_ier(board: Board, enables: u32) -> None:
    """Enabling the transmitter interrupt while the transmitter is empty raises it."""
    uart = board.uart
    if (enables & Ier.THRI) != 0 and (uart.ier & Ier.THRI) == 0 and tx_ready(board):
        uart.thri = 1
    uart.ier = enables


@fn
def write_fcr(uart: Uart, value: u32) -> None:
    """FIFO control. Clearing the receive FIFO drops looped bytes only: what waits on the line has not arrived yet."""
    if (value & FCR_CLEAR_RX) != 0:
        uart.loop_tail = uart.loop_head
    uart.fcr = value & (FCR_ENABLE | FCR_TRIGGER)


@fn
def write_mcr(uart: Uart, value: u32) -> None:
    """Modem control; lines that change in loopback mode show in MSR's delta bits (RI only when it falls)."""
    before: u32 = modem_status(uart)
    uart.mcr = value
    after: u32 = modem_status(uart)
    changed: u32 = (before ^ after) >> 4
    if (after & 0x40) != 0:
        changed = changed & 0x0B
    uart.delta = uart.delta | changed


@fn
def uart_put(board: Board, value: u8) -> bool:
    """A byte from the built-in SBI. False when there was no room within the deadline."""
    uart = board.uart
    wait_for_room(board)
    lock(addressof(uart.lock))
    taken: bool = transmit(board, value)
    unlock(addressof(uart.lock))
    return taken


@fn
def uart_get(board: Board) -> u32:
    """A byte for the built-in SBI; 0x100 when none waits."""
    uart = board.uart
    value: u32 = 0x100
    lock(addressof(uart.lock))
    if (uart.mcr & MCR_LOOP) == 0 and rx_waiting(uart) != 0:
        value = pop_received(board)
        update_line(board)
    unlock(addressof(uart.lock))
    return value


@fn
def uart_tick(board: Board) -> None:
    """Try again what a full event queue refused. Harts call it when their budget ends."""
    uart = board.uart
    if uart.tx_announced == 0 and uart.tx_head != uart.tx_tail:
        announce_tx(board)
    announce_rx(board)


@fn
def uart_take(board: Board, into: u64, limit: u32) -> u32:
    """The link thread: move up to `limit` transmitted bytes to memory at `into`; how many."""
    uart = board.uart
    uart.tx_announced = 0
    fence()
    waiting: u32 = wrap32(uart.tx_head - uart.tx_tail)
    count: u32 = waiting if waiting < limit else limit
    for index in range(count):
        store8(into + u64(index), uart.tx[wrap32(uart.tx_tail + index) & TX_MASK])
    was_full: bool = tx_room(uart) < UART_FIFO
    uart.tx_tail = wrap32(uart.tx_tail + count)
    fence()
    if uart.tx_full != 0:
        uart.tx_full = 0
        futex_wake(addressof(uart.tx_full))
    if waiting > count:
        uart.tx_announced = 1  # the caller will come back for the rest by itself
    if was_full and count != 0:
        lock(addressof(uart.lock))
        uart.thri = u32(tx_ready(board))
        update_line(board)
        unlock(addressof(uart.lock))
    return count


@fn
def uart_give(board: Board, data: u64, count: u32) -> u32:
    """The link thread: offer `count` bytes at `data`; how many were taken. CONSOLE_RX follows a refusal."""
    uart = board.uart
    taken: u32 = 0
    while True:
        while taken < count and wrap32(uart.rx_head - uart.rx_tail) < UART_RX_RING:
            uart.rx[uart.rx_head & RX_MASK] = load8(data + u64(taken))
            uart.rx_head = wrap32(uart.rx_head + 1)
            taken = taken + 1
        if taken == count:
            break
        uart.rx_refused = 1
        fence()
        if not rx_has_room(uart):
            break
        uart.rx_refused = 0  # the guest has read on in between
    lock(addressof(uart.lock))
    update_line(board)
    unlock(addressof(uart.lock))
    return taken


@fn
def uart_break(board: Board) -> bool:
    """The link thread: a break condition on the line, which arrives as a zero byte. False: the last one waits still, or
    there is no room."""
    uart = board.uart
    if uart.break_waits != 0 or wrap32(uart.rx_head - uart.rx_tail) >= UART_RX_RING:
        return False
    uart.break_at = uart.rx_head
    uart.rx[uart.rx_head & RX_MASK] = 0
    uart.break_waits = 1
    uart.rx_head = wrap32(uart.rx_head + 1)
    lock(addressof(uart.lock))
    update_line(board)
    unlock(addressof(uart.lock))
    return True
