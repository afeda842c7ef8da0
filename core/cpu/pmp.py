"""Physical memory protection (privileged ISA, 3.7): 16 entries, granularity 4 bytes, enforced.

`pmp_update` turns configuration and address registers into the ranges they mean whenever one is written; checks look at
ranges alone. Addresses have 56 bits, as Sv39 and Sv48 make them.
"""

from core.cpu.state import MACHINE, PAGE_MASK, PMP_ENTRIES, Hart
from core.cpu.status import PMP_A_SHIFT, PMP_L, PMP_NA4, PMP_NAPOT, PMP_OFF, PMP_TOR
from native import ctz64, fn, u8, u64

PMPADDR_BITS = (1 << 54) - 1
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF  # first > last: such an entry matches nothing


@fn
def pmp_update(hart: Hart) -> None:
    """Compute the ranges of all entries (3.7.1.1, "Address Matching")."""
    active: u64 = 0
    floor: u64 = 0  # what the previous pmpaddr says: the bottom of a TOR range
    for index in range(PMP_ENTRIES):
        matching = u64(hart.pmpcfg[index]) >> PMP_A_SHIFT & 3
        address = hart.pmpaddr[index]
        first: u64 = NOWHERE
        last: u64 = 0
        if matching == PMP_TOR and floor < address:
            first = floor << 2
            last = (address << 2) - 1
        elif matching == PMP_NA4:
            first = address << 2
            last = first + 3
        elif matching == PMP_NAPOT:
            ones = ctz64(~address)  # at most 54: the range is 2**(ones + 3) bytes
            size = u64(8) << ones
            first = (address & ~((u64(1) << ones) - 1)) << 2
            last = first + (size - 1)
        hart.pmp_first[index] = first
        hart.pmp_last[index] = last
        if matching != PMP_OFF:
            active = index + 1
        floor = address
    hart.pmp_active = active


@fn
def pmp_permits(hart: Hart, address: u64, size: u64, access: u64, privilege: u64) -> bool:
    """May `privilege` access these bytes (3.7.1.3: the lowest entry decides)? `access`: PMP_R, PMP_W or PMP_X."""
    last = address + (size - 1)
    for index in range(hart.pmp_active):
        if address <= hart.pmp_last[index] and last >= hart.pmp_first[index]:
            if address < hart.pmp_first[index] or last > hart.pmp_last[index]:
                return False
            config = u64(hart.pmpcfg[index])
            if privilege == MACHINE and config & PMP_L == 0:
                return True
            return config & access != 0
    return privilege == MACHINE


@fn
def pmp_uniform(hart: Hart, address: u64) -> bool:
    """Do all bytes of this page of 4 KiB have the same permissions, so that a TLB may hold it?"""
    first = address & ~PAGE_MASK
    last = first | PAGE_MASK
    for index in range(hart.pmp_active):
        if first <= hart.pmp_last[index] and last >= hart.pmp_first[index]:
            return first >= hart.pmp_first[index] and last <= hart.pmp_last[index]
    return True


@fn
def pmp_locked(hart: Hart, index: u64) -> bool:
    """Is pmpaddr `index` locked, by its own entry or as the bottom of a locked TOR entry above it (3.7.1.2)?"""
    if u64(hart.pmpcfg[index]) & PMP_L != 0:
        return True
    if index + 1 == PMP_ENTRIES:
        return False
    above = u64(hart.pmpcfg[index + 1])
    return above & PMP_L != 0 and above >> PMP_A_SHIFT & 3 == PMP_TOR


@fn
def write_pmpaddr(hart: Hart, index: u64, value: u64) -> None:
    if not pmp_locked(hart, index):
        hart.pmpaddr[index] = value & PMPADDR_BITS
        pmp_update(hart)


@fn
def read_pmpcfg(hart: Hart, first: u64) -> u64:
    """The eight entries from `first` on, as pmpcfg0 and pmpcfg2 of RV64 show them."""
    value: u64 = 0
    for index in range(8):
        value = value | u64(hart.pmpcfg[first + index]) << (8 * index)
    return value


@fn
def write_pmpcfg(hart: Hart, first: u64, value: u64) -> None:
    """Write eight entries; locked ones stay, and the reserved W without R loses W."""
    for index in range(8):
        entry = first + index
        if u64(hart.pmpcfg[entry]) & PMP_L == 0:
            config = value >> (8 * index) & PMP_WRITABLE
            if config & 3 == 2:
                config = config & ~2
            hart.pmpcfg[entry] = u8(config)
    pmp_update(hart)


PMP_WRITABLE = 0x9F  # L, A, X, W, R


@fn
def pmp_open(hart: Hart) -> None:
    """Allow everything, as firmware does: entry 0 is all memory with R, W and X."""
    hart.pmpaddr[0] = PMPADDR_BITS
    hart.pmpcfg[0] = 0x1F
    pmp_update(hart)
