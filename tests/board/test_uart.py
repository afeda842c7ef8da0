"""16550: registers as drivers probe them, interrupts as they expect them, and no byte lost between two rings."""

import pytest

from core.board.state import UART_RX_RING, UART_TX_RING
from core.board.uart import uart_get, uart_give, uart_put, uart_read, uart_take, uart_write
from core.events import EventKind
from native import Area

RBR, THR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 0, 1, 2, 2, 3, 4, 5, 6, 7
DLAB, LOOP = 0x80, 0x10
RDI, THRI, MSI = 1, 2, 8
IRQ_LEVEL = 1 << 10


@pytest.fixture
def line():
    """Memory for the link thread's side of the rings."""
    area = Area.allocate(UART_TX_RING)
    yield area
    area.close()


def give(bench, line, data):
    line.view()[: len(data)] = data
    return uart_give(bench.board, line.address, len(data))


def take(bench, line, limit=UART_TX_RING):
    return bytes(line.view()[: uart_take(bench.board, line.address, limit)])


def iir(bench):
    return uart_read(bench.board, IIR) & 0x0F


def interrupting(bench):
    return bool(bench.board.plic.level & IRQ_LEVEL)


def test_an_idle_line_reads_ready_to_send(bench):
    assert uart_read(bench.board, LSR) == 0x60
    assert uart_read(bench.board, MSR) == 0xB0
    assert uart_read(bench.board, IIR) == 0x01


def test_bytes_arrive_in_order_and_one_event_is_posted_for_a_burst(bench, line):
    for byte in b"hello":
        uart_write(bench.board, THR, byte)
    assert [event[0] for event in bench.events()] == [EventKind.CONSOLE_TX]
    assert take(bench, line) == b"hello"
    uart_write(bench.board, THR, ord("!"))
    assert [event[0] for event in bench.events()] == [EventKind.CONSOLE_TX]


def test_a_full_transmit_ring_is_not_ready_and_interrupts_when_room_appears(bench, line):
    sent = 0
    while uart_read(bench.board, LSR) & 0x20:
        uart_write(bench.board, THR, sent & 0xFF)
        sent += 1
    assert sent == UART_TX_RING - 15
    uart_write(bench.board, IER, THRI)
    assert not interrupting(bench)
    assert take(bench, line, 100) == bytes(index & 0xFF for index in range(100))
    assert interrupting(bench)
    assert uart_read(bench.board, LSR) & 0x20


def test_enabling_the_transmitter_interrupt_raises_it_and_reading_iir_clears_it(bench):
    uart_write(bench.board, IER, THRI)
    assert interrupting(bench)
    assert iir(bench) == 0x02
    assert iir(bench) == 0x01
    assert not interrupting(bench)
    uart_write(bench.board, THR, 0)
    assert iir(bench) == 0x02


def test_received_bytes_interrupt_until_they_are_read(bench, line):
    uart_write(bench.board, IER, RDI)
    assert give(bench, line, b"ab") == 2
    assert interrupting(bench)
    assert iir(bench) == 0x04
    assert uart_read(bench.board, LSR) & 1
    assert uart_read(bench.board, RBR) == ord("a")
    assert interrupting(bench)
    assert uart_read(bench.board, RBR) == ord("b")
    assert not interrupting(bench)
    assert uart_read(bench.board, RBR) == 0


def test_with_fifos_the_trigger_level_tells_data_from_timeout(bench, line):
    uart_write(bench.board, FCR, 0xC1)
    uart_write(bench.board, IER, RDI)
    assert uart_read(bench.board, IIR) & 0xC0 == 0xC0
    give(bench, line, b"x")
    assert iir(bench) == 0x0C
    give(bench, line, b"y" * 13)
    assert iir(bench) == 0x04


def test_a_writer_is_told_how_much_was_taken_and_when_to_go_on(bench, line):
    text = bytes(index & 0xFF for index in range(UART_RX_RING + 100))
    assert give(bench, line, text) == UART_RX_RING
    assert give(bench, line, b"x") == 0
    received = bytes(uart_read(bench.board, RBR) for _ in range(UART_RX_RING // 2 - 1))
    assert bench.events() == []
    received += bytes([uart_read(bench.board, RBR)])
    assert [event[0] for event in bench.events()] == [EventKind.CONSOLE_RX]
    assert give(bench, line, text[UART_RX_RING:]) == 100
    received += bytes(uart_read(bench.board, RBR) for _ in range(UART_RX_RING // 2 + 100))
    assert received == text
    assert bench.events() == []


def test_clearing_the_receive_fifo_keeps_what_waits_on_the_line(bench, line):
    give(bench, line, b"early")
    uart_write(bench.board, FCR, 0x07)
    assert bytes(uart_read(bench.board, RBR) for _ in range(5)) == b"early"


def test_dlab_switches_to_the_divisor_latch(bench):
    uart_write(bench.board, LCR, DLAB | 3)
    uart_write(bench.board, THR, 0x12)
    uart_write(bench.board, IER, 0x34)
    assert (uart_read(bench.board, RBR), uart_read(bench.board, IER)) == (0x12, 0x34)
    uart_write(bench.board, LCR, 3)
    assert uart_read(bench.board, IER) == 0
    assert bench.events() == []


def test_scratch_and_enables_keep_their_bits(bench):
    uart_write(bench.board, SCR, 0x1A5)
    uart_write(bench.board, IER, 0xFF)
    assert uart_read(bench.board, SCR) == 0xA5
    assert uart_read(bench.board, IER) == 0x0F


def test_loopback_crosses_the_modem_lines(bench):
    uart_write(bench.board, MCR, LOOP | 0x0A)
    assert uart_read(bench.board, MSR) & 0xF0 == 0x90
    uart_write(bench.board, MCR, LOOP | 0x05)
    assert uart_read(bench.board, MSR) & 0xF0 == 0x60


def test_loopback_returns_bytes_and_leaves_the_line_alone(bench, line):
    give(bench, line, b"outside")
    uart_write(bench.board, MCR, LOOP)
    assert uart_read(bench.board, LSR) & 1 == 0
    for byte in range(20):
        uart_write(bench.board, THR, byte)
    assert [uart_read(bench.board, RBR) for _ in range(16)] == list(range(16))
    assert uart_read(bench.board, LSR) & 1 == 0
    uart_write(bench.board, MCR, 0)
    assert uart_read(bench.board, RBR) == ord("o")
    assert take(bench, line) == b""


def test_modem_lines_that_change_show_once(bench):
    uart_write(bench.board, MCR, LOOP)
    uart_write(bench.board, IER, MSI)
    assert interrupting(bench)
    assert uart_read(bench.board, MSR) & 0x0B == 0x0B
    assert not interrupting(bench)
    assert uart_read(bench.board, MSR) & 0x0F == 0


def test_the_sbi_shares_the_rings(bench, line):
    assert uart_get(bench.board) > 0xFF
    give(bench, line, b"k")
    assert uart_get(bench.board) == ord("k")
    assert uart_put(bench.board, ord("p"))
    assert take(bench, line) == b"p"


def test_a_stopping_machine_does_not_wait_for_room(bench):
    while uart_read(bench.board, LSR) & 0x20:
        uart_write(bench.board, THR, 0)
    bench.board.stopping = 1
    for _ in range(32):
        uart_write(bench.board, THR, 0)
    assert not uart_put(bench.board, 0)
