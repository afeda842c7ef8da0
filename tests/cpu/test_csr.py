"""CSRs: who may access them, and what a write leaves (privileged ISA, chapters 2, 3 and 10)."""

from __future__ import annotations

import pytest
from harness import cause

from core.cpu.csr import CSR_CLEAR, CSR_SET, CSR_WRITE
from core.cpu.csrs import BY_NAME, CSRS, Kind, Needs
from core.cpu.state import ATTENTION_INTERRUPT, ATTENTION_REFETCH, MACHINE, SUPERVISOR, USER, DataTlb
from core.cpu.status import (
    CAUSE_ILLEGAL,
    MIP_MSIP,
    MIP_SEIP,
    MIP_SSIP,
    MIP_STIP,
    MSTATUS_FS,
    MSTATUS_MIE,
    MSTATUS_MPP,
    MSTATUS_SD,
    MSTATUS_SIE,
    MSTATUS_SUM,
    MSTATUS_TVM,
    SATP_SV39,
)

ONES = (1 << 64) - 1
FIELDS = [row for row in CSRS if row.kind == Kind.FIELD and not row.read_only]


def access(engine, hart, name, operation=CSR_WRITE, value=0, writes=True, reads=True):
    address = BY_NAME[name].address if isinstance(name, str) else name
    return engine.csr_access(hart, address, operation, value, writes, reads)


def read(engine, hart, name):
    return access(engine, hart, name, writes=False)


def write(engine, hart, name, value):
    access(engine, hart, name, CSR_WRITE, value)
    assert hart.trap == 0, name
    return read(engine, hart, name)


def mode(engine, hart, privilege):
    hart.privilege = privilege
    engine.select_banks(hart)


@pytest.mark.parametrize("row", CSRS, ids=lambda row: row.name)
def test_each_csr_is_for_its_privilege_and_above(engine, hart, row):
    hart.mcounteren = hart.scounteren = ONES
    hart.menvcfg = ONES
    hart.mstatus |= MSTATUS_FS
    for privilege in (USER, SUPERVISOR, MACHINE):
        hart.privilege = privilege
        read(engine, hart, row.name)
        assert cause(hart) == (None if privilege >= row.privilege else CAUSE_ILLEGAL)


@pytest.mark.parametrize("row", [row for row in CSRS if row.read_only], ids=lambda row: row.name)
def test_read_only_csrs_refuse_every_write(engine, hart, row):
    access(engine, hart, row.name, CSR_SET, 0)
    assert cause(hart) == CAUSE_ILLEGAL
    read(engine, hart, row.name)
    assert cause(hart) is None


@pytest.mark.parametrize("address", [0x015, 0x008, 0x200, 0x3A1, 0x3A4, 0x7C0, 0x7B0, 0x747, 0xC20, 0xFFF])
def test_what_is_not_in_the_table_is_illegal(engine, hart, address):
    access(engine, hart, address, writes=False)
    assert cause(hart) == CAUSE_ILLEGAL


@pytest.mark.parametrize("row", FIELDS, ids=lambda row: row.name)
def test_fields_keep_only_the_bits_that_can_be_written(engine, hart, row):
    hart.mstatus |= MSTATUS_FS
    assert write(engine, hart, row.name, ONES) == row.writable
    assert write(engine, hart, row.name, 0) == 0


@pytest.mark.parametrize("row", [row for row in CSRS if row.kind == Kind.CONSTANT], ids=lambda row: row.name)
def test_constants_stay(engine, hart, row):
    if not row.read_only:
        access(engine, hart, row.name, CSR_WRITE, ONES)
        assert cause(hart) is None
    assert read(engine, hart, row.name) == row.value


def test_set_and_clear_change_the_bits_given_and_return_what_was_before(engine, hart):
    write(engine, hart, "mscratch", 0b1100)
    assert access(engine, hart, "mscratch", CSR_SET, 0b0110) == 0b1100
    assert access(engine, hart, "mscratch", CSR_CLEAR, 0b0100) == 0b1110
    assert read(engine, hart, "mscratch") == 0b1010


