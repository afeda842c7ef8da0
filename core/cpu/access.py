"""Loads and stores that miss the TLBs: translation, MMIO, misaligned addresses, pages with decoded code.

A misaligned access works in RAM, also across pages (both translated before anything is written) but is not atomic;
elsewhere it is an access fault. MMIO never enters a TLB. Values are the low bits of a u64, zero-extended when loaded.
"""

from core.board.bus import bus_read, bus_write
from core.cpu.faults import raise_access_fault
from core.cpu.memory import host_of, mark_dirty
from core.cpu.pmp import pmp_uniform
from core.cpu.slots import code_written
from core.cpu.state import (
    PAGE_BITS,
    PAGE_MASK,
    PAGE_SIZE,
    TAG_CODE,
    TLB_ENTRIES,
    WATCH_READ,
    WATCH_WRITE,
    DataTlb,
    Hart,
)
from core.cpu.status import PMP_R, PMP_W
from core.cpu.tlb import enter_load, enter_store
from core.cpu.walk import NO_ADDRESS, translate
from core.cpu.watch import watched
from native import (
    atomic_or8,
    fence,
    fn,
    load8,
    load16,
    load32,
    load64,
    store8,
    store16,
    store32,
    store64,
    u8,
    u64,
    wrap8,
    wrap16,
    wrap32,
    wrap64,
)


@fn
def load_slow(hart: Hart, va: u64, size: u64) -> u64:
    """Load 1, 2, 4 or 8 bytes; a trap may be pending afterwards."""
    if hart.watch_count != 0 and watched(hart, va, size, WATCH_READ):
        return 0
    if va & (size - 1) != 0:
        return load_misaligned(hart, va, size)
    address = translate(hart, va, size, PMP_R)
    if address == NO_ADDRESS:
        return 0
    host = host_of(hart, address, size)
    if host == 0:
        return load_device(hart, va, address, size)
    if pmp_uniform(hart, address):
        enter_load(hart, va, host)
    return load_host(host, size)


@fn
def store_slow(hart: Hart, va: u64, size: u64, value: u64) -> None:
    """Store 1, 2, 4 or 8 bytes; if a trap is pending afterwards, nothing has been stored."""
    if hart.watch_count != 0 and watched(hart, va, size, WATCH_WRITE):
        return
    if va & (size - 1) != 0:
        store_misaligned(hart, va, size, value)
        return
    host = find_store(hart, va)
    if host == 0:
        address = translate(hart, va, size, PMP_W)
        if address == NO_ADDRESS:
            return
        host = host_of(hart, address, size)
        if host == 0:
            store_device(hart, va, address, size, value)
            return
        admit_store(hart, va, address, host)
    store_host(host, size, value)
    after_store(hart, host, size)
    restore_fast_path(hart, va, host)


@fn(inline=True)
def load_host(host: u64, size: u64) -> u64:
    if size == 8:
        return load64(host)
    if size == 4:
        return u64(load32(host))
    if size == 2:
        return u64(load16(host))
    return u64(load8(host))


@fn(inline=True)
def store_host(host: u64, size: u64, value: u64) -> None:
    if size == 8:
        store64(host, value)
    elif size == 4:
        store32(host, wrap32(value))
    elif size == 2:
        store16(host, wrap16(value))
    else:
        store8(host, wrap8(value))


@fn
def load_device(hart: Hart, va: u64, address: u64, size: u64) -> u64:
    """MMIO, or a hole."""
    hart.mmio = hart.mmio + 1
    value = bus_read(hart, address, size)
    if hart.trap != 0:
        hart.tval = va
    return value


@fn
def store_device(hart: Hart, va: u64, address: u64, size: u64, value: u64) -> None:
    hart.mmio = hart.mmio + 1
    bus_write(hart, address, size, value)
    if hart.trap != 0:
        hart.tval = va


# Stores to RAM: a page enters a store TLB, and what its contents mean to others.


