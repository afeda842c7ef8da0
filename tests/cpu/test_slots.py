"""Decoded code: when it is made, and that it goes exactly when what it was decoded from is written."""

from __future__ import annotations

import ctypes

import pytest
from harness import program

from core.board.boot import Boot, Mode
from core.board.virt import RAM_BASE, ROM_BASE
from core.cpu.slots import PATIENCE, SLOT_PAGE_INFO_SIZE
from core.cpu.state import (
    ATTENTION_REFETCH,
    NO_TAG,
    PAGE_SIZE,
    SLOT_PAGE_SIZE,
    SLOT_SIZE,
    SLOTS_PER_PAGE,
    TAG_CODE,
    DataTlb,
    FetchTlb,
    Slot,
    SlotPage,
)
from native import Area
from proto.pages import DeviceToCore

CODE = RAM_BASE + 0x3000
DECODED = 0xDEC0DED


@pytest.fixture
def slots(engine, hart):
    """Address of the slots of CODE, all marked as decoded."""
    address = engine.fetch_page(hart, CODE)
    mark_decoded(address)
    return address


def mark_decoded(slots):
    for index in range(SLOTS_PER_PAGE):
        Slot(slots + index * SLOT_SIZE).handler = DECODED


def dropped(slots):
    """Offsets in the page whose slots are not decoded."""
    return [2 * index for index in range(SLOTS_PER_PAGE) if Slot(slots + index * SLOT_SIZE).handler != DECODED]


def released(hart, address):
    """Has the hart no slots for the page, and nothing that leads to any?"""
    page = (address - RAM_BASE) // PAGE_SIZE
    index = ctypes.c_uint32.from_address(hart.code_index + 4 * page).value
    decoders = ctypes.c_uint8.from_address(hart.code_map + page).value
    known = FetchTlb(hart.fetch_tlb).entry[address >> 12 & 255].tag == address
    assert bool(index) == bool(decoders & hart.peer_bit) == known
    return not index


def test_a_fresh_page_is_all_to_decode_and_ends_in_sentinels(engine, hart):
    slots = engine.fetch_page(hart, CODE + 6)
    handlers = [Slot(slots + index * SLOT_SIZE).handler for index in range(SLOTS_PER_PAGE + 2)]
    assert set(handlers[:-2]) == {hart.decode_handler}
    assert handlers[-2:] == [hart.cross_handler] * 2


def test_a_fetch_enters_the_tlb_so_that_slots_know_their_pc(engine, hart, slots):
    entry = FetchTlb(hart.fetch_tlb).entry[CODE >> 12 & 255]
    assert (entry.tag, entry.slots) == (CODE, slots)
    slot = slots + 0x123 * SLOT_SIZE
    assert (slot + entry.pc_key & (1 << 64) - 1) >> 3 == CODE + 0x246


def test_rom_can_be_executed_and_devices_cannot(engine, hart):
    assert engine.fetch_page(hart, ROM_BASE)
    assert engine.fetch_page(hart, 0x1000_0000) == 0
    assert hart.trap == 2


@pytest.mark.parametrize(
    ("offset", "size", "gone"),
    [
        (0x100, 1, [0xFE, 0x100]),
        (0x101, 1, [0xFE, 0x100]),
        (0x100, 4, [0xFE, 0x100, 0x102]),
        (0x100, 8, [0xFE, 0x100, 0x102, 0x104, 0x106]),
        (0x103, 4, [0x100, 0x102, 0x104, 0x106]),
        (0, 2, [0]),
        (0xFFE, 2, [0xFFC, 0xFFE]),
    ],
)
def test_a_store_drops_the_slots_it_hits_and_no_others(engine, hart, slots, offset, size, gone):
    engine.store_slow(hart, CODE + offset, size, 0)
    assert dropped(slots) == gone


