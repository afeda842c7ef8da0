"""What a debugger needs of a hart: breakpoints, watchpoints, single steps (core/gdb).

Nothing here costs a guest that is not debugged. A breakpoint is an address whose instruction is never kept decoded, so
that reaching it always comes through the decoder, which asks here first. A step forgets all decoded code, so that the
second instruction comes through the decoder, too; a jump back to the first is caught by `attention`. A page with a
watchpoint never enters a TLB, so that every access to it comes through the slow path, which asks here first.

A hart that stops has not begun the instruction at its pc. It holds itself (CONTROL_DEBUG), and says so in an event. The
fields are written by others only while the hart is held.
"""

from typing import Any

from core.cpu.csr import read_csr, write_csr
from core.cpu.csrs import ROW
from core.cpu.memory import host_of
from core.cpu.slots import forget_code
from core.cpu.state import (
    ATTENTION_CONTROL,
    CONTROL_DEBUG,
    MACHINE,
    PAGE_BITS,
    STEP_DONE,
    STEP_NONE,
    STEP_ONE,
    STOP_BREAKPOINT,
    STOP_STEP,
    STOP_WATCHPOINT,
    Hart,
)
from core.cpu.status import SATP_BARE, SATP_MODE_SHIFT, SATP_PPN
from core.cpu.tlb import data_privilege, flush_all
from core.cpu.walk import (
    NO_ADDRESS,
    PTE_PPN,
    PTE_PPN_SHIFT,
    PTE_R,
    PTE_V,
    PTE_X,
    SCHEME_ENTRY_SIZE,
    SCHEME_INDEX_BITS,
    SCHEME_LEVELS,
    load_entry,
)
from native import Function, addressof, atomic_or32, atomic_or64, fn, u32, u64


@fn(cold=True)
def must_stop_at(hart: Hart, pc: u64) -> bool:
    """The instruction at `pc` is about to be decoded and run: shall the hart stop before it?"""
    if hart.stepping == STEP_DONE:
        stop(hart, STOP_STEP)
        return True
    if hart.stepping == STEP_ONE:
        hart.stepping = STEP_DONE
        hold(hart)
        return False
    for index in range(hart.breakpoint_count):
        if hart.breakpoints[index] == pc:
            stop(hart, STOP_BREAKPOINT)
            return True
    return False


@fn
def stop(hart: Hart, why: u64) -> None:
    hart.stopped = why
    hold(hart)


@fn
def hold(hart: Hart) -> None:
    """Leave guest code at the next chance, and stay out."""
    atomic_or32(addressof(hart.control), CONTROL_DEBUG)
    atomic_or64(addressof(hart.attention), ATTENTION_CONTROL)


@fn(cold=True)
def take_debug_trap(hart: Hart) -> None:
    """The instruction at `hart.pc` ran into a watchpoint: nothing of it has happened."""
    hart.trap = 0
    stop(hart, STOP_WATCHPOINT)


# For the debugger, while the hart is held.


@fn
def debug_refresh(hart: Hart) -> None:
    """Breakpoints, watchpoints or memory were changed: look at everything anew."""
    forget_code(hart)
    flush_all(hart)


@fn
def debug_step(hart: Hart, skip_watches: bool) -> None:
    """When the hart goes on, it runs one instruction and takes no interrupt."""
    forget_code(hart)
    hart.stepping = STEP_ONE
    hart.watch_skip = 1 if skip_watches else 0


@fn
def debug_settle(hart: Hart) -> u64:
    """Why the hart has stopped (STOP_*), once; 0: it was asked to."""
    why = hart.stopped
    if why == 0 and hart.stepping == STEP_DONE:
        why = STOP_STEP  # it left at a jump
    hart.stopped = 0
    hart.stepping = STEP_NONE
    hart.watch_skip = 0
    return why


@fn
def debug_has_csr(csr: u64) -> bool:
    """Is there such a CSR?"""
    return ROW[csr] != 0


@fn
def debug_read_csr(hart: Hart, csr: u64) -> u64:
    """A CSR that exists, whatever the privilege."""
    return read_csr(hart, csr, u64(ROW[csr]))


@fn
def debug_write_csr(hart: Hart, csr: u64, value: u64) -> None:
    """Write a CSR that exists, whatever the privilege; what cannot be written stays."""
    write_csr(hart, csr, u64(ROW[csr]), value)


@fn
def debug_translate(hart: Hart, va: u64) -> u64:
    """The physical address of `va` in the hart's present mode, or NO_ADDRESS; permissions do not matter, and nothing
    changes."""
    mode = hart.satp >> SATP_MODE_SHIFT
    if data_privilege(hart) == MACHINE or mode == SATP_BARE:
        return va
    base = (hart.satp & SATP_PPN) << PAGE_BITS
    level = u32(SCHEME_LEVELS[mode])
    while level != 0:
        level = level - 1
        shift = PAGE_BITS + level * u32(SCHEME_INDEX_BITS[mode])
        index = va >> shift & ((u64(1) << u32(SCHEME_INDEX_BITS[mode])) - 1)
        size = u64(SCHEME_ENTRY_SIZE[mode])
        host = host_of(hart, base + index * size, size)
        if host == 0:
            return NO_ADDRESS
        entry = load_entry(host, mode)
        if entry & PTE_V == 0:
            return NO_ADDRESS
        base = (entry >> PTE_PPN_SHIFT & PTE_PPN) << PAGE_BITS
        if entry & (PTE_R | PTE_X) != 0:
            below = (u64(1) << shift) - 1
            return base & ~below | va & below
    return NO_ADDRESS


EXPORTS: list[Function[..., Any]] = [
    debug_translate,
    debug_refresh,
    debug_step,
    debug_settle,
    debug_has_csr,
    debug_read_csr,
    debug_write_csr,
]