def test_misa_says_what_there_is(engine, hart):
    value = read(engine, hart, "misa")
    assert value >> 62 == 2
    assert "".join(chr(65 + bit) for bit in range(26) if value >> bit & 1) == "ACDFIMSU"


def test_mstatus_knows_no_hypervisor_mode(engine, hart):
    write(engine, hart, "mstatus", 1 << 11)
    assert write(engine, hart, "mstatus", 2 << 11) & MSTATUS_MPP == 1 << 11
    assert write(engine, hart, "mstatus", 3 << 11) & MSTATUS_MPP == 3 << 11


def test_sstatus_is_a_view_that_leaves_the_rest_of_mstatus_alone(engine, hart):
    write(engine, hart, "mstatus", ONES)
    before = hart.mstatus
    shown = write(engine, hart, "sstatus", 0)
    assert shown == 2 << 32
    assert hart.mstatus & MSTATUS_MIE and hart.mstatus & MSTATUS_TVM and not hart.mstatus & MSTATUS_SIE
    write(engine, hart, "sstatus", ONES)
    assert hart.mstatus == before


def test_sd_says_that_the_floating_point_state_is_dirty(engine, hart):
    for status, dirty in ((0, False), (1 << 13, False), (2 << 13, False), (3 << 13, True)):
        assert bool(write(engine, hart, "mstatus", status) & MSTATUS_SD) == dirty
        assert bool(read(engine, hart, "sstatus") & MSTATUS_SD) == dirty


def test_floating_point_csrs_need_fs_and_make_it_dirty(engine, hart):
    read(engine, hart, "fcsr")
    assert cause(hart) == CAUSE_ILLEGAL
    hart.mstatus |= 1 << 13
    read(engine, hart, "frm")
    assert hart.mstatus & MSTATUS_FS == 1 << 13
    assert write(engine, hart, "fcsr", ONES) == 0xFF
    assert hart.mstatus & MSTATUS_FS == MSTATUS_FS
    assert (read(engine, hart, "fflags"), read(engine, hart, "frm")) == (0x1F, 7)


@pytest.mark.parametrize(("name", "bit"), [("cycle", 0), ("time", 1), ("instret", 2), ("hpmcounter3", 3)])
def test_counters_are_for_those_below_whom_their_bits_let(engine, hart, name, bit):
    for machine_bit, supervisor_bit, privilege, allowed in (
        (0, 0, MACHINE, True),
        (0, 1, SUPERVISOR, False),
        (1, 0, SUPERVISOR, True),
        (1, 0, USER, False),
        (0, 1, USER, False),
        (1, 1, USER, True),
    ):
        hart.mcounteren, hart.scounteren, hart.privilege = machine_bit << bit, supervisor_bit << bit, privilege
        read(engine, hart, name)
        assert (cause(hart) is None) == allowed


def test_counters_count_instructions_and_can_be_written_and_stopped(engine, hart):
    hart.horizon, hart.budget = 2000, 1500
    assert read(engine, hart, "minstret") == 500
    access(engine, hart, "minstret", CSR_WRITE, 7)
    hart.budget -= 1  # the write itself
    assert read(engine, hart, "minstret") == 7
    hart.budget -= 10
    assert read(engine, hart, "minstret") == 17
    assert read(engine, hart, "mcycle") == 511
    write(engine, hart, "mcountinhibit", 0b100)
    hart.budget -= 10
    assert read(engine, hart, "minstret") == 17
    assert read(engine, hart, "mcycle") == 521
    assert write(engine, hart, "minstret", 3) == 3


def test_time_is_the_board_s(engine, machine, hart):
    before = read(engine, hart, "time")
    assert before <= read(engine, hart, "time") < before + 100_000_000


def test_satp_takes_modes_that_exist_and_ignores_the_whole_write_of_others(engine, hart):
    good = SATP_SV39 << 60 | 0x80000
    assert write(engine, hart, "satp", good | 0xFFFF << 44) == good
    assert hart.attention & ATTENTION_REFETCH
    assert write(engine, hart, "satp", 10 << 60 | 1) == good
    assert write(engine, hart, "satp", 0) == 0