def test_stores_to_a_page_with_code_never_take_the_fast_path(engine, hart, slots):
    engine.store_slow(hart, CODE, 8, 0)
    entry = DataTlb(hart.data_tlb).store[CODE >> 12 & 255]
    assert entry.tag == CODE | TAG_CODE
    mark_decoded(slots)
    engine.store_slow(hart, CODE + 8, 8, 0)
    assert dropped(slots) == [6, 8, 0xA, 0xC, 0xE]


def test_decoding_a_page_that_was_stored_to_ends_its_fast_path(engine, hart):
    engine.store_slow(hart, CODE, 8, 0)
    entry = DataTlb(hart.data_tlb).store[CODE >> 12 & 255]
    assert entry.tag == CODE
    engine.fetch_page(hart, CODE)
    assert entry.tag == CODE | TAG_CODE


def test_a_misaligned_store_across_pages_drops_in_both(engine, hart, slots):
    other = engine.fetch_page(hart, CODE + PAGE_SIZE)
    mark_decoded(other)
    engine.store_slow(hart, CODE + PAGE_SIZE - 2, 4, 0)
    assert dropped(slots) == [0xFFC, 0xFFE]
    assert dropped(other) == [0]


def test_atomics_drop_slots_too(engine, hart, slots):
    engine.amo_slow(hart, CODE + 0x10, 0, 4, 1)
    assert dropped(slots) == [0xE, 0x10, 0x12]
    mark_decoded(slots)
    engine.load_reserved(hart, CODE + 0x20, 4)
    assert dropped(slots) == []
    assert engine.store_conditional(hart, CODE + 0x20, 4, 7) == 0
    assert dropped(slots) == [0x1E, 0x20, 0x22]


def test_another_hart_s_store_is_seen_at_fence_i(engine, pair):
    first, second = pair.harts
    slots = engine.fetch_page(first, CODE)
    mark_decoded(slots)
    engine.store_slow(second, CODE + 0x10, 4, 0)
    engine.do_fence_i(second)
    assert dropped(slots) == []
    engine.do_fence_i(first)
    assert released(first, CODE)


def test_fence_i_drops_nothing_if_nothing_was_written(engine, hart, slots):
    engine.do_fence_i(hart)
    assert dropped(slots) == []
    assert not released(hart, CODE)


def test_a_page_that_became_data_gets_its_fast_path_back(engine, hart, slots):
    entry = DataTlb(hart.data_tlb).store[CODE >> 12 & 255]
    for count in range(PATIENCE):
        assert not released(hart, CODE)
        engine.store_slow(hart, CODE + 8 * (count % 512), 8, 0)
    assert released(hart, CODE)
    assert hart.attention & ATTENTION_REFETCH, "the hart may be running in it"
    assert entry.tag == CODE
    assert engine.fetch_page(hart, CODE) == slots
    assert len(dropped(slots)) == SLOTS_PER_PAGE
    assert entry.tag == CODE | TAG_CODE


def test_a_hart_that_runs_what_another_only_writes_is_asked_to_let_go(engine, pair):
    first, second = pair.harts
    engine.fetch_page(first, CODE)
    for _ in range(PATIENCE + 1):
        engine.store_slow(second, CODE, 8, 0)
    engine.attend(first)
    assert released(first, CODE)
    engine.store_slow(second, CODE, 8, 0)
    assert DataTlb(second.data_tlb).store[CODE >> 12 & 255].tag == CODE


@pytest.fixture
def dirty_map(machine, hart):
    """A dirty map, and a device page through which a device would announce changes."""
    pages = machine.machine.memory // PAGE_SIZE
    with Area.allocate(pages) as dirty, Area.allocate(PAGE_SIZE) as device:
        hart.dirty_map = dirty.address
        machine.board.nslots = 1
        machine.board.transports[0].device_page = device.address
        yield dirty.view(), device.view().cast("I")
        machine.board.transports[0].device_page = 0


