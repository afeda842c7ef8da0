"""Decoded code: a bounded pool of slot pages, one for each physical page of code that the hart runs, and when they go.

A hart decodes lazily, slot by slot; here whole pages are made, found, evicted, and slots are dropped:

* the hart's own stores to a page that it has decoded take `store_slow` and drop the slots they hit, at once;
* stores of other harts to it bump the page's stamp, and DMA marks it in the dirty map. Both are looked at by `fence.i`
  (Zifencei: until then a hart may run what it has), behind a generation word, because Linux executes tens of thousands
  of them.

A page that was code once and is data now, such as the kernel's freed initial text, would be slow to store to for ever:
after so many stores its slots are released, and made again if it is executed again.

For this a page of which some hart has decoded code is in no hart's store TLB, except as TAG_CODE. Whoever decodes
first sets its bit in `code_map`, then looks at `store_map`; whoever enters a page into a store TLB sets its bit in
`store_map`, then looks at `code_map`: one of them sees the other.
"""

from core.board.state import Board
from core.cpu.memory import DIRTY_CODE, page_host
from core.cpu.requests import ask_others, request_others
from core.cpu.state import (
    ATTENTION_REFETCH,
    PAGE_BITS,
    REQUEST_DROP_STORES,
    REQUEST_FENCE_I,
    SLOT_PAGE_SIZE,
    SLOT_SENTINELS,
    SLOT_SIZE,
    SLOTS_PER_PAGE,
    Hart,
    Slot,
    SlotPage,
)
from core.cpu.tlb import forget_slots, guard_code
from native import (
    addressof,
    atomic_add32,
    atomic_add64,
    atomic_and8,
    atomic_or8,
    atomic_or64,
    fence,
    fn,
    load8,
    load32,
    load64,
    store32,
    u8,
    u32,
    u64,
    wrap64,
)
from proto.pages import DeviceToCore

SLOT_PAGE_INFO_SIZE = SlotPage.size()
PATIENCE = 1024  # stores to a page with decoded code before that is given up; a power of two


@fn(inline=True)
def slot_page_info(hart: Hart, number: u64) -> SlotPage:
    return SlotPage(hart.pool_info + number * SLOT_PAGE_INFO_SIZE)


@fn(inline=True)
def slots_at(hart: Hart, number: u64) -> u64:
    return hart.pool + number * SLOT_PAGE_SIZE


@fn
def slots_of(hart: Hart, page: u64) -> u64:
    """Address of the slots of a page, made if there are none."""
    index = load32(hart.code_index + 4 * page)
    number = u64(index) - 1 if index != 0 else make_slots(hart, page)
    slot_page_info(hart, number).referenced = 1
    return slots_at(hart, number)


@fn(cold=True)
def make_slots(hart: Hart, page: u64) -> u64:
    """Take a slot page for `page`; its number."""
    number = take_slot_page(hart)
    guard_page(hart, page)
    take_dma(hart, page)
    info = slot_page_info(hart, number)
    info.page = page
    info.stamp = load32(hart.stamps + 4 * page)
    info.stores = 0
    info.live = 1
    store32(hart.code_index + 4 * page, u32(number + 1))
    clear_slots(hart, number)
    return number


@fn
def take_slot_page(hart: Hart) -> u64:
    """The number of a slot page that is not in use: released, never used, or evicted."""
    if hart.pool_free != 0:
        number = hart.pool_free - 1
        hart.pool_free = slot_page_info(hart, number).next_free
        return number
    if hart.pool_used < hart.pool_pages:
        hart.pool_used = hart.pool_used + 1
        return hart.pool_used - 1
    return evict(hart)


@fn
def evict(hart: Hart) -> u64:
    """Free the slot page that the clock's hand finds unused since it last came by; its number. All are in use."""
    while True:
        number = hart.pool_hand
        hart.pool_hand = number + 1 if number + 1 < hart.pool_pages else 0
        info = slot_page_info(hart, number)
        if info.referenced == 0:  # the second round finds one at the latest
            disconnect(hart, number)
            hart.evictions = hart.evictions + 1
            return number
        info.referenced = 0


@fn
def disconnect(hart: Hart, number: u64) -> None:
    """Nobody finds these slots any more, and stores to their page need not care."""
    info = slot_page_info(hart, number)
    info.live = 0
    store32(hart.code_index + 4 * info.page, 0)
    atomic_and8(hart.code_map + info.page, u8(hart.peer_bit ^ 0xFF))
    forget_slots(hart, slots_at(hart, number))


@fn
def release(hart: Hart, number: u64) -> None:
    """Give a slot page back. The hart may be running in it, so it looks its pc up again at once (it takes no other slot
    page before)."""
    disconnect(hart, number)
    slot_page_info(hart, number).next_free = hart.pool_free
    hart.pool_free = number + 1
    atomic_or64(addressof(hart.attention), ATTENTION_REFETCH)


