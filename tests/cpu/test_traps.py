"""Traps, interrupts and returns (privileged ISA, 3.1.6 to 3.1.9, 3.3, 10.1)."""

from __future__ import annotations

import pytest
from harness import cause, program

from core.board.virt import RAM_BASE
from core.cpu.state import MACHINE, SUPERVISOR, USER
from core.cpu.status import (
    CAUSE_BREAKPOINT,
    CAUSE_ECALL_USER,
    CAUSE_ILLEGAL,
    CAUSE_LOAD_PAGE,
    INTERRUPT,
    MIP_ALL,
    MIP_MEIP,
    MIP_MSIP,
    MIP_MTIP,
    MIP_SEIP,
    MIP_SSIP,
    MIP_STIP,
    MIP_SUPERVISOR,
    MSTATUS_MIE,
    MSTATUS_MPIE,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_SIE,
    MSTATUS_SPIE,
    MSTATUS_SPP,
    MSTATUS_TSR,
    MSTATUS_TW,
)

PC = RAM_BASE + 0x1234
M_HANDLER, S_HANDLER = RAM_BASE + 0x100, RAM_BASE + 0x200
ORDER = (MIP_MEIP, MIP_MSIP, MIP_MTIP, MIP_SEIP, MIP_SSIP, MIP_STIP)


@pytest.fixture
def ready(engine, hart):
    hart.pc, hart.mtvec, hart.stvec = PC, M_HANDLER, S_HANDLER
    return hart


def trap(engine, hart, number, tval=0, privilege=USER, status=0):
    hart.privilege, hart.mstatus = privilege, status
    engine.select_banks(hart)
    hart.trap, hart.tval = number + 1, tval
    engine.take_trap(hart)
    assert hart.trap == 0


def test_a_trap_goes_to_machine_mode(engine, ready):
    trap(engine, ready, CAUSE_LOAD_PAGE, 0xDEAD, SUPERVISOR, MSTATUS_MIE | MSTATUS_SIE)
    assert (ready.privilege, ready.pc) == (MACHINE, M_HANDLER)
    assert (ready.mcause, ready.mepc, ready.mtval) == (CAUSE_LOAD_PAGE, PC, 0xDEAD)
    assert ready.mstatus == MSTATUS_MPIE | MSTATUS_SIE | SUPERVISOR << MSTATUS_MPP_SHIFT


@pytest.mark.parametrize("privilege", [USER, SUPERVISOR])
def test_a_delegated_trap_goes_to_supervisor_mode(engine, ready, privilege):
    ready.medeleg = 1 << CAUSE_LOAD_PAGE
    trap(engine, ready, CAUSE_LOAD_PAGE, 0xDEAD, privilege, MSTATUS_MIE | MSTATUS_SIE)
    assert (ready.privilege, ready.pc) == (SUPERVISOR, S_HANDLER)
    assert (ready.scause, ready.sepc, ready.stval) == (CAUSE_LOAD_PAGE, PC, 0xDEAD)
    previous = MSTATUS_SPP if privilege == SUPERVISOR else 0
    assert ready.mstatus == MSTATUS_MIE | MSTATUS_SPIE | previous


def test_traps_of_machine_mode_are_never_delegated(engine, ready):
    ready.medeleg = 0xFFFF
    trap(engine, ready, CAUSE_LOAD_PAGE, 0, MACHINE)
    assert (ready.privilege, ready.pc, ready.mstatus & MSTATUS_MPP) == (MACHINE, M_HANDLER, MSTATUS_MPP)


def test_exceptions_are_never_vectored(engine, ready):
    ready.mtvec |= 1
    trap(engine, ready, CAUSE_LOAD_PAGE)
    assert ready.pc == M_HANDLER


@pytest.mark.parametrize("size", [2, 4])
def test_an_illegal_instruction_is_shown_in_mtval(engine, machine, ready, size):
    word = 0xFFFF_FFFF if size == 4 else 0x8000
    machine.write(PC, word.to_bytes(size, "little"))
    trap(engine, ready, CAUSE_ILLEGAL, privilege=MACHINE)
    assert ready.mtval == word


@pytest.mark.parametrize("privilege", [USER, SUPERVISOR, MACHINE])
def test_ecall_has_a_cause_for_each_mode(engine, ready, privilege):
    ready.privilege = privilege
    engine.do_ecall(ready)
    assert (cause(ready), ready.tval) == (CAUSE_ECALL_USER + privilege, 0)


def test_ebreak_shows_its_address(engine, ready):
    engine.do_ebreak(ready)
    engine.take_trap(ready)
    assert (ready.mcause, ready.mtval) == (CAUSE_BREAKPOINT, PC)


def test_mret_restores_mode_and_interrupt_enable(engine, ready):
    ready.mepc = PC
    ready.mstatus = MSTATUS_MPIE | MSTATUS_MPRV | SUPERVISOR << MSTATUS_MPP_SHIFT
    engine.do_mret(ready)
    assert (ready.privilege, ready.pc) == (SUPERVISOR, PC)
    assert ready.mstatus == MSTATUS_MPIE | MSTATUS_MIE


def test_mret_to_machine_mode_keeps_mprv(engine, ready):
    ready.mstatus = MSTATUS_MPRV | MSTATUS_MPP
    engine.do_mret(ready)
    assert ready.privilege == MACHINE
    assert ready.mstatus == MSTATUS_MPRV | MSTATUS_MPIE


