"""Address translation: the page-table walk of Sv32, Sv39 and Sv48 (privileged ISA, 10.3 to 10.5), and protection.

One walk for all: a scheme is its number of levels, index bits a level and bytes an entry, in the table below. The A and
D bits are set by compare-and-swap, as hardware does, or a clear one is a page fault (`hart.svade`; extension Svade).
`translate` promises that the physical address it returns may be accessed; page tables themselves are read in RAM only,
with the permissions of S-mode, and each entry once.
"""

from core.cpu.faults import raise_access_fault, raise_page_fault
from core.cpu.memory import host_of, mark_dirty
from core.cpu.pmp import pmp_permits
from core.cpu.state import MACHINE, PAGE_BITS, SUPERVISOR, USER, Hart
from core.cpu.status import MSTATUS_MXR, MSTATUS_SUM, PMP_R, PMP_W, PMP_X, SATP_BARE, SATP_MODE_SHIFT, SATP_PPN
from core.cpu.tlb import data_privilege, note_large_page
from native import atomic_cas32, atomic_cas64, fn, i64, load32, load64, signed64, table, u8, u32, u64, wrap32, wrap64

# By satp.MODE (table 45); MODE 1 is RV32's. Levels 0: not a scheme.
SCHEME_LEVELS = table(u8, [0, 2, 0, 0, 0, 0, 0, 0, 3, 4])
SCHEME_INDEX_BITS = table(u8, [0, 10, 0, 0, 0, 0, 0, 0, 9, 9])
SCHEME_ENTRY_SIZE = table(u8, [0, 4, 0, 0, 0, 0, 0, 0, 8, 8])
SCHEME_COUNT = 10

# Page-table entries (10.4.1).
PTE_V = 1 << 0
PTE_R = 1 << 1
PTE_W = 1 << 2
PTE_X = 1 << 3
PTE_U = 1 << 4
PTE_A = 1 << 6
PTE_D = 1 << 7
PTE_PPN_SHIFT = 10
PTE_PPN = (1 << 44) - 1
PTE_RESERVED = 0x3FF << 54  # Svnapot, Svpbmt and what has no meaning yet

NO_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF  # translate: a trap is pending


@fn
def translate(hart: Hart, va: u64, size: u64, access: u64) -> u64:
    """The physical address of `size` bytes at `va`, all in one page, or NO_ADDRESS. `access`: PMP_R, PMP_W or PMP_X."""
    privilege = hart.privilege if access == PMP_X else data_privilege(hart)
    address = va
    if privilege != MACHINE and hart.satp >> SATP_MODE_SHIFT != SATP_BARE:
        address = walk(hart, va, access, privilege, hart.satp >> SATP_MODE_SHIFT)
        if address == NO_ADDRESS:
            return NO_ADDRESS
    if wrap64(address + size) < address or not pmp_permits(hart, address, size, access, privilege):
        raise_access_fault(hart, va, access)
        return NO_ADDRESS
    return address


@fn
def is_canonical(va: u64, bits: u32) -> bool:
    """Are the bits above the top bit of the scheme equal to it (10.4.1)? Sv32 has none above."""
    high: i64 = signed64(va) >> (bits - 1)
    return high == 0 or high == -1 or bits == 32


@fn
def walk(hart: Hart, va: u64, access: u64, privilege: u64, mode: u64) -> u64:
    """The physical address of `va`, or NO_ADDRESS with a trap pending (10.3.2, in its numbering)."""
    levels = u32(SCHEME_LEVELS[mode])
    index_bits = u32(SCHEME_INDEX_BITS[mode])
    if not is_canonical(va, levels * index_bits + PAGE_BITS):
        raise_page_fault(hart, va, access)
        return NO_ADDRESS
    # 1.
    level: u32 = levels
    base = (hart.satp & SATP_PPN) << PAGE_BITS
    while level != 0:
        level = level - 1
        # 2.
        shift = PAGE_BITS + level * index_bits
        index = va >> shift & ((u64(1) << index_bits) - 1)
        where = base + index * u64(SCHEME_ENTRY_SIZE[mode])
        host = host_of(hart, where, u64(SCHEME_ENTRY_SIZE[mode]))
        if host == 0 or not pmp_permits(hart, where, u64(SCHEME_ENTRY_SIZE[mode]), PMP_R, SUPERVISOR):
            raise_access_fault(hart, va, access)
            return NO_ADDRESS
        entry = load_entry(host, mode)
        # 3.
        if entry & PTE_V == 0 or entry & (PTE_R | PTE_W) == PTE_W or entry & PTE_RESERVED != 0:
            break
        base = (entry >> PTE_PPN_SHIFT & PTE_PPN) << PAGE_BITS
        if entry & (PTE_R | PTE_X) != 0:
            # 5., 6.
            below = (u64(1) << shift) - 1
            if not leaf_permits(hart, entry, access, privilege) or base & below != 0:
                break
            # 7.
            needed: u64 = PTE_A | PTE_D if access == PMP_W else PTE_A
            if entry & needed != needed:
                if hart.svade != 0:
                    break
                if not pmp_permits(hart, where, u64(SCHEME_ENTRY_SIZE[mode]), PMP_W, SUPERVISOR):
                    raise_access_fault(hart, va, access)
                    return NO_ADDRESS
                mark_dirty(hart, where)
                if not update_entry(host, mode, entry, entry | needed):
                    level = level + 1  # somebody else changed it: look again, from 2. on
                    base = where - index * u64(SCHEME_ENTRY_SIZE[mode])
                    continue
            # 8.
            if level != 0:
                note_large_page(hart, va & ~below, va | below)
            return base | va & below
        # 4.
        if entry & (PTE_A | PTE_D | PTE_U) != 0:
            break
    raise_page_fault(hart, va, access)
    return NO_ADDRESS


@fn(inline=True)
def load_entry(host: u64, mode: u64) -> u64:
    if SCHEME_ENTRY_SIZE[mode] == 4:
        return u64(load32(host))
    return load64(host)


@fn
def leaf_permits(hart: Hart, entry: u64, access: u64, privilege: u64) -> bool:
    """Step 5: the R, W, X and U bits of a leaf, with SUM and MXR (3.1.6.3)."""
    if entry & PTE_U != 0:
        if privilege == SUPERVISOR and (access == PMP_X or hart.mstatus & MSTATUS_SUM == 0):
            return False
    elif privilege == USER:
        return False
    if access == PMP_R:
        return entry & PTE_R != 0 or (entry & PTE_X != 0 and hart.mstatus & MSTATUS_MXR != 0)
    return entry & (PTE_W if access == PMP_W else PTE_X) != 0


@fn(inline=True)
def update_entry(host: u64, mode: u64, old: u64, new: u64) -> bool:
    """Compare and swap; False: the entry is not what it was."""
    if SCHEME_ENTRY_SIZE[mode] == 4:
        return atomic_cas32(host, wrap32(old), wrap32(new)) == wrap32(old)
    return atomic_cas64(host, old, new) == old