@fn
def clear_slots(hart: Hart, number: u64) -> None:
    """Nothing of the page is decoded."""
    slots = slots_at(hart, number)
    for index in range(SLOTS_PER_PAGE):
        Slot(slots + index * SLOT_SIZE).handler = hart.decode_handler
    for index in range(SLOT_SENTINELS):
        Slot(slots + (SLOTS_PER_PAGE + index) * SLOT_SIZE).handler = hart.cross_handler


@fn
def guard_page(hart: Hart, page: u64) -> None:
    """From now on no store to the page goes unnoticed, of any hart."""
    bit = u8(hart.peer_bit)
    atomic_or8(hart.code_map + page, bit)
    fence()
    storing = load8(hart.store_map + page)
    if storing & bit != 0:
        guard_code(hart, page_host(hart, page))
    if storing & ~bit != 0:
        request_others(hart, u64(storing), REQUEST_DROP_STORES)


@fn
def code_written(hart: Hart, page: u64, offset: u64, size: u64) -> None:
    """Bytes of a page were stored to: what was decoded of them is stale."""
    decoders = u64(load8(hart.code_map + page))
    if decoders & hart.peer_bit != 0:
        drop_slots(hart, page, offset, size)
    if decoders & ~hart.peer_bit != 0 and bump_stamp(hart, page) % PATIENCE == 0:
        ask_others(hart, decoders, REQUEST_FENCE_I)


@fn
def drop_slots(hart: Hart, page: u64, offset: u64, size: u64) -> None:
    """Decode again what overlaps these bytes; an instruction of 4 bytes may begin 2 before them."""
    number = u64(load32(hart.code_index + 4 * page)) - 1
    slots = slots_at(hart, number)
    first = offset >> 1
    if first != 0:
        first = first - 1
    last = offset + size - 1 >> 1
    while first <= last:
        Slot(slots + first * SLOT_SIZE).handler = hart.decode_handler
        first = first + 1
    info = slot_page_info(hart, number)
    info.stores = info.stores + 1
    if info.stores == PATIENCE:
        release(hart, number)


@fn
def bump_stamp(hart: Hart, page: u64) -> u32:
    """Whatever was decoded of the page before is stale; harts see it at their next fence.i. The stamp before."""
    atomic_add64(hart.code_generation, 1)
    return atomic_add32(hart.stamps + 4 * page, 1)


@fn
def take_dma(hart: Hart, page: u64) -> bool:
    """Take note of what a device wrote into the page: its bit in the dirty map becomes a stamp."""
    if hart.dirty_map == 0 or page >= hart.ram_size >> PAGE_BITS:
        return False
    byte = hart.dirty_map + page
    if load8(byte) & DIRTY_CODE == 0:
        return False
    atomic_and8(byte, 0xFF ^ DIRTY_CODE)
    bump_stamp(hart, page)
    return True


@fn
def dma_generation(hart: Hart) -> u64:
    """Changes after any device marked pages in the dirty map."""
    board = Board(hart.board)
    generation: u64 = 0
    for slot in range(board.nslots):
        device_page = board.transports[slot].device_page
        if device_page != 0:
            generation = wrap64(generation + u64(DeviceToCore(device_page).dirty_generation))
    return generation


@fn
def do_fence_i(hart: Hart) -> None:
    """FENCE.I: from here on the hart runs what is in memory (unprivileged ISA, chapter 7)."""
    fence()
    generation = dma_generation(hart)
    if generation != hart.seen_dma:
        hart.seen_dma = generation
        for number in range(hart.pool_used):
            if slot_page_info(hart, number).live != 0:
                take_dma(hart, slot_page_info(hart, number).page)
    stamps = load64(hart.code_generation)
    if stamps != hart.seen_code:
        hart.seen_code = stamps
        for number in range(hart.pool_used):
            refresh_slots(hart, number)


@fn
def forget_code(hart: Hart) -> None:
    """Nothing is decoded: memory has new contents."""
    for number in range(hart.pool_used):
        if slot_page_info(hart, number).live != 0:
            disconnect(hart, number)
    hart.pool_used = 0
    hart.pool_free = 0
    hart.pool_hand = 0


@fn
def refresh_slots(hart: Hart, number: u64) -> None:
    """Drop a whole page of slots if it is stale."""
    info = slot_page_info(hart, number)
    if info.live != 0 and load32(hart.stamps + 4 * info.page) != info.stamp:
        release(hart, number)


@fn
def code_host(hart: Hart, slot: u64) -> u64:
    """Host address of the halfword of code that a slot stands for."""
    number = (slot - hart.pool) // SLOT_PAGE_SIZE
    return page_host(hart, slot_page_info(hart, number).page) + (slot - slots_at(hart, number) >> 3)
