"""The built-in SBI: the supervisor execution environment of a machine that starts without firmware.

RISC-V SBI specification 2.0: base, TIME, IPI, RFENCE, HSM, SRST, DBCN, and of the legacy extensions set_timer, console,
IPI, fences and shutdown. An ecall from S-mode arrives in `sbi_call` and never enters M-mode guest code: `a7` names the
extension, `a6` the function; `a0` and `a1` return error and value (a legacy call returns in `a0` alone).

Timers live in stimecmp, which the board compares whether or not the guest may see that CSR. Console addresses in DBCN
are physical, as the specification says, and must lie in RAM. Stopping, starting and suspending harts is in hsm.py.
"""

from enum import IntEnum

from core.board.bus import host_address
from core.board.clint import timer_tick
from core.board.hsm import hart_start, hart_status, hart_stop, hart_suspend
from core.board.power import power_off
from core.board.sbi_numbers import A0, A1, A2, A6, A7, Extension, SbiError, answer, answer_value
from core.board.state import Board
from core.board.uart import uart_get, uart_put
from core.cpu.requests import request_others
from core.cpu.signal import clear_mip, set_mip
from core.cpu.state import ATTENTION_FENCE_I, REQUEST_FENCE_I, REQUEST_FLUSH_TLB, Hart
from core.cpu.status import MIP_SSIP, MIP_STIP, PMP_R
from core.cpu.tlb import flush_translations
from core.cpu.walk import translate
from core.events import PowerReason
from native import addressof, atomic_or64, fn, load8, load64, store8, table, u32, u64, wrap8, wrap64

VERSION = 0x02000000  # major 2, minor 0
IMPLEMENTATION_ID = 0x626B  # "bk"; not registered
IMPLEMENTATION_VERSION = 1
ALL_HARTS = 0xFFFF_FFFF_FFFF_FFFF  # hart_mask_base that means every hart
MINUS_ONE = 0xFFFF_FFFF_FFFF_FFFF

EXTENSION_COUNT = len(Extension)
EXTENSIONS = table(u64, [member.value for member in Extension])


class Base(IntEnum):
    """Functions of the base extension (chapter 4)."""

    GET_SPEC_VERSION = 0
    GET_IMPL_ID = 1
    GET_IMPL_VERSION = 2
    PROBE_EXTENSION = 3
    GET_MVENDORID = 4
    GET_MARCHID = 5
    GET_MIMPID = 6


class Rfence(IntEnum):
    """Functions of the RFENCE extension (chapter 8) without the hypervisor's."""

    FENCE_I = 0
    SFENCE_VMA = 1
    SFENCE_VMA_ASID = 2


class Hsm(IntEnum):
    """Functions of the HSM extension (chapter 9)."""

    HART_START = 0
    HART_STOP = 1
    HART_GET_STATUS = 2
    HART_SUSPEND = 3


class Dbcn(IntEnum):
    """Functions of the debug console extension (chapter 12)."""

    WRITE = 0
    READ = 1
    WRITE_BYTE = 2


class Srst(IntEnum):
    """Reset types (chapter 10), and the one reason that is told apart."""

    SHUTDOWN = 0
    COLD_REBOOT = 1
    WARM_REBOOT = 2


SYSTEM_FAILURE = 1  # reset reason


@fn
def sbi_call(hart: Hart) -> None:
    """Carry out the ecall at hart.pc; the hart goes on behind it, or wherever HSM sends it."""
    board = Board(hart.board)
    extension: u64 = hart.x[A7]
    hart.pc = wrap64(hart.pc + 4)
    if extension == Extension.TIME:
        time_call(board, hart)
    elif extension == Extension.IPI:
        ipi_call(board, hart)
    elif extension == Extension.RFENCE:
        rfence_call(board, hart, hart.x[A6], hart.x[A0], hart.x[A1])
    elif extension == Extension.BASE:
        base_call(hart, hart.x[A6])
    elif extension == Extension.HSM:
        hsm_call(board, hart, hart.x[A6])
    elif extension == Extension.SRST:
        reset_call(board, hart)
    elif extension == Extension.DBCN:
        console_call(board, hart, hart.x[A6])
    elif extension <= Extension.LEGACY_SHUTDOWN:
        legacy_call(board, hart, extension)
    else:
        answer(hart, SbiError.NOT_SUPPORTED)