def dma(dirty_map, machine, address):
    """What a device does after it wrote a page."""
    dirty, device = dirty_map
    dirty[(address - RAM_BASE) // PAGE_SIZE] = 0xFF
    device[DeviceToCore.offset("dirty_generation") // 4] += 1


def test_dma_into_code_is_seen_at_fence_i(engine, machine, hart, dirty_map, slots):
    dma(dirty_map, machine, CODE)
    assert dropped(slots) == []
    engine.do_fence_i(hart)
    assert released(hart, CODE)
    assert engine.fetch_page(hart, CODE) == slots
    engine.do_fence_i(hart)
    assert not released(hart, CODE)


def test_dma_elsewhere_leaves_code_alone(engine, machine, hart, dirty_map, slots):
    dma(dirty_map, machine, CODE + PAGE_SIZE)
    engine.do_fence_i(hart)
    assert not released(hart, CODE)


def test_a_guest_s_stores_mark_the_dirty_map_for_everybody_else(engine, hart, dirty_map):
    engine.store_slow(hart, CODE, 8, 1)
    assert dirty_map[0][(CODE - RAM_BASE) // PAGE_SIZE] == 0xFE


def test_the_pool_is_bounded_and_evicts_what_was_not_used_lately(engine, hart):
    hart.pool_pages = 4
    pages = [CODE + index * PAGE_SIZE for index in range(6)]
    for page in pages[:4]:
        engine.fetch_page(hart, page)
    fifth = engine.fetch_page(hart, pages[4])
    assert (hart.pool_used, hart.evictions) == (4, 1)
    evicted = {page for page in pages[:4] if FetchTlb(hart.fetch_tlb).entry[page >> 12 & 255].tag == NO_TAG}
    assert len(evicted) == 1
    number = (fifth - hart.pool) // SLOT_PAGE_SIZE
    assert SlotPage(hart.pool_info + number * SLOT_PAGE_INFO_SIZE).page == (pages[4] - RAM_BASE) // PAGE_SIZE
    for page in pages:
        assert engine.fetch_page(hart, page)


# whole programs


def run(machine, lines):
    machine.write(RAM_BASE, program(*lines, *FINISH))
    machine.start()
    assert machine.join(60)


FINISH = (
    ("lui", {"rd": 6, "imm": 0x100000}),
    ("lui", {"rd": 7, "imm": 0x5000}),
    ("addi", {"rd": 7, "rs1": 7, "imm": 0x555}),
    ("sw", {"rs1": 6, "rs2": 7}),
    ("jal", {}),
)


@pytest.mark.parametrize("fence", [False, True])
def test_a_program_that_rewrites_its_next_instruction_runs_the_new_one(machine_native, fence):
    """`addi a0, a0, 1` runs once, becomes `addi a0, a0, 16`, and runs again."""
    machine, hart = machine_native
    new = int.from_bytes(program(("addi", {"rd": 10, "rs1": 10, "imm": 16})), "little")
    run(
        machine,
        [
            ("auipc", {"rd": 5}),
            ("lui", {"rd": 11, "imm": new + 0x800 & 0xFFFFF000}),
            ("addi", {"rd": 11, "rs1": 11, "imm": (new & 0xFFF ^ 0x800) - 0x800}),
            ("addi", {"rd": 12, "imm": 2}),
            ("addi", {"rd": 10, "rs1": 10, "imm": 1}),
            ("sw", {"rs1": 5, "rs2": 11, "imm": 16}),
            ("fence.i", {}) if fence else ("addi", {}),
            ("addi", {"rd": 12, "rs1": 12, "imm": -1}),
            ("bne", {"rs1": 12, "rs2": 0, "imm": -16}),
        ],
    )
    assert hart.x[10] == 17


def test_a_reset_forgets_all_code(engine, machine, hart, slots):
    machine.set.reset(machine.built, Boot((), b"", Mode.MACHINE, RAM_BASE, 0))
    assert hart.pool_used == 0
    assert engine.fetch_page(hart, CODE) == slots
    assert len(dropped(slots)) == SLOTS_PER_PAGE
