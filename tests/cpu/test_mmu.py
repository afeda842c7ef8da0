"""Address translation and the slow paths of memory (privileged ISA, 10.3 to 10.5; unprivileged ISA, 2.6)."""

from __future__ import annotations

import pytest
from harness import PAGE, PageTables, cause

from core.board.virt import CLINT_BASE, RAM_BASE, UART_BASE
from core.cpu.state import SUPERVISOR, USER, DataTlb
from core.cpu.status import (
    CAUSE_FETCH_ACCESS,
    CAUSE_FETCH_PAGE,
    CAUSE_LOAD_ACCESS,
    CAUSE_LOAD_PAGE,
    CAUSE_STORE_ACCESS,
    CAUSE_STORE_PAGE,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_MXR,
    MSTATUS_SUM,
    PMP_R,
    PMP_W,
    PMP_X,
    SATP_SV39,
    SATP_SV48,
)
from core.cpu.walk import NO_ADDRESS, PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, PTE_X

TABLES = RAM_BASE + 0x8_0000
TARGET = RAM_BASE + 0x4_0000
VA = 0x12_3456_7000
RWX = PTE_V | PTE_R | PTE_W | PTE_X
RW = PTE_V | PTE_R | PTE_W
AD = PTE_A | PTE_D


@pytest.fixture
def tables(machine, hart, engine):
    """Sv39 on, S-mode, all memory open."""
    made = PageTables(machine, TABLES)
    engine.pmp_open(hart)
    hart.satp = made.satp(SATP_SV39)
    set_mode(engine, hart, SUPERVISOR)
    return made


def set_mode(engine, hart, privilege, status=None):
    hart.privilege = privilege
    if status is not None:
        hart.mstatus = status
    engine.select_banks(hart)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_leaf_at_each_level_translates_the_bits_below_it(engine, hart, tables, level):
    size = PAGE << 9 * level
    target = RAM_BASE & ~(size - 1)
    tables.map(VA, target, RW | AD, level)
    offset = (VA & (size - 1)) | 0x458
    assert engine.translate(hart, VA | 0x458, 8, PMP_R) == target + offset


def test_a_superpage_that_is_not_aligned_is_a_page_fault(engine, hart, tables):
    tables.map(VA, TARGET, RW | AD, 1)
    assert engine.translate(hart, VA, 8, PMP_R) == NO_ADDRESS
    assert (cause(hart), hart.tval) == (CAUSE_LOAD_PAGE, VA)


@pytest.mark.parametrize(
    ("access", "expected"),
    [(PMP_R, CAUSE_LOAD_PAGE), (PMP_W, CAUSE_STORE_PAGE), (PMP_X, CAUSE_FETCH_PAGE)],
)
@pytest.mark.parametrize("va", [0x40_0000_0000, 0xFFFF_FF00_0000_0000, VA])
def test_addresses_that_are_not_canonical_or_not_mapped_are_page_faults(engine, hart, tables, va, access, expected):
    assert engine.translate(hart, va, 1, access) == NO_ADDRESS
    assert (cause(hart), hart.tval) == (expected, va)


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (PTE_V | PTE_R, {PMP_R}),
        (RW, {PMP_R, PMP_W}),
        (PTE_V | PTE_X, {PMP_X}),
        (RWX, {PMP_R, PMP_W, PMP_X}),
        (PTE_V | PTE_R | PTE_X, {PMP_R, PMP_X}),
        (PTE_V | PTE_W, set()),
        (PTE_V | PTE_W | PTE_X, set()),
        (PTE_R | PTE_W | PTE_X, set()),
        (RWX | 1 << 54, set()),
    ],
)
def test_permission_bits_are_obeyed(engine, hart, tables, flags, allowed):
    tables.map(VA, TARGET, flags | AD)
    for access in (PMP_R, PMP_W, PMP_X):
        found = engine.translate(hart, VA, 1, access)
        assert (found == TARGET) == (access in allowed)
        hart.trap = 0


def test_pages_of_user_mode_are_for_supervisor_only_with_sum_and_never_to_execute(engine, hart, tables):
    tables.map(VA, TARGET, RWX | PTE_U | AD)
    assert engine.translate(hart, VA, 1, PMP_R) == NO_ADDRESS
    set_mode(engine, hart, SUPERVISOR, MSTATUS_SUM)
    assert engine.translate(hart, VA, 1, PMP_R) == TARGET
    assert engine.translate(hart, VA, 1, PMP_W) == TARGET
    assert engine.translate(hart, VA, 2, PMP_X) == NO_ADDRESS
    set_mode(engine, hart, USER)
    assert engine.translate(hart, VA, 2, PMP_X) == TARGET


def test_pages_of_supervisor_mode_are_not_for_user_mode(engine, hart, tables):
    tables.map(VA, TARGET, RWX | AD)
    set_mode(engine, hart, USER)
    assert {engine.translate(hart, VA, 1, access) for access in (PMP_R, PMP_W, PMP_X)} == {NO_ADDRESS}