@fn(inline=True)
def find_load(hart: Hart, va: u64) -> u64:
    """Host address of `va` if the load TLB knows it, or 0."""
    entry = DataTlb(hart.data_tlb).load[(va >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    if entry.tag == va & ~PAGE_MASK:
        return wrap64(va + entry.addend)
    return 0


@fn(inline=True)
def find_store(hart: Hart, va: u64) -> u64:
    """Host address of `va` if the store TLB knows it, with decoded code in the page or without, or 0."""
    entry = DataTlb(hart.data_tlb).store[(va >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    if entry.tag & ~TAG_CODE == va & ~PAGE_MASK:
        return wrap64(va + entry.addend)
    return 0


@fn
def admit_store(hart: Hart, va: u64, address: u64, host: u64) -> None:
    """`va`, at `address` of RAM, is about to be stored to: enter its page into the store TLB, if it may be there."""
    mark_dirty(hart, address)
    page = address - hart.ram_base >> PAGE_BITS
    bit = u8(hart.peer_bit)
    if load8(hart.store_map + page) & bit == 0:
        atomic_or8(hart.store_map + page, bit)
    fence()
    if pmp_uniform(hart, address):
        enter_store(hart, va, host, load8(hart.code_map + page) != 0)


@fn
def after_store(hart: Hart, host: u64, size: u64) -> None:
    """RAM was stored to: drop what was decoded of it."""
    page = host - hart.ram_host >> PAGE_BITS
    if load8(hart.code_map + page) != 0:
        code_written(hart, page, host & PAGE_MASK, size)


@fn(inline=True)
def restore_fast_path(hart: Hart, va: u64, host: u64) -> None:
    """The entry of `va` in the store TLB is marked for decoded code: not any more, if there is none left."""
    entry = DataTlb(hart.data_tlb).store[(va >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    if entry.tag == (va & ~PAGE_MASK) | TAG_CODE and load8(hart.code_map + (host - hart.ram_host >> PAGE_BITS)) == 0:
        entry.tag = va & ~PAGE_MASK


# Misaligned accesses.


@fn(inline=True)
def bytes_before_page_end(va: u64, size: u64) -> u64:
    """How many of `size` bytes at `va` lie in the page of the first."""
    room = PAGE_SIZE - (va & PAGE_MASK)
    return room if room < size else size


@fn(cold=True)
def load_misaligned(hart: Hart, va: u64, size: u64) -> u64:
    near = bytes_before_page_end(va, size)
    low = misaligned_host(hart, va, near, PMP_R)
    if low == 0:
        return 0
    high: u64 = 0
    if near != size:
        high = misaligned_host(hart, wrap64(va + near), size - near, PMP_R)
        if high == 0:
            return 0
    value: u64 = 0
    for index in range(size):
        host = low + index if index < near else high + (index - near)
        value = value | u64(load8(host)) << (8 * index)
    return value


@fn(cold=True)
def store_misaligned(hart: Hart, va: u64, size: u64, value: u64) -> None:
    near = bytes_before_page_end(va, size)
    low = misaligned_host(hart, va, near, PMP_W)
    if low == 0:
        return
    high: u64 = 0
    if near != size:
        high = misaligned_host(hart, wrap64(va + near), size - near, PMP_W)
        if high == 0:
            return
    for index in range(size):
        host = low + index if index < near else high + (index - near)
        store8(host, wrap8(value >> (8 * index)))
    after_store(hart, low, near)
    if near != size:
        after_store(hart, high, size - near)


@fn(cold=True)
def misaligned_host(hart: Hart, va: u64, size: u64, access: u64) -> u64:
    """Host address of a part of a misaligned access; 0: a trap is pending."""
    address = translate(hart, va, size, access)
    if address == NO_ADDRESS:
        return 0
    host = host_of(hart, address, size)
    if host == 0:
        raise_access_fault(hart, va, access)
    elif access == PMP_W:
        admit_store(hart, va, address, host)
    return host