@fn
def base_call(hart: Hart, function: u64) -> None:
    """Chapter 4."""
    if function == Base.GET_SPEC_VERSION:
        answer_value(hart, VERSION)
    elif function == Base.GET_IMPL_ID:
        answer_value(hart, IMPLEMENTATION_ID)
    elif function == Base.GET_IMPL_VERSION:
        answer_value(hart, IMPLEMENTATION_VERSION)
    elif function == Base.PROBE_EXTENSION:
        answer_value(hart, u64(is_extension(hart.x[A0])))
    elif function <= Base.GET_MIMPID:
        answer_value(hart, 0)  # mvendorid, marchid, mimpid: not a commercial implementation
    else:
        answer(hart, SbiError.NOT_SUPPORTED)


@fn
def is_extension(number: u64) -> bool:
    """Is it one of those that answer here?"""
    for index in range(EXTENSION_COUNT):  # noqa: SIM110
        if EXTENSIONS[index] == number:
            return True
    return False


@fn
def time_call(board: Board, hart: Hart) -> None:
    """Chapter 6: set_timer, also clears the pending timer interrupt."""
    if hart.x[A6] != 0:
        answer(hart, SbiError.NOT_SUPPORTED)
        return
    set_timer(board, hart, hart.x[A0])
    answer(hart, SbiError.SUCCESS)


@fn
def set_timer(board: Board, hart: Hart, due: u64) -> None:
    """STIP rises when mtime reaches `due`."""
    hart.stimecmp = due
    clear_mip(hart, MIP_STIP)
    timer_tick(board, hart)


@fn
def selected_harts(board: Board, mask: u64, base: u64) -> u64:
    """Bits of the harts that a hart_mask and hart_mask_base name (3.1); 0: one of them does not exist."""
    everybody: u64 = (u64(1) << board.nharts) - 1
    if base == ALL_HARTS:
        return everybody
    if base >= u64(board.nharts) or (mask & ~(everybody >> base)) != 0:
        return 0
    return mask << base


@fn
def send_ipis(board: Board, harts: u64) -> None:
    """A software interrupt for each of them."""
    for index in range(board.nharts):
        if (harts >> index & 1) != 0:
            set_mip(Hart(board.harts[index]), MIP_SSIP)


@fn
def ipi_call(board: Board, hart: Hart) -> None:
    """Chapter 7: send_ipi."""
    mask: u64 = hart.x[A0]
    if hart.x[A6] != 0:
        answer(hart, SbiError.NOT_SUPPORTED)
        return
    harts: u64 = selected_harts(board, mask, hart.x[A1])
    if harts == 0 and mask != 0:
        answer(hart, SbiError.INVALID_PARAM)
        return
    send_ipis(board, harts)
    answer(hart, SbiError.SUCCESS)


@fn
def rfence_call(board: Board, hart: Hart, function: u64, mask: u64, base: u64) -> None:
    """Chapter 8. Ranges and address space identifiers are hints: everything is flushed."""
    if function > Rfence.SFENCE_VMA_ASID:
        answer(hart, SbiError.NOT_SUPPORTED)
        return
    harts: u64 = selected_harts(board, mask, base)
    if harts == 0 and mask != 0:
        answer(hart, SbiError.INVALID_PARAM)
        return
    fence_harts(hart, harts, function)
    answer(hart, SbiError.SUCCESS)


@fn
def fence_harts(hart: Hart, harts: u64, function: u64) -> None:
    """A fence on each of the harts, done before this returns."""
    request: u32 = REQUEST_FENCE_I if function == Rfence.FENCE_I else REQUEST_FLUSH_TLB
    if (harts & hart.peer_bit) != 0:
        if function == Rfence.FENCE_I:
            atomic_or64(addressof(hart.attention), ATTENTION_FENCE_I)
        else:
            flush_translations(hart)
    request_others(hart, harts, request)


@fn
def hsm_call(board: Board, hart: Hart, function: u64) -> None:
    """Chapter 9."""
    if function == Hsm.HART_START:
        hart_start(board, hart, hart.x[A0], hart.x[A1], hart.x[A2])
    elif function == Hsm.HART_STOP:
        hart_stop(board, hart)
    elif function == Hsm.HART_GET_STATUS:
        hart_status(board, hart, hart.x[A0])
    elif function == Hsm.HART_SUSPEND:
        hart_suspend(board, hart, hart.x[A0], hart.x[A1], hart.x[A2])
    else:
        answer(hart, SbiError.NOT_SUPPORTED)


