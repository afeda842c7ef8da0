"""Which interrupt is due (privileged ISA, 3.1.6.1, 3.1.9 and 10.1.3)."""

from core.cpu.state import ATTENTION_INTERRUPT, MACHINE, SUPERVISOR, Hart
from core.cpu.status import (
    INTERRUPT,
    MIP_MEIP,
    MIP_MSIP,
    MIP_MTIP,
    MIP_SEIP,
    MIP_SSIP,
    MIP_STIP,
    MSTATUS_MIE,
    MSTATUS_SIE,
)
from native import addressof, atomic_or64, ctz64, fn, u64

NO_INTERRUPT = 0


@fn(inline=True)
def pending_bits(hart: Hart) -> u64:
    """mip as software reads it: SEIP is the line from the PLIC or the bit that M-mode wrote."""
    return hart.mip | hart.software_seip


@fn
def due_interrupt(hart: Hart) -> u64:
    """The mcause of the interrupt to take now, or NO_INTERRUPT."""
    pending = pending_bits(hart) & hart.mie
    if pending == 0:
        return NO_INTERRUPT
    if hart.privilege < MACHINE or hart.mstatus & MSTATUS_MIE != 0:
        machine = pending & ~hart.mideleg
        if machine != 0:
            return INTERRUPT | highest(machine)
    if hart.privilege < SUPERVISOR or (hart.privilege == SUPERVISOR and hart.mstatus & MSTATUS_SIE != 0):
        supervisor = pending & hart.mideleg
        if supervisor != 0:
            return INTERRUPT | highest(supervisor)
    return NO_INTERRUPT


@fn
def highest(pending: u64) -> u64:
    """The number of the interrupt that comes first: MEI, MSI, MTI, SEI, SSI, STI (3.1.9)."""
    if pending & MIP_MEIP != 0:
        return ctz64(MIP_MEIP)
    if pending & MIP_MSIP != 0:
        return ctz64(MIP_MSIP)
    if pending & MIP_MTIP != 0:
        return ctz64(MIP_MTIP)
    if pending & MIP_SEIP != 0:
        return ctz64(MIP_SEIP)
    if pending & MIP_SSIP != 0:
        return ctz64(MIP_SSIP)
    return ctz64(MIP_STIP)


@fn
def look_again(hart: Hart) -> None:
    """Something that interrupts depend on has changed: if one is due, it is taken before the next instruction."""
    if due_interrupt(hart) != NO_INTERRUPT:
        atomic_or64(addressof(hart.attention), ATTENTION_INTERRUPT)
