"""Hart state management of the built-in SBI (SBI 2.0, chapter 9): harts that start, stop and suspend.

A hart that is stopped runs nothing and waits in `hsm_wait`, which its thread calls before guest code and whenever it is
asked to by `hart_stop`; a start is a change of state and a signal. Suspending waits as WFI does.
"""

from core.board.bus import host_address
from core.board.lock import lock, unlock
from core.board.poll import board_sleeps, board_wakes
from core.board.sbi_numbers import A0, A1, SbiError, answer, answer_value
from core.board.state import NEVER, Board, HsmState
from core.cpu.pmp import pmp_open
from core.cpu.requests import serve_requests
from core.cpu.signal import notify_hart, park, sleep_until, unpark
from core.cpu.state import ACTIVITY_STOPPED, ATTENTION_REFETCH, ATTENTION_WAIT, CONTROL_EXIT, SUPERVISOR, Hart
from core.cpu.status import ENVCFG_STCE, MIP_SUPERVISOR, MSTATUS_SIE
from core.cpu.tlb import flush_translations, select_banks
from native import addressof, atomic_or64, fn, u32, u64

SUSPEND_RETENTIVE = 0  # default retentive suspend
SUSPEND_NON_RETENTIVE = 0x80000000

# Everything but an ecall from S-mode is the supervisor's own business: there is no M-mode code to look at it.
DELEGATED_EXCEPTIONS = 0xB1FF
COUNTERS = 7  # cycle, time, instret


@fn
def supervise(hart: Hart, stce: bool) -> None:
    """Prepare M-mode state as firmware leaves it: delegation, counters, open memory, the timer off."""
    hart.sbi = 1
    hart.medeleg = DELEGATED_EXCEPTIONS
    hart.mideleg = MIP_SUPERVISOR
    hart.mcounteren = COUNTERS
    hart.scounteren = COUNTERS
    hart.stimecmp = NEVER
    if stce:
        hart.menvcfg = hart.menvcfg | ENVCFG_STCE
    pmp_open(hart)


@fn
def enter_supervisor(hart: Hart, address: u64, opaque: u64) -> None:
    """A hart begins at `address`: S-mode, translation and interrupts off, a0 = hart id, a1 = opaque (9.1)."""
    hart.privilege = SUPERVISOR
    hart.satp = 0
    hart.mstatus = hart.mstatus & ~MSTATUS_SIE
    hart.x[A0] = hart.mhartid
    hart.x[A1] = opaque
    hart.pc = address
    flush_translations(hart)
    select_banks(hart)
    atomic_or64(addressof(hart.attention), ATTENTION_REFETCH)


@fn
def hsm_wait(hart: Hart) -> None:
    """The hart's own thread: sleep while the hart is stopped; return when it is started, or must leave run_hart."""
    board = Board(hart.board)
    mine = board.sbi.harts[hart.mhartid]
    if mine.state == HsmState.STARTED:
        return
    was: u32 = hart.activity
    hart.activity = ACTIVITY_STOPPED
    board_sleeps(hart)
    while True:
        wake: u32 = park(hart)
        if mine.state == HsmState.START_PENDING or (hart.control & CONTROL_EXIT) != 0 or board.stopping != 0:
            break
        sleep_until(hart, wake, NEVER)
    unpark(hart)
    serve_requests(hart)
    board_wakes(hart)
    hart.activity = was
    if mine.state == HsmState.START_PENDING:
        mine.state = HsmState.STARTED
        enter_supervisor(hart, mine.start_address, mine.opaque)


@fn
def hart_start(board: Board, hart: Hart, number: u64, address: u64, opaque: u64) -> None:
    """9.1: a stopped hart begins at `address`."""
    if number >= u64(board.nharts):
        answer(hart, SbiError.INVALID_PARAM)
        return
    if host_address(board, address, 2) == 0:
        answer(hart, SbiError.INVALID_ADDRESS)
        return
    target = board.sbi.harts[number]
    lock(addressof(board.sbi.lock))
    if target.state == HsmState.STOPPED:
        target.start_address = address
        target.opaque = opaque
        target.state = HsmState.START_PENDING
        answer(hart, SbiError.SUCCESS)
    else:
        answer(hart, SbiError.ALREADY_AVAILABLE)
    unlock(addressof(board.sbi.lock))
    notify_hart(Hart(board.harts[number]))


@fn
def hart_stop(board: Board, hart: Hart) -> None:
    """9.2: the calling hart runs nothing until somebody starts it."""
    board.sbi.harts[hart.mhartid].state = HsmState.STOPPED
    hsm_wait(hart)


@fn
def hart_status(board: Board, hart: Hart, number: u64) -> None:
    """9.3. A hart that sleeps in hart_suspend counts as started, as one in WFI does."""
    if number >= u64(board.nharts):
        answer(hart, SbiError.INVALID_PARAM)
        return
    answer_value(hart, u64(board.sbi.harts[number].state))


@fn
def hart_suspend(board: Board, hart: Hart, kind: u64, address: u64, opaque: u64) -> None:
    """9.4: sleep until an interrupt; then go on behind the call (retentive), or begin at `address`."""
    if kind != SUSPEND_RETENTIVE and kind != SUSPEND_NON_RETENTIVE:
        answer(hart, SbiError.INVALID_PARAM)
        return
    if kind == SUSPEND_NON_RETENTIVE and host_address(board, address, 2) == 0:
        answer(hart, SbiError.INVALID_ADDRESS)
        return
    answer(hart, SbiError.SUCCESS)
    if kind == SUSPEND_NON_RETENTIVE:
        enter_supervisor(hart, address, opaque)
    hart.waiting = 1
    atomic_or64(addressof(hart.attention), ATTENTION_WAIT)
