"""Traps: how they are entered and returned from, and the instructions that cause them (privileged ISA, 3.1, 3.3, 10.1).

A fault leaves its cause in `hart.trap` and `hart.tval`; `take_trap` then goes to the handler. Interrupts do not pass
through `hart.trap`: `attend` takes them between instructions.
"""

from core.board.sbi import sbi_call
from core.cpu.debug import take_debug_trap
from core.cpu.faults import raise_exception, raise_illegal
from core.cpu.fetch import read_instruction
from core.cpu.interrupts import look_again
from core.cpu.state import ATTENTION_WAIT, MACHINE, SUPERVISOR, TRAP_DEBUG, USER, Hart
from core.cpu.status import (
    CAUSE_BREAKPOINT,
    CAUSE_ECALL_USER,
    CAUSE_ILLEGAL,
    INTERRUPT,
    MSTATUS_MIE,
    MSTATUS_MPIE,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_SIE,
    MSTATUS_SPIE,
    MSTATUS_SPP,
    MSTATUS_TSR,
    MSTATUS_TVM,
    MSTATUS_TW,
)
from core.cpu.tlb import flush_page, flush_translations, select_banks
from native import addressof, atomic_or64, fn, u64


@fn
def take_trap(hart: Hart) -> None:
    """The instruction at `hart.pc` raised the exception in `hart.trap`: go to the handler."""
    if hart.trap == TRAP_DEBUG:
        take_debug_trap(hart)
        return
    cause = hart.trap - 1
    tval = hart.tval
    if cause == CAUSE_ILLEGAL:
        tval = read_instruction(hart, hart.pc)
    elif cause == CAUSE_BREAKPOINT:
        tval = hart.pc
    hart.trap = 0
    hart.traps = hart.traps + 1
    enter_trap(hart, cause, tval, hart.medeleg)


@fn
def take_interrupt(hart: Hart, cause: u64) -> None:
    """Take an interrupt before the instruction at `hart.pc`."""
    hart.interrupts = hart.interrupts + 1
    enter_trap(hart, cause, 0, hart.mideleg)


@fn
def enter_trap(hart: Hart, cause: u64, tval: u64, delegated: u64) -> None:
    """To S-mode what is delegated and did not come from M-mode, else to M-mode (3.1.8)."""
    if hart.privilege <= SUPERVISOR and delegated >> (cause & 63) & 1 != 0:
        hart.scause = cause
        hart.sepc = hart.pc
        hart.stval = tval
        status = hart.mstatus & ~(MSTATUS_SPIE | MSTATUS_SIE | MSTATUS_SPP)
        if hart.mstatus & MSTATUS_SIE != 0:
            status = status | MSTATUS_SPIE
        if hart.privilege == SUPERVISOR:
            status = status | MSTATUS_SPP
        hart.mstatus = status
        hart.privilege = SUPERVISOR
        hart.pc = vector(hart.stvec, cause)
    else:
        hart.mcause = cause
        hart.mepc = hart.pc
        hart.mtval = tval
        status = hart.mstatus & ~(MSTATUS_MPIE | MSTATUS_MIE | MSTATUS_MPP)
        if hart.mstatus & MSTATUS_MIE != 0:
            status = status | MSTATUS_MPIE
        hart.mstatus = status | hart.privilege << MSTATUS_MPP_SHIFT
        hart.privilege = MACHINE
        hart.pc = vector(hart.mtvec, cause)
    select_banks(hart)


@fn(inline=True)
def vector(tvec: u64, cause: u64) -> u64:
    """Where the handler is: interrupts have one each in vectored mode (3.1.7)."""
    base = tvec & ~3
    if tvec & 1 != 0 and cause & INTERRUPT != 0:
        return base + 4 * (cause & 63)
    return base


@fn
def do_mret(hart: Hart) -> None:
    """MRET (3.1.6.1, 3.3.2)."""
    if hart.privilege != MACHINE:
        raise_illegal(hart)
        return
    previous = (hart.mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
    status = hart.mstatus & ~(MSTATUS_MIE | MSTATUS_MPP) | MSTATUS_MPIE
    if hart.mstatus & MSTATUS_MPIE != 0:
        status = status | MSTATUS_MIE
    hart.mstatus = status
    return_to(hart, previous, hart.mepc)


@fn
def do_sret(hart: Hart) -> None:
    """SRET; mstatus.TSR makes it illegal in S-mode (3.1.6.5)."""
    if hart.privilege == USER or (hart.privilege == SUPERVISOR and hart.mstatus & MSTATUS_TSR != 0):
        raise_illegal(hart)
        return
    previous: u64 = SUPERVISOR if hart.mstatus & MSTATUS_SPP != 0 else USER
    status = hart.mstatus & ~(MSTATUS_SIE | MSTATUS_SPP) | MSTATUS_SPIE
    if hart.mstatus & MSTATUS_SPIE != 0:
        status = status | MSTATUS_SIE
    hart.mstatus = status
    return_to(hart, previous, hart.sepc)


@fn
def return_to(hart: Hart, privilege: u64, pc: u64) -> None:
    """What both returns do: leaving M-mode clears MPRV; interrupts are looked at anew."""
    if privilege != MACHINE:
        hart.mstatus = hart.mstatus & ~MSTATUS_MPRV
    hart.privilege = privilege
    hart.pc = pc
    select_banks(hart)
    look_again(hart)


@fn
def do_ecall(hart: Hart) -> None:
    """ECALL: the built-in SBI answers those of S-mode, if it is on, and moves the pc; all others trap (3.3.1)."""
    if hart.sbi != 0 and hart.privilege == SUPERVISOR:
        sbi_call(hart)
    else:
        raise_exception(hart, CAUSE_ECALL_USER + hart.privilege, 0)


@fn
def do_ebreak(hart: Hart) -> None:
    raise_exception(hart, CAUSE_BREAKPOINT, 0)


@fn
def do_wfi(hart: Hart) -> None:
    """WFI: `attend` waits. Not for U-mode, nor for S-mode with mstatus.TW (3.1.6.5, 3.3.3)."""
    if hart.privilege == USER or (hart.privilege == SUPERVISOR and hart.mstatus & MSTATUS_TW != 0):
        raise_illegal(hart)
        return
    hart.waiting = 1
    atomic_or64(addressof(hart.attention), ATTENTION_WAIT)


@fn
def do_sfence_vma(hart: Hart, va: u64, rs1: u64, asid: u64, rs2: u64) -> None:
    """SFENCE.VMA with the numbers of its registers: x0 as rs1 means every address (10.2.1). There are no ASIDs, so rs2
    makes no difference. mstatus.TVM makes it illegal in S-mode."""
    if hart.privilege == USER or (hart.privilege == SUPERVISOR and hart.mstatus & MSTATUS_TVM != 0):
        raise_illegal(hart)
        return
    if rs1 != 0:
        flush_page(hart, va)
    else:
        flush_translations(hart)