def test_mxr_makes_executable_pages_readable(engine, hart, tables):
    tables.map(VA, TARGET, PTE_V | PTE_X | AD)
    assert engine.translate(hart, VA, 1, PMP_R) == NO_ADDRESS
    set_mode(engine, hart, SUPERVISOR, MSTATUS_MXR)
    assert engine.translate(hart, VA, 1, PMP_R) == TARGET
    assert engine.translate(hart, VA, 1, PMP_W) == NO_ADDRESS


def test_mprv_lends_loads_and_stores_the_mode_in_mpp_but_not_fetches(engine, hart, tables):
    tables.map(VA, TARGET, RWX | AD)
    set_mode(engine, hart, 3, MSTATUS_MPRV | SUPERVISOR << MSTATUS_MPP_SHIFT)
    assert engine.translate(hart, VA, 1, PMP_R) == TARGET
    assert engine.translate(hart, VA, 2, PMP_X) == VA


@pytest.mark.parametrize(("access", "bits"), [(PMP_R, PTE_A), (PMP_X, PTE_A), (PMP_W, PTE_A | PTE_D)])
def test_the_a_and_d_bits_are_set_as_needed(engine, hart, tables, access, bits):
    where = tables.map(VA, TARGET, RWX)
    assert engine.translate(hart, VA, 1, access) == TARGET
    assert tables.entry(where) & AD == bits


@pytest.mark.parametrize(("access", "missing"), [(PMP_R, PTE_A), (PMP_X, PTE_A), (PMP_W, PTE_A), (PMP_W, PTE_D)])
def test_with_svade_a_clear_bit_is_a_page_fault(engine, hart, tables, access, missing):
    where = tables.map(VA, TARGET, RWX | AD & ~missing)
    hart.svade = 1
    assert engine.translate(hart, VA, 1, access) == NO_ADDRESS
    assert cause(hart) in (CAUSE_LOAD_PAGE, CAUSE_STORE_PAGE, CAUSE_FETCH_PAGE)
    assert tables.entry(where) & AD == AD & ~missing


def test_page_tables_outside_ram_are_access_faults(engine, hart, tables):
    hart.satp = SATP_SV39 << 60 | CLINT_BASE >> 12
    assert engine.translate(hart, VA, 1, PMP_W) == NO_ADDRESS
    assert cause(hart) == CAUSE_STORE_ACCESS


def test_a_pointer_with_a_or_d_or_u_is_a_page_fault(engine, hart, tables):
    tables.map(VA, TARGET, RW | AD)
    root = tables.entry_address(TABLES, VA, 2)
    for bit in (PTE_A, PTE_D, PTE_U):
        tables.set_entry(root, tables.entry(root) | bit)
        assert engine.translate(hart, VA, 1, PMP_R) == NO_ADDRESS
        tables.set_entry(root, tables.entry(root) & ~bit)
    assert engine.translate(hart, VA, 1, PMP_R) == TARGET


def test_sv48_has_one_level_more(engine, machine, hart):
    engine.pmp_open(hart)
    tables = PageTables(machine, TABLES, levels=4)
    va = 0x7FFF_1234_5000
    tables.map(va, TARGET, RW | AD)
    hart.satp = tables.satp(SATP_SV48)
    assert engine.walk(hart, va | 7, PMP_R, SUPERVISOR, SATP_SV48) == TARGET | 7
    assert engine.walk(hart, va | 1 << 48, PMP_R, SUPERVISOR, SATP_SV48) == NO_ADDRESS


def test_sv32_has_entries_of_four_bytes(engine, machine, hart):
    engine.pmp_open(hart)
    tables = PageTables(machine, TABLES, levels=2, index_bits=10)
    where = tables.map(0xC040_1000, TARGET, RW)
    tables.map(0x8000_0000, 0x8000_0000, RW, level=1)
    hart.satp = tables.satp(0) & ((1 << 44) - 1)
    assert engine.walk(hart, 0xC040_1234, PMP_W, SUPERVISOR, 1) == TARGET | 0x234
    assert tables.entry(where) & AD == AD
    assert engine.walk(hart, 0x8012_3456, PMP_R, SUPERVISOR, 1) == 0x8012_3456


# TLBs


def load_entry(hart, va):
    return DataTlb(hart.data_tlb).load[va >> 12 & 255].tag


def test_a_load_enters_the_page_and_sfence_vma_forgets_it(engine, machine, hart, tables):
    tables.map(VA, TARGET, RW | AD)
    machine.write(TARGET + 8, b"\x88\x77\x66\x55\x44\x33\x22\x11")
    assert engine.load_slow(hart, VA + 8, 8) == 0x1122334455667788
    assert load_entry(hart, VA) == VA
    engine.do_sfence_vma(hart, VA + 16, 5, 0, 0)
    assert load_entry(hart, VA) != VA
    engine.load_slow(hart, VA, 1)
    engine.do_sfence_vma(hart, VA + PAGE, 5, 0, 0)
    assert load_entry(hart, VA) == VA
    engine.do_sfence_vma(hart, 0, 0, 0, 0)
    assert load_entry(hart, VA) != VA


