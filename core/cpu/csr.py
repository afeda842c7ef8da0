"""CSR instructions: permission, reading, writing (privileged ISA, chapters 2, 3 and 10). The CSRs are in csrs.py.

Reading has no side effects. A write takes effect before the next instruction; where it changes which interrupts are
due or how the next instruction is fetched, `attention` is left not zero.
"""

from core.board.clint import timer_tick
from core.board.clock import board_time
from core.board.state import Board
from core.cpu.csrs import ROW, ROW_KIND, ROW_NEEDS, ROW_OFFSET, ROW_VALUE, ROW_WRITABLE, Kind, Needs
from core.cpu.faults import raise_illegal
from core.cpu.interrupts import look_again, pending_bits
from core.cpu.pmp import read_pmpcfg, write_pmpaddr, write_pmpcfg
from core.cpu.state import ATTENTION_REFETCH, MACHINE, SUPERVISOR, Hart, retired
from core.cpu.status import (
    COUNTER_CY,
    COUNTER_IR,
    COUNTER_TM,
    ENVCFG_STCE,
    MIP_SEIP,
    MIP_SSIP,
    MIP_STIP,
    MSTATUS_FS,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_MXR,
    MSTATUS_SD,
    MSTATUS_SUM,
    MSTATUS_TVM,
    MSTATUS_WRITABLE,
    SATP_MODE_SHIFT,
    SATP_PPN,
    SSTATUS_VISIBLE,
    SSTATUS_WRITABLE,
)
from core.cpu.tlb import flush_all, flush_translations, select_banks
from native import addressof, atomic_and64, atomic_or64, fn, load64, store64, u64, wrap64

CSR_WRITE = 0
CSR_SET = 1
CSR_CLEAR = 2


@fn
def csr_access(hart: Hart, csr: u64, operation: u64, value: u64, writes: bool, reads: bool) -> u64:
    """A CSR instruction: the old value. `writes` and `reads` are what the encoding says (Zicsr, table 9.1)."""
    row = u64(ROW[csr])
    if row == 0 or not may_access(hart, csr, row, writes):
        raise_illegal(hart)
        return 0
    old = read_csr(hart, csr, row)
    if writes:
        new = value
        if operation == CSR_SET:
            new = written_view(hart, row, old) | value
        elif operation == CSR_CLEAR:
            new = written_view(hart, row, old) & ~value
        write_csr(hart, csr, row, new)
    return old


@fn
def may_access(hart: Hart, csr: u64, row: u64, writes: bool) -> bool:
    """Privilege and direction by the address (2.1), then what the row needs."""
    if csr >> 8 & 3 > hart.privilege or (writes and csr >> 10 == 3):
        return False
    needs = u64(ROW_NEEDS[row])
    if needs == 0 or needs == Needs.INTERRUPTS:
        return True
    if needs == Needs.FP:
        if hart.mstatus & MSTATUS_FS == 0:
            return False
        if writes:
            hart.mstatus = hart.mstatus | MSTATUS_FS
    elif needs == Needs.COUNTER:
        enabled = hart.mcounteren if hart.privilege == SUPERVISOR else hart.mcounteren & hart.scounteren
        return hart.privilege == MACHINE or enabled >> (csr & 31) & 1 != 0
    elif needs == Needs.VIRTUAL_MEMORY:
        return hart.privilege == MACHINE or hart.mstatus & MSTATUS_TVM == 0
    elif needs == Needs.STCE:
        shown = hart.menvcfg & ENVCFG_STCE != 0 and hart.mcounteren & COUNTER_TM != 0
        return hart.privilege == MACHINE or shown
    return True


@fn
def read_csr(hart: Hart, csr: u64, row: u64) -> u64:
    kind = u64(ROW_KIND[row])
    if kind == Kind.FIELD or kind == Kind.TVEC or kind == Kind.MENVCFG:
        return load64(hart.address + u64(ROW_OFFSET[row]))
    if kind == Kind.SSTATUS:
        return read_mstatus(hart) & (SSTATUS_VISIBLE | MSTATUS_SD)
    if kind == Kind.TIME:
        return board_time(Board(hart.board))
    if kind == Kind.MSTATUS:
        return read_mstatus(hart)
    if kind == Kind.SIE:
        return hart.mie & hart.mideleg
    if kind == Kind.SIP:
        return pending_bits(hart) & hart.mideleg
    if kind == Kind.MIP:
        return pending_bits(hart)
    if kind == Kind.SATP:
        return hart.satp
    if kind == Kind.FCSR:
        return hart.frm << 5 | hart.fflags
    if kind == Kind.CYCLE:
        return read_counter(hart, hart.mcycle_offset, COUNTER_CY)
    if kind == Kind.INSTRET:
        return read_counter(hart, hart.minstret_offset, COUNTER_IR)
    if kind == Kind.STIMECMP:
        return hart.stimecmp
    if kind == Kind.COUNTINHIBIT:
        return hart.mcountinhibit
    if kind == Kind.PMPCFG:
        return read_pmpcfg(hart, (csr & 3) * 4)
    if kind == Kind.PMPADDR:
        return hart.pmpaddr[csr & 15]
    return ROW_VALUE[row]


@fn(inline=True)
def written_view(hart: Hart, row: u64, old: u64) -> u64:
    """What set and clear work on: of mip.SEIP the bit that software wrote, not the line (3.1.9)."""
    if u64(ROW_KIND[row]) == Kind.MIP:
        return old & ~MIP_SEIP | hart.software_seip
    return old


