"""The hart thread's whole life, in native code: `run_hart`. It never takes the GIL.

Guest code runs in quanta: whenever the budget is spent, or `attention` is not zero, the interpreter calls `attend`,
which does what is due between two instructions (timers, devices' calls, requests of other harts, interrupts, WFI) and
says whether to leave guest code. WFI sleeps in a futex with an absolute deadline.
"""

from core.board.hsm import hsm_wait
from core.board.poll import board_sleeps, board_tick, board_wakes, next_deadline_ns
from core.board.state import Board
from core.cpu.interrupts import NO_INTERRUPT, due_interrupt, pending_bits
from core.cpu.linger import linger, slept
from core.cpu.pmp import pmp_update
from core.cpu.requests import serve_requests
from core.cpu.signal import NEVER, park, sleep_until, unpark
from core.cpu.slots import do_fence_i, forget_code
from core.cpu.state import (
    ACTIVITY_IDLE,
    ACTIVITY_PAUSED,
    ACTIVITY_RUNNING,
    ACTIVITY_WAITING,
    ATTENTION_FENCE_I,
    ATTENTION_REQUEST,
    ATTENTION_WAIT,
    CONTROL_DEBUG,
    CONTROL_EXIT,
    CONTROL_HELD,
    MACHINE,
    PMP_ENTRIES,
    SAMPLES,
    STEP_NONE,
    Hart,
    retired,
)
from core.cpu.status import MSTATUS_SXL_64, MSTATUS_UXL_64
from core.cpu.tlb import reset_tlbs, select_banks
from core.cpu.traps import take_interrupt
from core.events import EventKind, EventQueue, post_event
from native import addressof, atomic_or64, atomic_swap64, external, fn, i64, monotonic_ns, pause, u32, u64, wrap64


@external
def interpret(hart: Hart) -> None:
    """Run guest code until `attend` says to leave (core/cpu/interpreter.py)."""


@fn
def run_hart(hart: Hart) -> None:
    """The body of a hart's thread: from here to the end of the machine, or CONTROL_EXIT."""
    board = Board(hart.board)
    unpark(hart)
    serve_requests(hart)
    board_wakes(hart)
    hart.activity = ACTIVITY_RUNNING
    while hart.control & CONTROL_EXIT == 0 and board.stopping == 0:
        hsm_wait(hart)
        if hart.control & CONTROL_HELD != 0:
            stay_paused(hart)
        else:
            interpret(hart)
    hart.activity = ACTIVITY_IDLE
    hart.instret = retired(hart)
    board_sleeps(hart)
    park(hart)


@fn
def attend(hart: Hart) -> u64:
    """Between two instructions: do what is due. Not 0: leave guest code."""
    if hart.budget <= 0:
        next_quantum(hart)
        board_tick(hart)
    while hart.attention != 0:
        reasons = atomic_swap64(addressof(hart.attention), 0)
        if reasons & ATTENTION_REQUEST != 0:
            serve_requests(hart)
        if reasons & ATTENTION_FENCE_I != 0:
            do_fence_i(hart)
    if hart.waiting != 0:
        wait_for_interrupt(hart)
    if must_leave(hart):
        return 1
    if hart.stepping != STEP_NONE:
        return 0  # a debugger's step is the program's next instruction, not an interrupt's
    cause = due_interrupt(hart)
    if cause != NO_INTERRUPT:
        take_interrupt(hart, cause)
    return 0


@fn(inline=True)
def must_leave(hart: Hart) -> bool:
    return hart.control != 0 or Board(hart.board).stopping != 0


@fn(inline=True)
def next_quantum(hart: Hart) -> None:
    """The budget is spent: note the pc for the profile, and go on with a new one."""
    hart.samples[hart.sample_count % SAMPLES] = hart.pc
    hart.sample_count = hart.sample_count + 1
    hart.budget = hart.budget + i64(hart.quantum)
    hart.horizon = wrap64(hart.horizon + hart.quantum)
    hart.instret = retired(hart)


@fn
def wait_for_interrupt(hart: Hart) -> None:
    """WFI: until an interrupt is pending that mie enables, whatever mstatus and mideleg say (3.3.3)."""
    board_tick(hart)
    if pending_bits(hart) & hart.mie == 0 and not must_leave(hart) and not linger(hart):
        sleep(hart)
    if must_leave(hart):
        atomic_or64(addressof(hart.attention), ATTENTION_WAIT)  # go on waiting when the hart goes on
    else:
        hart.waiting = 0


@fn
def sleep(hart: Hart) -> None:
    """Sleep until there is a reason to wake up; requests of other harts are served without one."""
    began = monotonic_ns()
    hart.activity = ACTIVITY_WAITING
    hart.instret = retired(hart)
    board_sleeps(hart)
    while True:
        wake = park(hart)
        if pending_bits(hart) & hart.mie != 0 or must_leave(hart):
            break
        sleep_until(hart, wake, next_deadline_ns(hart))
        board_tick(hart)
    unpark(hart)
    serve_requests(hart)
    board_wakes(hart)
    hart.activity = ACTIVITY_RUNNING
    hart.sleeps = hart.sleeps + 1
    taken = monotonic_ns() - began
    hart.slept_ns = hart.slept_ns + taken
    slept(hart, taken)


@fn
def stay_paused(hart: Hart) -> None:
    """CONTROL_PAUSE or CONTROL_DEBUG: run nothing until it is taken back. A debugger is told."""
    hart.activity = ACTIVITY_PAUSED
    hart.instret = retired(hart)
    if hart.control & CONTROL_DEBUG != 0:
        tell_debugger(hart)
    board_sleeps(hart)
    while True:
        wake = park(hart)
        if hart.control & CONTROL_HELD == 0 or hart.control & CONTROL_EXIT != 0 or Board(hart.board).stopping != 0:
            break
        sleep_until(hart, wake, NEVER)
    unpark(hart)
    serve_requests(hart)
    board_wakes(hart)
    hart.activity = ACTIVITY_RUNNING


@fn
def tell_debugger(hart: Hart) -> None:
    while not post_event(EventQueue(Board(hart.board).events), EventKind.HART_HELD, u32(hart.mhartid), 0, 0):
        pause()


@fn
def reset_hart(hart: Hart, pc: u64) -> None:
    """The state after reset (3.4): M-mode at `pc`, no translation, no protection, no interrupts."""
    for number in range(33):
        hart.x[number] = 0
    for number in range(32):
        hart.f[number] = 0
    for index in range(PMP_ENTRIES):
        hart.pmpcfg[index] = 0
        hart.pmpaddr[index] = 0
    hart.pc = pc
    hart.privilege = MACHINE
    hart.mstatus = MSTATUS_UXL_64 | MSTATUS_SXL_64
    hart.satp = 0
    hart.mie = 0
    hart.mcause = 0
    hart.menvcfg = 0
    hart.stimecmp = NEVER
    hart.reserved_width = 0
    hart.waiting = 0
    hart.parked = 1  # until its thread runs
    pmp_update(hart)
    forget_code(hart)
    reset_tlbs(hart)
    select_banks(hart)
