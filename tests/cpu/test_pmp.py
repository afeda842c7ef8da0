"""Physical memory protection (privileged ISA, 3.7)."""

from __future__ import annotations

import pytest

from core.board.virt import RAM_BASE
from core.cpu.csr import CSR_WRITE
from core.cpu.csrs import BY_NAME
from core.cpu.state import MACHINE, SUPERVISOR, USER, DataTlb
from core.cpu.status import PMP_L, PMP_R, PMP_W, PMP_X

TOR, NA4, NAPOT = 1 << 3, 2 << 3, 3 << 3
PAGE = RAM_BASE + 0x1_0000


def write(engine, hart, name, value):
    engine.csr_access(hart, BY_NAME[name].address, CSR_WRITE, value, True, True)
    assert hart.trap == 0


def read(engine, hart, name):
    return engine.csr_access(hart, BY_NAME[name].address, CSR_WRITE, 0, False, True)


def configure(engine, hart, *entries):
    """Entries as (pmpaddr, pmpcfg), from 0."""
    for index, (address, _) in enumerate(entries):
        write(engine, hart, f"pmpaddr{index}", address)
    write(engine, hart, "pmpcfg0", sum(config << 8 * index for index, (_, config) in enumerate(entries)))


def permits(engine, hart, address, size, access, privilege=SUPERVISOR):
    return engine.pmp_permits(hart, address, size, access, privilege)


def test_without_entries_only_machine_mode_may_access(engine, hart):
    assert permits(engine, hart, PAGE, 8, PMP_W, MACHINE)
    assert not permits(engine, hart, PAGE, 8, PMP_R, SUPERVISOR)
    assert not permits(engine, hart, PAGE, 8, PMP_R, USER)


@pytest.mark.parametrize(
    ("address", "mode", "first", "last"),
    [
        (PAGE >> 2, NA4, PAGE, PAGE + 3),
        (PAGE >> 2, NAPOT, PAGE, PAGE + 7),
        (PAGE >> 2 | 0x1FF, NAPOT, PAGE, PAGE + 0xFFF),
        (PAGE >> 2, TOR, 0, PAGE - 1),
    ],
)
def test_an_entry_matches_its_range_and_no_byte_more(engine, hart, address, mode, first, last):
    configure(engine, hart, (address, mode | PMP_R))
    for inside in (first, last):
        assert permits(engine, hart, inside, 1, PMP_R)
        assert not permits(engine, hart, inside, 1, PMP_W)
    assert not permits(engine, hart, last + 1, 1, PMP_R)
    assert first == 0 or not permits(engine, hart, first - 1, 1, PMP_R)


def test_tor_begins_where_the_entry_before_ends(engine, hart):
    configure(engine, hart, (PAGE >> 2, 0), (PAGE + 64 >> 2, TOR | PMP_R))
    assert permits(engine, hart, PAGE, 64, PMP_R)
    assert not permits(engine, hart, PAGE - 4, 4, PMP_R)


def test_the_lowest_matching_entry_decides(engine, hart):
    configure(engine, hart, (PAGE >> 2, NAPOT), ((1 << 54) - 1, NAPOT | PMP_R | PMP_W | PMP_X))
    assert not permits(engine, hart, PAGE, 8, PMP_R)
    assert permits(engine, hart, PAGE + 8, 8, PMP_X)


def test_an_access_that_an_entry_matches_only_in_part_fails_whatever_it_permits(engine, hart):
    configure(engine, hart, (PAGE >> 2, NA4 | PMP_R), ((1 << 54) - 1, NAPOT | PMP_R))
    assert permits(engine, hart, PAGE, 4, PMP_R)
    assert not permits(engine, hart, PAGE, 8, PMP_R)


def test_machine_mode_is_bound_by_locked_entries_only(engine, hart):
    configure(engine, hart, (PAGE >> 2, NAPOT))
    assert permits(engine, hart, PAGE, 8, PMP_W, MACHINE)
    configure(engine, hart, (PAGE >> 2, NAPOT | PMP_L | PMP_R))
    assert not permits(engine, hart, PAGE, 8, PMP_W, MACHINE)
    assert permits(engine, hart, PAGE, 8, PMP_R, MACHINE)


def test_a_locked_entry_cannot_be_written_nor_the_bottom_of_a_locked_tor(engine, hart):
    configure(engine, hart, (PAGE >> 2, 0), (PAGE + 64 >> 2, TOR | PMP_L | PMP_R))
    configuration = read(engine, hart, "pmpcfg0")
    write(engine, hart, "pmpaddr0", 0)
    write(engine, hart, "pmpaddr1", 0)
    write(engine, hart, "pmpcfg0", 0)
    assert read(engine, hart, "pmpaddr0") == PAGE >> 2
    assert read(engine, hart, "pmpaddr1") == PAGE + 64 >> 2
    assert read(engine, hart, "pmpcfg0") == configuration


def test_reserved_configurations_cannot_be_written(engine, hart):
    write(engine, hart, "pmpcfg0", 0x60 | NAPOT | PMP_W)
    assert read(engine, hart, "pmpcfg0") == NAPOT


def test_a_page_with_one_permission_enters_the_tlb_and_a_divided_one_does_not(engine, hart):
    configure(engine, hart, ((PAGE + 0x1000 >> 2) | 3, NAPOT), ((1 << 54) - 1, NAPOT | PMP_R))
    hart.privilege = SUPERVISOR
    engine.select_banks(hart)
    entries = DataTlb(hart.data_tlb).load
    engine.load_slow(hart, PAGE + 8, 8)
    assert entries[PAGE >> 12 & 255].tag == PAGE
    engine.load_slow(hart, PAGE + 0x1020, 8)
    assert hart.trap == 0
    assert entries[(PAGE >> 12) + 1 & 255].tag != PAGE + 0x1000
    engine.load_slow(hart, PAGE + 0x1018, 8)
    assert hart.trap != 0


def test_a_change_of_protection_forgets_the_tlbs(engine, hart):
    configure(engine, hart, ((1 << 54) - 1, NAPOT | PMP_R))
    hart.privilege = SUPERVISOR
    engine.select_banks(hart)
    engine.load_slow(hart, PAGE, 8)
    hart.privilege = MACHINE
    configure(engine, hart, ((1 << 54) - 1, NAPOT))
    hart.privilege = SUPERVISOR
    engine.select_banks(hart)
    assert DataTlb(hart.data_tlb).load[PAGE >> 12 & 255].tag != PAGE
