"""Physical memory that has host addresses, and the maps that keep a byte for each of its pages.

Pages are numbered: RAM from 0, ROM after it. Of each page, `code_map` and `store_map` say which harts have decoded code
of it and which may have it in a store TLB, and `dirty_map` (RAM only, shared with the devices) which of its consumers
have not seen its last change.
"""

from core.cpu.state import PAGE_BITS, Hart
from native import atomic_or8, fn, load8, u64, wrap64

DIRTY_CODE = 1  # the harts' bit of the dirty map: decoded code may be stale
DIRTY_OTHERS = 0xFE  # everybody else's

NO_PAGE = 0xFFFF_FFFF_FFFF_FFFF


@fn(inline=True)
def host_of(hart: Hart, address: u64, size: u64) -> u64:
    """Host address of `size` bytes of RAM at a physical address, or 0."""
    offset = wrap64(address - hart.ram_base)
    if offset < hart.ram_size and size <= hart.ram_size - offset:
        return hart.ram_host + offset
    return 0


@fn(inline=True)
def page_number(hart: Hart, address: u64) -> u64:
    """Number of the page at a physical address, or NO_PAGE."""
    offset = wrap64(address - hart.ram_base)
    if offset < hart.ram_size:
        return offset >> PAGE_BITS
    offset = wrap64(address - hart.rom_base)
    if offset < hart.rom_size:
        return (hart.ram_size >> PAGE_BITS) + (offset >> PAGE_BITS)
    return NO_PAGE


@fn(inline=True)
def page_host(hart: Hart, page: u64) -> u64:
    """Host address of a page."""
    if page < hart.ram_size >> PAGE_BITS:
        return hart.ram_host + (page << PAGE_BITS)
    return hart.rom_host + (page << PAGE_BITS) - hart.ram_size


@fn(inline=True)
def mark_dirty(hart: Hart, address: u64) -> None:
    """The page of RAM at a physical address is about to be written. The harts' own bit is not needed: see slots.py."""
    if hart.dirty_map != 0:
        byte = hart.dirty_map + (address - hart.ram_base >> PAGE_BITS)
        if u64(load8(byte)) & DIRTY_OTHERS != DIRTY_OTHERS:
            atomic_or8(byte, DIRTY_OTHERS)