def test_sfence_vma_for_one_address_of_a_superpage_forgets_all_of_it(engine, hart, tables):
    tables.map(VA, RAM_BASE & ~0x1FFFFF, RW | AD, 1)
    inside = VA & ~0x1FFFFF | 0x3000
    engine.load_slow(hart, inside, 1)
    assert load_entry(hart, inside) == inside
    engine.do_sfence_vma(hart, VA & ~0x1FFFFF | 0x1F000, 5, 0, 0)
    assert load_entry(hart, inside) != inside


def test_modes_have_banks_of_their_own(engine, hart, tables):
    tables.map(VA, TARGET, RW | AD)
    engine.load_slow(hart, VA, 1)
    set_mode(engine, hart, USER)
    assert load_entry(hart, VA) != VA
    set_mode(engine, hart, SUPERVISOR, MSTATUS_SUM)
    assert load_entry(hart, VA) != VA
    set_mode(engine, hart, SUPERVISOR, 0)
    assert load_entry(hart, VA) == VA


def test_what_was_loaded_under_mxr_is_forgotten_when_it_ends(engine, hart, tables):
    tables.map(VA, TARGET, PTE_V | PTE_X | AD)
    for _ in range(2):
        set_mode(engine, hart, SUPERVISOR, MSTATUS_MXR)
        assert load_entry(hart, VA) != VA
        engine.load_slow(hart, VA, 1)
        assert load_entry(hart, VA) == VA
        set_mode(engine, hart, SUPERVISOR, 0)
        assert load_entry(hart, VA) != VA


def test_a_store_enters_the_page_only_when_it_is_dirty(engine, hart, tables):
    where = tables.map(VA, TARGET, RW)
    engine.load_slow(hart, VA, 8)
    assert tables.entry(where) & AD == PTE_A
    engine.store_slow(hart, VA, 8, 1)
    assert tables.entry(where) & AD == AD
    assert DataTlb(hart.data_tlb).store[VA >> 12 & 255].tag == VA


# misaligned accesses, MMIO, holes


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("offset", [1, 3, 5])
def test_misaligned_accesses_work(engine, machine, hart, tables, size, offset):
    tables.map(VA, TARGET, RW | AD)
    value = 0x1122334455667788 & ((1 << 8 * size) - 1)
    engine.store_slow(hart, VA + offset, size, value)
    assert machine.read(TARGET + offset, size) == value.to_bytes(size, "little")
    assert engine.load_slow(hart, VA + offset, size) == value
    assert cause(hart) is None


def test_misaligned_accesses_across_pages_follow_both_translations(engine, machine, hart, tables):
    tables.map(VA, TARGET, RW | AD)
    tables.map(VA + PAGE, TARGET - PAGE, RW | AD)
    engine.store_slow(hart, VA + PAGE - 3, 8, 0x0807060504030201)
    assert machine.read(TARGET + PAGE - 3, 3) == bytes([1, 2, 3])
    assert machine.read(TARGET - PAGE, 5) == bytes([4, 5, 6, 7, 8])
    assert engine.load_slow(hart, VA + PAGE - 3, 8) == 0x0807060504030201


def test_a_store_across_pages_writes_nothing_if_the_second_faults(engine, machine, hart, tables):
    tables.map(VA, TARGET, RW | AD)
    engine.store_slow(hart, VA + PAGE - 4, 8, 0xFFFF_FFFF_FFFF_FFFF)
    assert (cause(hart), hart.tval) == (CAUSE_STORE_PAGE, VA + PAGE)
    assert machine.read(TARGET + PAGE - 4, 4) == bytes(4)


def test_a_misaligned_access_to_a_device_is_an_access_fault(engine, hart):
    engine.load_slow(hart, CLINT_BASE + 0x4001, 8)
    assert (cause(hart), hart.tval) == (CAUSE_LOAD_ACCESS, CLINT_BASE + 0x4001)
    engine.store_slow(hart, CLINT_BASE + 0x4002, 4, 0)
    assert (cause(hart), hart.tval) == (CAUSE_STORE_ACCESS, CLINT_BASE + 0x4002)


def test_a_hole_is_an_access_fault_at_its_virtual_address(engine, hart, tables):
    tables.map(VA, 0x6000_0000, RWX | AD)
    engine.load_slow(hart, VA + 8, 4)
    assert (cause(hart), hart.tval) == (CAUSE_LOAD_ACCESS, VA + 8)
    engine.store_slow(hart, VA + 8, 4, 1)
    assert (cause(hart), hart.tval) == (CAUSE_STORE_ACCESS, VA + 8)
    assert engine.fetch_page(hart, VA + 8) == 0
    assert (cause(hart), hart.tval) == (CAUSE_FETCH_ACCESS, VA + 8)


def test_devices_are_reached_but_never_enter_a_tlb(engine, machine, hart, tables):
    tables.map(VA, UART_BASE, RW | AD)
    engine.store_slow(hart, VA, 1, ord("x"))
    assert cause(hart) is None
    assert machine.console() == b"x"
    assert load_entry(hart, VA) != VA
    assert DataTlb(hart.data_tlb).store[VA >> 12 & 255].tag != VA