@fn
def write_csr(hart: Hart, csr: u64, row: u64, value: u64) -> None:
    kind = u64(ROW_KIND[row])
    if kind == Kind.FIELD:
        write_field(hart, row, value)
    elif kind == Kind.SSTATUS:
        write_mstatus(hart, value, SSTATUS_WRITABLE)
    elif kind == Kind.MSTATUS:
        write_mstatus(hart, value, MSTATUS_WRITABLE)
    elif kind == Kind.SIE:
        hart.mie = hart.mie & ~hart.mideleg | value & hart.mideleg
        look_again(hart)
    elif kind == Kind.SIP:
        write_mip(hart, value, MIP_SSIP & hart.mideleg)
    elif kind == Kind.MIP:
        write_mip(hart, value, MIP_SSIP if hart.menvcfg & ENVCFG_STCE != 0 else MIP_SSIP | MIP_STIP)
        hart.software_seip = value & MIP_SEIP
        look_again(hart)
    elif kind == Kind.TVEC:
        store64(hart.address + u64(ROW_OFFSET[row]), value & ~2)  # modes 0 and 1 exist
    elif kind == Kind.SATP:
        write_satp(hart, value)
    elif kind == Kind.FCSR:
        hart.fflags = value & 0x1F
        hart.frm = value >> 5 & 7
    else:
        write_rare(hart, csr, row, kind, value)


@fn(cold=True)
def write_rare(hart: Hart, csr: u64, row: u64, kind: u64, value: u64) -> None:
    """What firmware writes once; constants fall through."""
    if kind == Kind.STIMECMP:
        hart.stimecmp = value
        timer_tick(Board(hart.board), hart)
    elif kind == Kind.MENVCFG:
        write_field(hart, row, value)
        timer_tick(Board(hart.board), hart)
    elif kind == Kind.CYCLE:
        hart.mcycle_offset = counter_offset(hart, value, COUNTER_CY)
    elif kind == Kind.INSTRET:
        hart.minstret_offset = counter_offset(hart, value, COUNTER_IR)
    elif kind == Kind.COUNTINHIBIT:
        write_countinhibit(hart, value & (COUNTER_CY | COUNTER_IR))
    elif kind == Kind.PMPCFG or kind == Kind.PMPADDR:
        if kind == Kind.PMPCFG:
            write_pmpcfg(hart, (csr & 3) * 4, value)
        else:
            write_pmpaddr(hart, csr & 15, value)
        flush_all(hart)
        atomic_or64(addressof(hart.attention), ATTENTION_REFETCH)


@fn
def write_field(hart: Hart, row: u64, value: u64) -> None:
    """WARL by mask: bits that cannot be written keep what they have."""
    address = hart.address + u64(ROW_OFFSET[row])
    writable = ROW_WRITABLE[row]
    store64(address, load64(address) & ~writable | value & writable)
    if ROW_NEEDS[row] == Needs.INTERRUPTS:
        look_again(hart)


@fn(inline=True)
def read_mstatus(hart: Hart) -> u64:
    """SD says that FS is Dirty (3.1.6.6)."""
    if hart.mstatus & MSTATUS_FS == MSTATUS_FS:
        return hart.mstatus | MSTATUS_SD
    return hart.mstatus


@fn
def write_mstatus(hart: Hart, value: u64, writable: u64) -> None:
    """MPP holds only modes that exist (3.1.6.1); MPRV, MPP, SUM and MXR change how memory is accessed."""
    new = hart.mstatus & ~writable | value & writable
    if new >> MSTATUS_MPP_SHIFT & 3 == 2:
        new = new & ~MSTATUS_MPP | hart.mstatus & MSTATUS_MPP
    changed = new ^ hart.mstatus
    hart.mstatus = new
    if changed & (MSTATUS_MPRV | MSTATUS_MPP | MSTATUS_SUM | MSTATUS_MXR) != 0:
        select_banks(hart)
    look_again(hart)


@fn
def write_mip(hart: Hart, value: u64, writable: u64) -> None:
    """Bits of mip that are software's; other threads change the others meanwhile."""
    atomic_and64(addressof(hart.mip), value | ~writable)
    atomic_or64(addressof(hart.mip), value & writable)
    look_again(hart)


@fn
def write_satp(hart: Hart, value: u64) -> None:
    """A MODE that is not supported leaves satp as it is (10.1.11). There are no ASID bits: every write is a flush."""
    mode = value >> SATP_MODE_SHIFT
    if hart.satp_modes >> mode & 1 != 0:
        hart.satp = mode << SATP_MODE_SHIFT | value & SATP_PPN
        flush_translations(hart)
        atomic_or64(addressof(hart.attention), ATTENTION_REFETCH)


# Counters (3.1.10 to 3.1.12). Both count instructions. One that is inhibited has its value in its offset.


@fn
def read_counter(hart: Hart, offset: u64, counter: u64) -> u64:
    if hart.mcountinhibit & counter != 0:
        return offset
    return wrap64(retired(hart) + offset)


@fn
def counter_offset(hart: Hart, value: u64, counter: u64) -> u64:
    """The offset that makes the counter `value` after the current instruction."""
    if hart.mcountinhibit & counter != 0:
        return value
    return wrap64(value - retired(hart) - 1)


@fn
def write_countinhibit(hart: Hart, value: u64) -> None:
    changed = value ^ hart.mcountinhibit
    cycle = read_counter(hart, hart.mcycle_offset, COUNTER_CY)
    instret = read_counter(hart, hart.minstret_offset, COUNTER_IR)
    hart.mcountinhibit = value
    if changed & COUNTER_CY != 0:
        hart.mcycle_offset = counter_offset(hart, cycle, COUNTER_CY)
    if changed & COUNTER_IR != 0:
        hart.minstret_offset = counter_offset(hart, instret, COUNTER_IR)