@fn
def reset_call(board: Board, hart: Hart) -> None:
    """Chapter 10: system_reset. A shutdown for "system failure" is a panic."""
    kind: u64 = hart.x[A0] & 0xFFFFFFFF
    if hart.x[A6] != 0:
        answer(hart, SbiError.NOT_SUPPORTED)
    elif kind > Srst.WARM_REBOOT:
        answer(hart, SbiError.INVALID_PARAM)
    elif kind != Srst.SHUTDOWN:
        power_off(board, PowerReason.RESET, 0)
    elif (hart.x[A1] & 0xFFFFFFFF) == SYSTEM_FAILURE:
        power_off(board, PowerReason.PANIC, 0)
    else:
        power_off(board, PowerReason.POWEROFF, 0)


@fn
def console_call(board: Board, hart: Hart, function: u64) -> None:
    """Chapter 12."""
    if function == Dbcn.WRITE_BYTE:
        sent: bool = uart_put(board, wrap8(hart.x[A0]))
        answer(hart, SbiError.SUCCESS if sent else SbiError.FAILED)
        return
    if function > Dbcn.WRITE_BYTE:
        answer(hart, SbiError.NOT_SUPPORTED)
        return
    count: u64 = hart.x[A0]
    host: u64 = 0
    if hart.x[A2] == 0 and count != 0:
        host = host_address(board, hart.x[A1], count)
    if host == 0 and count != 0:
        answer(hart, SbiError.INVALID_PARAM)
    elif function == Dbcn.WRITE:
        answer_value(hart, console_write(board, host, count))
    else:
        answer_value(hart, console_read(board, host, count))


@fn
def console_write(board: Board, host: u64, count: u64) -> u64:
    """Bytes of RAM to the console; how many went."""
    done: u64 = 0
    while done < count and uart_put(board, load8(host + done)):
        done = done + 1
    return done


@fn
def console_read(board: Board, host: u64, count: u64) -> u64:
    """What waits on the console into RAM; how many bytes came."""
    done: u64 = 0
    while done < count:
        byte: u32 = uart_get(board)
        if byte > 0xFF:
            break
        store8(host + done, wrap8(byte))
        done = done + 1
    return done


@fn
def legacy_call(board: Board, hart: Hart, extension: u64) -> None:
    """Chapter 5: what SBI 0.1 had; a0 is all that is returned."""
    result: u64 = 0
    if extension == Extension.LEGACY_SET_TIMER:
        set_timer(board, hart, hart.x[A0])
    elif extension == Extension.LEGACY_PUTCHAR:
        uart_put(board, wrap8(hart.x[A0]))
    elif extension == Extension.LEGACY_GETCHAR:
        byte: u32 = uart_get(board)
        result = MINUS_ONE if byte > 0xFF else u64(byte)
    elif extension == Extension.LEGACY_CLEAR_IPI:
        clear_mip(hart, MIP_SSIP)
    elif extension == Extension.LEGACY_SHUTDOWN:
        power_off(board, PowerReason.POWEROFF, 0)
    else:
        result = legacy_to_harts(board, hart, extension)
    hart.x[A0] = result


@fn
def legacy_to_harts(board: Board, hart: Hart, extension: u64) -> u64:
    """The calls that point to a hart mask, by a virtual address; 0 there means every hart."""
    harts: u64 = selected_harts(board, 0, ALL_HARTS)
    at: u64 = hart.x[A0]
    if at != 0:
        host: u64 = 0
        if (at & 7) == 0:
            host = host_address(board, translate(hart, at, 8, PMP_R), 8)
        hart.trap = 0  # an address that cannot be read is an error of the call, not a trap
        if host == 0:
            return SbiError.INVALID_ADDRESS
        harts = harts & load64(host)
    if extension == Extension.LEGACY_SEND_IPI:
        send_ipis(board, harts)
    elif extension == Extension.LEGACY_FENCE_I:
        fence_harts(hart, harts, Rfence.FENCE_I)
    else:
        fence_harts(hart, harts, Rfence.SFENCE_VMA)
    return 0
