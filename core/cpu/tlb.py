"""The software TLBs: which bank serves the current mode, filling an entry, forgetting entries.

A bank serves one mode of access, so that traps and returns, and Linux's SUM window around user copies, change two
pointers and forget nothing. What is rare (MPRV, MXR) shares a scratch bank, which is emptied when it is entered.
Addresses of superpages are entered as single pages of 4 KiB; `large_first..large_last` says where such pages may be, so
that forgetting one address of a superpage forgets them all (privileged ISA, 10.2.1).
"""

from core.cpu.state import (
    BANK_MACHINE,
    BANK_SCRATCH,
    BANK_SUPERVISOR,
    BANK_SUPERVISOR_SUM,
    BANK_USER,
    DATA_BANKS,
    MACHINE,
    NO_TAG,
    PAGE_BITS,
    PAGE_MASK,
    SUPERVISOR,
    TAG_CODE,
    TLB_ENTRIES,
    USER,
    DataTlb,
    FetchTlb,
    Hart,
)
from core.cpu.status import MSTATUS_MPP_SHIFT, MSTATUS_MPRV, MSTATUS_MXR, MSTATUS_SUM
from core.cpu.watch import watched_page
from native import addressof, fill, fn, u64, wrap64

FILLED_FETCH = 8  # `filled`: bit 8 + n is fetch bank n


@fn(inline=True)
def data_privilege(hart: Hart) -> u64:
    """The privilege mode that loads and stores have: MPP with mstatus.MPRV (privileged ISA, 3.1.6.3)."""
    if hart.mstatus & MSTATUS_MPRV != 0:
        return (hart.mstatus >> MSTATUS_MPP_SHIFT) & 3
    return hart.privilege


@fn
def select_banks(hart: Hart) -> None:
    """The mode changed: take the banks that belong to it."""
    hart.fetch_tlb = hart.fetch_banks[hart.privilege].address
    bank: u64 = BANK_MACHINE
    if hart.mstatus & (MSTATUS_MPRV | MSTATUS_MXR) != 0 and data_privilege(hart) != MACHINE:
        bank = BANK_SCRATCH
        flush_data_bank(hart, bank)
    elif hart.privilege == SUPERVISOR:
        bank = BANK_SUPERVISOR_SUM if hart.mstatus & MSTATUS_SUM != 0 else BANK_SUPERVISOR
    elif hart.privilege == USER:
        bank = BANK_USER
    hart.data_tlb = hart.data_banks[bank].address


@fn
def flush_data_bank(hart: Hart, bank: u64) -> None:
    if hart.filled & (u64(1) << bank) != 0:
        hart.filled = hart.filled & ~(u64(1) << bank)
        fill(hart.data_banks[bank].address, 0xFF, DATA_TLB_SIZE)


@fn
def flush_fetch_bank(hart: Hart, bank: u64) -> None:
    if hart.filled & (u64(1) << (bank + FILLED_FETCH)) != 0:
        hart.filled = hart.filled & ~(u64(1) << (bank + FILLED_FETCH))
        fill(hart.fetch_banks[bank].address, 0xFF, FETCH_TLB_SIZE)


DATA_TLB_SIZE = DataTlb.size()
FETCH_TLB_SIZE = FetchTlb.size()


@fn
def flush_translations(hart: Hart) -> None:
    """Forget everything that came through page tables."""
    flush_data_bank(hart, BANK_USER)
    flush_data_bank(hart, BANK_SUPERVISOR)
    flush_data_bank(hart, BANK_SUPERVISOR_SUM)
    flush_data_bank(hart, BANK_SCRATCH)
    flush_fetch_bank(hart, USER)
    flush_fetch_bank(hart, SUPERVISOR)
    hart.large_first = NO_TAG
    hart.large_last = 0


@fn
def flush_all(hart: Hart) -> None:
    """Forget everything: physical memory protection changed, too."""
    flush_translations(hart)
    flush_data_bank(hart, BANK_MACHINE)
    flush_fetch_bank(hart, MACHINE)


@fn
def reset_tlbs(hart: Hart) -> None:
    """Empty the banks of a new hart, whatever its memory holds."""
    hart.filled = 0xFFFF
    flush_all(hart)