@pytest.mark.parametrize(("previous", "privilege"), [(0, USER), (MSTATUS_SPP, SUPERVISOR)])
def test_sret_restores_mode_and_interrupt_enable(engine, ready, previous, privilege):
    ready.sepc, ready.privilege = PC, SUPERVISOR
    ready.mstatus = MSTATUS_SPIE | previous
    engine.do_sret(ready)
    assert (ready.privilege, ready.pc, ready.mstatus) == (privilege, PC, MSTATUS_SPIE | MSTATUS_SIE)


@pytest.mark.parametrize(
    ("call", "privilege", "status", "legal"),
    [
        ("do_mret", SUPERVISOR, 0, False),
        ("do_mret", USER, 0, False),
        ("do_sret", USER, 0, False),
        ("do_sret", SUPERVISOR, MSTATUS_TSR, False),
        ("do_sret", MACHINE, MSTATUS_TSR, True),
        ("do_wfi", USER, 0, False),
        ("do_wfi", SUPERVISOR, MSTATUS_TW, False),
        ("do_wfi", SUPERVISOR, 0, True),
        ("do_wfi", MACHINE, MSTATUS_TW, True),
    ],
)
def test_who_may(engine, ready, call, privilege, status, legal):
    ready.privilege, ready.mstatus = privilege, status
    getattr(engine, call)(ready)
    assert cause(ready) == (None if legal else CAUSE_ILLEGAL)


# interrupts


def due(engine, hart):
    found = engine.due_interrupt(hart)
    return 1 << (found & 63) if found else 0


def test_interrupts_come_in_their_order(engine, ready):
    ready.mie, ready.mstatus = MIP_ALL, MSTATUS_MIE
    for index, first in enumerate(ORDER):
        ready.mip = sum(ORDER[index:])
        assert due(engine, ready) == first


@pytest.mark.parametrize(
    ("privilege", "status", "by_machine", "by_supervisor"),
    [
        (MACHINE, 0, False, False),
        (MACHINE, MSTATUS_MIE | MSTATUS_SIE, True, False),
        (SUPERVISOR, 0, True, False),
        (SUPERVISOR, MSTATUS_SIE, True, True),
        (USER, 0, True, True),
    ],
)
def test_who_is_interrupted(engine, ready, privilege, status, by_machine, by_supervisor):
    ready.mie, ready.mideleg = MIP_ALL, MIP_SUPERVISOR
    ready.privilege, ready.mstatus = privilege, status
    ready.mip = MIP_MTIP
    assert bool(due(engine, ready)) == by_machine
    ready.mip = MIP_STIP
    assert bool(due(engine, ready)) == by_supervisor


def test_machine_interrupts_come_before_delegated_ones(engine, ready):
    ready.mie, ready.mideleg, ready.privilege = MIP_ALL, MIP_SUPERVISOR, USER
    ready.mip = MIP_SEIP | MIP_MTIP
    assert due(engine, ready) == MIP_MTIP


def test_attend_takes_an_interrupt_through_the_vector(engine, ready):
    ready.mtvec |= 1
    ready.mip, ready.mie, ready.mstatus, ready.budget = MIP_MSIP, MIP_MSIP, MSTATUS_MIE, 1
    assert engine.attend(ready) == 0
    assert (ready.pc, ready.mcause, ready.mepc) == (M_HANDLER + 4 * 3, INTERRUPT | 3, PC)


def test_wfi_returns_when_an_interrupt_is_pending_though_disabled(engine, machine, ready):
    ready.mie, ready.mip, ready.mstatus, ready.budget = MIP_SSIP, MIP_SSIP, 0, 1
    engine.do_wfi(ready)
    assert engine.attend(ready) == 0
    assert (ready.waiting, ready.pc) == (0, PC)


def test_wfi_ends_by_the_timer(engine, machine, ready):
    machine.board.clint.mtimecmp[0] = 0
    ready.mie, ready.budget = MIP_MTIP, 1
    engine.do_wfi(ready)
    assert engine.attend(ready) == 0
    assert ready.mip & MIP_MTIP


def test_a_spent_budget_is_renewed_and_sampled(engine, ready):
    ready.budget, ready.horizon = -3, 5000
    assert engine.attend(ready) == 0
    assert (ready.budget, ready.horizon) == (1997, 7000)
    assert ready.samples[0] == PC
    assert ready.instret == 5003


# whole programs


def test_an_ecall_from_user_mode_arrives_in_supervisor_mode(machine_native):
    """mret to S, sret to U, ecall there: scause 8 in S-mode, and the handler stops the machine with it."""
    machine, hart = machine_native
    hart.mtvec = hart.stvec = RAM_BASE + 0x80
    hart.medeleg = 1 << CAUSE_ECALL_USER
    machine.engine.pmp_open(hart)
    machine.write(
        RAM_BASE,
        program(
            ("auipc", {"rd": 5}),
            ("addi", {"rd": 5, "rs1": 5, "imm": 0x40}),
            ("csrrw", {"rs1": 5, "csr": 0x141}),
            ("csrrw", {"rd": 0, "rs1": 0, "csr": 0x100}),
            ("sret", {}),
        ),
    )
    machine.write(RAM_BASE + 0x40, program(("ecall", {})))
    finish = program(
        ("csrrs", {"rd": 10, "csr": 0x142}),
        ("lui", {"rd": 6, "imm": 0x100000}),
        ("lui", {"rd": 7, "imm": 0x5000}),
        ("addi", {"rd": 7, "rs1": 7, "imm": 0x555}),
        ("sw", {"rs1": 6, "rs2": 7}),
        ("jal", {}),
    )
    machine.write(RAM_BASE + 0x80, finish)
    machine.start()
    assert machine.join(60)
    assert hart.x[10] == CAUSE_ECALL_USER
    assert hart.privilege == SUPERVISOR
