"""The built-in SBI: what a supervisor may ask, what it is told when it asks for what is not there, and hart states."""

import threading

import pytest

from core.board.clock import board_time
from core.board.hsm import enter_supervisor, hsm_wait, supervise
from core.board.poll import board_tick
from core.board.sbi import sbi_call
from core.board.sbi_numbers import Extension, SbiError
from core.board.state import HsmState
from core.board.uart import uart_give, uart_take
from core.board.virt import RAM_BASE
from core.cpu.signal import control_hart
from core.cpu.state import CONTROL_EXIT, REQUEST_FENCE_I, REQUEST_FLUSH_TLB, SUPERVISOR, Hart
from core.cpu.status import MIP_SSIP, MIP_STIP
from core.cpu.tlb import reset_tlbs
from core.events import EventKind, PowerReason
from native import Area

A0, A1, A2, A6, A7 = 10, 11, 12, 16, 17
ALL = (1 << 64) - 1
PC = RAM_BASE + 0x100


@pytest.fixture
def machine(bench):
    """Two harts under the built-in SBI: the first begins, the second is stopped."""
    bench.board.sbi.enabled = 1
    peers = Area.allocate(16)
    words = peers.view().cast("Q")
    for index, hart in enumerate(bench.harts):
        words[index] = hart.address
        hart.peers, hart.peer_count = peers.address, len(bench.harts)
        reset_tlbs(hart)
        supervise(hart, False)
        bench.board.sbi.harts[index].state = HsmState.STARTED if index == 0 else HsmState.STOPPED
    enter_supervisor(bench.harts[0], PC, 0x1234)
    bench.harts[0].attention = 0
    bench.harts[1].parked = 1
    yield bench
    words.release()
    peers.close()


def call(bench, extension, function=0, *arguments, hart=0) -> tuple[int, int]:
    """(error, value) of an SBI call."""
    caller: Hart = bench.harts[hart]
    for number, value in enumerate(arguments):
        caller.x[A0 + number] = value
    caller.x[A6], caller.x[A7] = function, extension
    before = caller.pc
    sbi_call(caller)
    assert caller.pc == before + 4
    return caller.x[A0], caller.x[A1]


def test_the_first_hart_begins_in_s_mode_with_its_id_and_the_device_tree(machine):
    hart = machine.harts[0]
    assert (hart.privilege, hart.pc, hart.x[A0], hart.x[A1]) == (SUPERVISOR, PC, 0, 0x1234)
    assert hart.medeleg == 0xB1FF and hart.mideleg == 0x222


def test_it_is_version_2(machine):
    assert call(machine, Extension.BASE, 0) == (0, 0x02000000)


@pytest.mark.parametrize("extension", [member for member in Extension if member != Extension.BASE])
def test_every_extension_can_be_probed(machine, extension):
    assert call(machine, Extension.BASE, 3, extension) == (0, 1)


def test_what_is_not_there_is_not_supported(machine):
    assert call(machine, Extension.BASE, 3, 0x504D55) == (0, 0)
    for extension in (0x504D55, 0x09, 0x0F, ALL):
        assert call(machine, extension)[0] == SbiError.NOT_SUPPORTED
    for extension in (Extension.BASE, Extension.TIME, Extension.IPI, Extension.RFENCE, Extension.HSM, Extension.SRST):
        assert call(machine, extension, 99)[0] == SbiError.NOT_SUPPORTED


def test_the_timer_raises_stip_when_its_time_comes_and_setting_it_clears(machine):
    hart = machine.harts[0]
    assert call(machine, Extension.TIME, 0, board_time(machine.board))[0] == 0
    assert hart.mip == MIP_STIP
    call(machine, Extension.TIME, 0, ALL)
    assert hart.mip == 0
    call(machine, Extension.LEGACY_SET_TIMER, 0, board_time(machine.board) + 100)
    while board_time(machine.board) < hart.stimecmp:
        pass
    board_tick(hart)
    assert hart.mip == MIP_STIP


def test_ipis_reach_the_harts_of_the_mask(machine):
    assert call(machine, Extension.IPI, 0, 1, 1)[0] == 0
    assert [hart.mip for hart in machine.harts] == [0, MIP_SSIP]
    assert call(machine, Extension.IPI, 0, 0, ALL)[0] == 0
    assert [hart.mip for hart in machine.harts] == [MIP_SSIP, MIP_SSIP]


@pytest.mark.parametrize(("mask", "base"), [(4, 0), (1, 2), (2, 1), (1, 1 << 63)])
def test_a_mask_with_a_hart_that_does_not_exist_is_invalid(machine, mask, base):
    assert call(machine, Extension.IPI, 0, mask, base)[0] == SbiError.INVALID_PARAM
    assert call(machine, Extension.RFENCE, 0, mask, base)[0] == SbiError.INVALID_PARAM