@fn
def flush_page(hart: Hart, va: u64) -> None:
    """Forget the translation of one address."""
    if hart.large_first <= va <= hart.large_last:
        flush_translations(hart)
        return
    tag = va & ~PAGE_MASK
    index = (va >> PAGE_BITS) & (TLB_ENTRIES - 1)
    for bank in range(DATA_BANKS):
        if bank != BANK_MACHINE:
            data = hart.data_banks[bank]
            if data.load[index].tag == tag:
                data.load[index].tag = NO_TAG
            if data.store[index].tag & ~PAGE_MASK == tag:
                data.store[index].tag = NO_TAG
    if hart.fetch_banks[USER].entry[index].tag == tag:
        hart.fetch_banks[USER].entry[index].tag = NO_TAG
    if hart.fetch_banks[SUPERVISOR].entry[index].tag == tag:
        hart.fetch_banks[SUPERVISOR].entry[index].tag = NO_TAG


@fn
def enter_load(hart: Hart, va: u64, host: u64) -> None:
    """Loads from the page of `va` find it at host address `host` (of `va` itself)."""
    if hart.watch_count != 0 and watched_page(hart, va):
        return
    mark_data_bank(hart)
    entry = DataTlb(hart.data_tlb).load[(va >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    entry.tag = va & ~PAGE_MASK
    entry.addend = wrap64(host - va)


@fn
def enter_store(hart: Hart, va: u64, host: u64, code: bool) -> None:
    """Stores to the page of `va` find it at `host`; with decoded code in the page, only `store_slow` may use that."""
    if hart.watch_count != 0 and watched_page(hart, va):
        return
    mark_data_bank(hart)
    entry = DataTlb(hart.data_tlb).store[(va >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    entry.tag = (va & ~PAGE_MASK) | TAG_CODE if code else va & ~PAGE_MASK
    entry.addend = wrap64(host - va)


@fn(inline=True)
def mark_data_bank(hart: Hart) -> None:
    """The current bank is not empty any more."""
    bank = (hart.data_tlb - addressof(hart.data_banks[0])) // DATA_TLB_SIZE
    hart.filled = hart.filled | (u64(1) << bank)


@fn
def enter_fetch(hart: Hart, pc: u64, slots: u64) -> None:
    """Code of the page of `pc` is decoded in the slots from `slots` on."""
    hart.filled = hart.filled | (u64(1) << (hart.privilege + FILLED_FETCH))
    entry = FetchTlb(hart.fetch_tlb).entry[(pc >> PAGE_BITS) & (TLB_ENTRIES - 1)]
    entry.tag = pc & ~PAGE_MASK
    entry.slots = slots
    entry.pc_key = wrap64(((pc & ~PAGE_MASK) << 3) - slots)


@fn
def note_large_page(hart: Hart, first: u64, last: u64) -> None:
    """A page of 4 KiB of the superpage `first..last` is about to be entered."""
    if first < hart.large_first:
        hart.large_first = first
    if last > hart.large_last:
        hart.large_last = last


@fn
def guard_code(hart: Hart, host_page: u64) -> None:
    """The page at `host_page` has decoded code from now on: stores to it go through `store_slow`."""
    for bank in range(DATA_BANKS):
        if hart.filled & (u64(1) << bank) != 0:
            data = hart.data_banks[bank]
            for index in range(TLB_ENTRIES):
                entry = data.store[index]
                if entry.tag & PAGE_MASK == 0 and wrap64(entry.tag + entry.addend) == host_page:
                    entry.tag = entry.tag | TAG_CODE


@fn
def flush_stores(hart: Hart) -> None:
    """Every page must be entered again before it is stored to."""
    for bank in range(DATA_BANKS):
        if hart.filled & (u64(1) << bank) != 0:
            fill(addressof(hart.data_banks[bank].store[0]), 0xFF, DATA_TLB_SIZE // 2)


@fn
def forget_slots(hart: Hart, slots: u64) -> None:
    """No fetch entry leads to that page of slots any more."""
    for bank in range(MACHINE + 1):
        if hart.filled & (u64(1) << (bank + FILLED_FETCH)) != 0:
            fetch = hart.fetch_banks[bank]
            for index in range(TLB_ENTRIES):
                if fetch.entry[index].slots == slots:
                    fetch.entry[index].tag = NO_TAG
