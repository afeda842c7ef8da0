"""Hart threads: WFI, signals from other threads, pause and exit, requests of other harts."""

from __future__ import annotations

import time

import pytest
from harness import native_run, program, small_machine

from core.board.virt import RAM_BASE
from core.cpu.reference import page
from core.cpu.state import (
    ACTIVITY_IDLE,
    ACTIVITY_PAUSED,
    ACTIVITY_RUNNING,
    ACTIVITY_WAITING,
    CONTROL_PAUSE,
    REQUEST_FLUSH_TLB,
)
from core.cpu.status import MIP_MSIP

LOOP = [("addi", {"rd": 5, "rs1": 5, "imm": 1}), ("jal", {"imm": -4})]
# Sleep until a software interrupt is pending, count, acknowledge nothing: the test lowers the line.
SLEEPER = [
    ("csrrwi", {"rs1": 8, "csr": 0x304}),
    ("wfi", {}),
    ("addi", {"rd": 5, "rs1": 5, "imm": 1}),
    ("jal", {"imm": -8}),
]


def eventually(condition, seconds=60.0):
    """Wait for what another thread does; the condition is looked at every millisecond."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def started():
    """Machines that run a program on every hart."""
    made = []

    def start(lines, harts=1):
        machine = small_machine(native_run(), harts)
        made.append(machine)
        machine.write(RAM_BASE, program(*lines))
        machine.start()
        return machine

    yield start
    for machine in made:
        machine.close()


def test_wfi_sleeps_until_a_line_rises(started):
    machine = started(SLEEPER)
    hart = machine.harts[0]
    for count in range(1, 4):
        eventually(lambda: hart.activity == ACTIVITY_WAITING)
        machine.engine.set_mip(hart, MIP_MSIP)
        eventually(lambda before=count: hart.x[5] >= before)
        machine.engine.clear_mip(hart, MIP_MSIP)
    assert hart.sleeps >= 1


def test_a_sleeping_hart_uses_no_time(started):
    machine = started(SLEEPER)
    eventually(lambda: machine.harts[0].activity == ACTIVITY_WAITING)

    def used():
        before = time.process_time()
        assert not machine.join(0.2)
        return time.process_time() - before

    assert min(used() for _ in range(5)) < 0.1  # other threads of this process may have something to do


def test_a_paused_hart_runs_nothing_and_goes_on_where_it_was(started):
    machine = started(LOOP)
    hart = machine.harts[0]
    eventually(lambda: hart.instret > 0)
    machine.set.pause()
    eventually(lambda: hart.activity == ACTIVITY_PAUSED)
    count = hart.x[5]
    assert not machine.join(0.02)
    assert hart.x[5] == count
    machine.set.resume()
    eventually(lambda: hart.activity == ACTIVITY_RUNNING and hart.instret > 2 * count + 10_000)
    machine.stop()
    assert (hart.activity, hart.x[5]) == (ACTIVITY_IDLE, hart.instret // 2)


def test_a_hart_in_wfi_can_be_paused_and_still_waits_afterwards(started):
    machine = started(SLEEPER)
    hart = machine.harts[0]
    eventually(lambda: hart.activity == ACTIVITY_WAITING)
    machine.engine.control_hart(hart, CONTROL_PAUSE)
    eventually(lambda: hart.activity == ACTIVITY_PAUSED)
    machine.engine.release_hart(hart, CONTROL_PAUSE)
    eventually(lambda: hart.activity == ACTIVITY_WAITING)
    assert hart.x[5] == 0


@pytest.mark.parametrize("lines", [LOOP, SLEEPER], ids=["running", "asleep"])
def test_harts_leave_when_asked(started, lines):
    machine = started(lines, harts=3)
    eventually(lambda: all(hart.x[5] or hart.activity == ACTIVITY_WAITING for hart in machine.harts))
    machine.stop()
    assert [hart.activity for hart in machine.harts] == [ACTIVITY_IDLE] * 3


def test_a_request_is_served_by_a_running_hart(started):
    machine = started(LOOP)
    hart = machine.harts[0]
    eventually(lambda: hart.instret > 0)
    for _ in range(100):
        number = machine.engine.post_request(hart, REQUEST_FLUSH_TLB)
        eventually(lambda wanted=number: hart.requests_served >= wanted)


@pytest.mark.parametrize("harts", [1, 4])
def test_harts_that_change_each_others_code_all_come_to_an_end(started, harts):
    """Each hart writes into the page that all execute, with fence.i, a thousand times: decoding asks the others to let
    go of the page, again and again, and nobody waits for ever."""
    lines = [
        ("auipc", {"rd": 6}),
        ("addi", {"rd": 7, "imm": 1000}),
        ("csrrs", {"rd": 8, "csr": 0xF14}),
        ("slli", {"rd": 8, "rs1": 8, "imm": 3}),
        ("add", {"rd": 6, "rs1": 6, "rs2": 8}),
        ("sd", {"rs1": 6, "rs2": 7, "imm": 0x400}),
        ("fence.i", {}),
        ("addi", {"rd": 7, "rs1": 7, "imm": -1}),
        ("bne", {"rs1": 7, "rs2": 0, "imm": -12}),
        ("addi", {"rd": 5, "imm": 1}),
        ("csrrwi", {"rs1": 8, "csr": 0x304}),
        ("wfi", {}),
        ("jal", {"imm": -4}),
    ]
    machine = started(lines, harts)
    eventually(lambda: all(hart.x[5] == 1 for hart in machine.harts), 30)


def test_the_reference_page_of_csrs_is_what_the_table_says(request):
    committed = request.config.rootpath / "docs" / "csrs.md"
    assert committed.read_text(encoding="utf-8") == page(), "run: make docs"