def test_remote_fences_are_requests_to_the_others(machine):
    assert call(machine, Extension.RFENCE, 0, 0b10, 0)[0] == 0
    assert machine.harts[1].requests == REQUEST_FENCE_I
    assert call(machine, Extension.RFENCE, 1, 0, ALL, 0, ALL)[0] == 0
    assert machine.harts[1].requests == REQUEST_FENCE_I | REQUEST_FLUSH_TLB


def test_a_hart_is_started_stopped_and_says_so(machine):
    other = machine.harts[1]
    assert call(machine, Extension.HSM, 2, 1) == (0, HsmState.STOPPED)
    assert call(machine, Extension.HSM, 0, 1, RAM_BASE + 0x40, 77)[0] == 0
    assert call(machine, Extension.HSM, 2, 1) == (0, HsmState.START_PENDING)
    hsm_wait(other)
    assert (other.pc, other.x[A0], other.x[A1], other.privilege) == (RAM_BASE + 0x40, 1, 77, SUPERVISOR)
    assert call(machine, Extension.HSM, 2, 1) == (0, HsmState.STARTED)
    assert call(machine, Extension.HSM, 0, 1, RAM_BASE, 0)[0] == SbiError.ALREADY_AVAILABLE


def test_a_stopped_hart_waits_until_it_is_started_or_must_leave(machine):
    other = machine.harts[1]
    for release in (
        lambda: call(machine, Extension.HSM, 0, 1, RAM_BASE + 0x40, 0),
        lambda: control_hart(other, CONTROL_EXIT),
    ):
        machine.board.sbi.harts[1].state = HsmState.STOPPED
        thread = threading.Thread(target=hsm_wait, args=(other,))
        thread.start()
        thread.join(0.02)
        assert thread.is_alive()
        release()
        thread.join(60)
        assert not thread.is_alive()


def test_starting_what_cannot_be_started_is_refused(machine):
    assert call(machine, Extension.HSM, 0, 2, RAM_BASE, 0)[0] == SbiError.INVALID_PARAM
    assert call(machine, Extension.HSM, 0, 1, 0x10000000, 0)[0] == SbiError.INVALID_ADDRESS
    assert call(machine, Extension.HSM, 2, 9)[0] == SbiError.INVALID_PARAM


def test_suspending_waits_for_an_interrupt(machine):
    assert call(machine, Extension.HSM, 3, 0)[0] == 0
    assert machine.harts[0].waiting == 1
    assert call(machine, Extension.HSM, 3, 5)[0] == SbiError.INVALID_PARAM


@pytest.mark.parametrize(
    ("kind", "reason", "expected"),
    [
        (0, 0, PowerReason.POWEROFF),
        (0, 1, PowerReason.PANIC),
        (1, 0, PowerReason.RESET),
        (2, 0, PowerReason.RESET),
    ],
)
def test_a_system_reset_ends_the_machine(machine, kind, reason, expected):
    call(machine, Extension.SRST, 0, kind, reason)
    assert machine.events() == [(EventKind.POWER, 0, expected, 0)]


def test_the_debug_console_moves_bytes_of_ram(machine):
    text = b"console\n"
    machine.ram.view()[0x1000 : 0x1000 + len(text)] = text
    assert call(machine, Extension.DBCN, 0, len(text), RAM_BASE + 0x1000, 0) == (0, len(text))
    assert call(machine, Extension.DBCN, 2, ord("!")) == (0, 0)
    buffer = machine.ram.address + 0x2000
    assert uart_take(machine.board, buffer, 100) == len(text) + 1
    assert bytes(machine.ram.view()[0x2000 : 0x2000 + len(text) + 1]) == text + b"!"
    machine.ram.view()[0x2000:0x2003] = b"abc"
    uart_give(machine.board, buffer, 3)
    assert call(machine, Extension.DBCN, 1, 100, RAM_BASE + 0x3000, 0) == (0, 3)
    assert bytes(machine.ram.view()[0x3000:0x3003]) == b"abc"


@pytest.mark.parametrize(("low", "high"), [(0x10000000, 0), (RAM_BASE + (1 << 20) - 4, 0), (RAM_BASE, 1)])
def test_the_debug_console_takes_ram_only(machine, low, high):
    assert call(machine, Extension.DBCN, 0, 8, low, high)[0] == SbiError.INVALID_PARAM


def test_the_legacy_calls_still_work(machine):
    assert call(machine, Extension.LEGACY_GETCHAR)[0] == ALL
    call(machine, Extension.LEGACY_PUTCHAR, 0, ord("x"))
    assert [event[0] for event in machine.events()] == [EventKind.CONSOLE_TX]
    machine.ram.view()[0x800:0x808] = (0b10).to_bytes(8, "little")
    assert call(machine, Extension.LEGACY_SEND_IPI, 0, RAM_BASE + 0x800)[0] == 0
    assert [hart.mip for hart in machine.harts] == [0, MIP_SSIP]
    assert call(machine, Extension.LEGACY_SEND_IPI, 0, 0x10)[0] == SbiError.INVALID_ADDRESS
    call(machine, Extension.LEGACY_SHUTDOWN)
    assert machine.events() == [(EventKind.POWER, 0, PowerReason.POWEROFF, 0)]