def test_satp_is_machine_mode_s_with_tvm(engine, hart):
    hart.mstatus |= MSTATUS_TVM
    mode(engine, hart, SUPERVISOR)
    read(engine, hart, "satp")
    assert cause(hart) == CAUSE_ILLEGAL
    engine.do_sfence_vma(hart, 0, 0, 0, 0)
    assert cause(hart) == CAUSE_ILLEGAL


@pytest.mark.parametrize("name", ["mtvec", "stvec"])
def test_trap_vectors_have_two_modes(engine, hart, name):
    assert write(engine, hart, name, 0x8000_0001) == 0x8000_0001
    assert write(engine, hart, name, 0x8000_0002) == 0x8000_0000


def test_supervisor_views_show_what_is_delegated(engine, hart):
    hart.mip = MIP_SSIP | MIP_STIP | MIP_MSIP
    write(engine, hart, "mie", ONES)
    assert (read(engine, hart, "sip"), read(engine, hart, "sie")) == (0, 0)
    write(engine, hart, "mideleg", MIP_SSIP | MIP_SEIP)
    assert read(engine, hart, "sip") == MIP_SSIP
    assert read(engine, hart, "sie") == MIP_SSIP | MIP_SEIP
    assert write(engine, hart, "sie", 0) == 0
    assert hart.mie & MIP_STIP and not hart.mie & MIP_SSIP
    write(engine, hart, "sip", 0)
    assert hart.mip == MIP_STIP | MIP_MSIP


def test_seip_is_the_line_or_the_bit_that_software_wrote(engine, hart):
    hart.mip = MIP_SEIP
    access(engine, hart, "mip", CSR_SET, MIP_STIP)
    assert hart.software_seip == 0, "set must not copy the line into the bit"
    hart.mip &= ~MIP_SEIP
    assert read(engine, hart, "mip") == MIP_STIP
    write(engine, hart, "mip", MIP_SEIP)
    assert read(engine, hart, "mip") == MIP_SEIP


@pytest.mark.parametrize(
    ("name", "value"),
    [("mstatus", MSTATUS_MIE), ("mie", MIP_MSIP), ("mip", MIP_SSIP)],
)
def test_a_write_that_makes_an_interrupt_due_asks_for_attention(engine, hart, name, value):
    hart.mip, hart.mie, hart.mstatus = MIP_MSIP, MIP_MSIP | MIP_SSIP, MSTATUS_MIE
    if name == "mstatus":
        hart.mstatus = 0
    elif name == "mie":
        hart.mie = 0
    else:
        hart.mip = 0
    hart.attention = 0
    access(engine, hart, name, CSR_WRITE, value)
    assert hart.attention & ATTENTION_INTERRUPT


def test_sum_changes_the_bank_of_the_tlb(engine, hart):
    mode(engine, hart, SUPERVISOR)
    before = DataTlb(hart.data_tlb)
    access(engine, hart, "sstatus", CSR_SET, MSTATUS_SUM)
    assert DataTlb(hart.data_tlb) != before
    access(engine, hart, "sstatus", CSR_CLEAR, MSTATUS_SUM)
    assert DataTlb(hart.data_tlb) == before


def test_stimecmp_is_shown_to_supervisors_only_with_stce(engine, machine, hart):
    hart.mcounteren = ONES
    mode(engine, hart, SUPERVISOR)
    read(engine, hart, "stimecmp")
    assert cause(hart) == CAUSE_ILLEGAL
    mode(engine, hart, MACHINE)
    write(engine, hart, "menvcfg", 1 << 63)
    mode(engine, hart, SUPERVISOR)
    write(engine, hart, "stimecmp", 0)
    assert hart.mip & MIP_STIP
    write(engine, hart, "stimecmp", ONES)
    assert not hart.mip & MIP_STIP


def test_the_table_says_each_thing_once():
    assert len({row.address for row in CSRS}) == len({row.name for row in CSRS}) == len(CSRS)
    assert all(row.needs in (0, *Needs) for row in CSRS), "csr.py looks for one need"
