"""What tracing costs: the same device process and the same core, with its trace ring on and off in turn.

Off is a word in the ring's header, so that both sides are one process at one place on the host, at two moments: nothing
differs but the records. Block requests at the ring, as in `bench.ring`; and two programs on the interpreter, of which
only MMIO is traced, by the CPU time of this process, in which they run.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.blk_ring import RINGS, Case, Ours, make_image
from bench.blk_ring import measure as requests_of
from bench.guests import scratch
from bench.measure import Figure, Goal, Run, alternate, compare
from bench.mips import MEMORY, SOURCES, Work
from bench.pinning import pinned
from launcher.replay.frontend import FrontEnd, Segment
from native import Unit, fn, monotonic_ns, u32, u64
from proto.trace import TRACE_SIZE, TracePoint, format_trace, set_trace_off, trace

PEER = "not traced"
CASES = (  # some 20 ms each
    Case(4096, 32, 16_000),
    Case(4096, 32, 16_000, write=True),
    Case(4096, 1, 5_000),
)
ROUNDS = (
    101  # the host does other things now and then: of many short turns the median is steady where a long one is not
)
PROGRAMS = ("mix", "dispatch")
IOPS_GOAL = Goal(">=", 0.97)
CPU_GOAL = Goal("<=", 1.03)
MIPS_GOAL = Goal(">=", 0.99)
DEADLINE = 60.0
LOOPS = 100_000


def cpu_ns(pid: int) -> int:
    """What a process has used of the host's CPUs: on a busy host less noisy than the clock on the wall. The number is
    that of clock_getcpuclockid(3)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


class Ring:
    """A trace ring that can be turned off."""

    def __init__(self) -> None:
        self.segment = Segment("trace", TRACE_SIZE)
        format_trace(self.segment.view)

    def turn(self, on: bool) -> None:
        set_trace_off(self.segment.view, not on)


class Disk(Ours):
    """The block device, traced."""

    def __init__(self, image: str, ring: Ring) -> None:
        self.image = image
        self.front = FrontEnd("blk", backend=f"file:{image}", lent={"trace": ring.segment.fd})
        self.front.start()
        self.front.negotiate()
        self.layout = self.front.add_queue(0, 256, RINGS)
        self.front.driver_ok()
        self.driver = self.layout.driver
        self.ram = self.front.ram
        assert self.front.process is not None
        self.pid = self.front.process.pid


def measure(run: Run) -> Iterator[Figure]:
    """A figure for each shape of load, and for each program."""
    ring = Ring()
    try:
        yield _record(run, ring)
        yield from _requests(run, ring)
        yield from _programs(run, ring)
    finally:
        ring.segment.close()


@fn
def _records(ring: u64, count: u32) -> None:
    for number in range(count):
        trace(ring, u64(number), TracePoint.USED, 0, number & 255, number & 255, u64(number), 4096, 0, 5, 6)


@fn
def _looks(count: u32) -> u64:
    now: u64 = 0
    for _ in range(count):
        now = monotonic_ns()
    return now


def _record(run: Run, ring: Ring) -> Figure:
    """One record against one look at the clock, in CPU time; the least of many, which no other process lengthens."""
    native = Unit("trace-bench", exports=[_records, _looks]).load()

    def least(function: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(10):
            before = time.thread_time_ns()
            function()
            best = min(best, (time.thread_time_ns() - before) / LOOPS)
        return best

    ring.turn(True)
    written, looked = alternate(
        lambda: least(lambda: native._records(ring.segment.area.address, LOOPS)),
        lambda: least(lambda: native._looks(LOOPS)),
        rounds=run.rounds(5),
        progress=run.progress,
    )
    return Figure.compared("one record", "ns", compare(written, looked), note="the peer is a look at the clock")


def middle(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The quartiles of the ratios, which single turns do not move as they move the lowest and the highest."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"half of the turns {low:.3f} to {high:.3f}"


def _requests(run: Run, ring: Ring) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        disk = Disk(make_image(folder), ring)
        stack.callback(disk.close)
        stack.enter_context(pinned(disk.pid))
        for case in CASES:
            shape = replace(case, requests=case.requests // (10 if run.quick else 1))
            spent: dict[bool, list[float]] = {True: [], False: []}

            def iops(on: bool, shape: Case = shape, spent: dict[bool, list[float]] = spent) -> float:
                ring.turn(on)
                before = cpu_ns(disk.pid)
                rate: float = requests_of(disk, shape)[0]
                spent[on].append((cpu_ns(disk.pid) - before) / shape.requests)
                return rate

            iops(True)
            traced, bare = alternate(
                partial(iops, True), partial(iops, False), rounds=run.rounds(ROUNDS, 2), progress=run.progress
            )
            goal = IOPS_GOAL if case.depth == 32 else None
            yield Figure.compared(case.name, "IOPS", compare(traced, bare), goal, middle(traced, bare))
            if case.depth == 32:
                cpu = compare(spent[True][1:], spent[False])  # the first was the warm-up
                note = middle(spent[True][1:], spent[False])
                yield Figure.compared(f"{case.name}, the device's CPU", "ns a request", cpu, CPU_GOAL, note)


def _programs(run: Run, ring: Ring) -> Iterator[Figure]:
    from core.cpu.engine import load_engine

    engine = load_engine()
    for program in PROGRAMS[:1] if run.quick else PROGRAMS:
        instructions = _on_board(engine, program, 0).instructions
        ring.turn(True)

        def mips(traced: bool, program: str = program, instructions: int = instructions) -> float:
            trace, before = ring.segment.area.address if traced else 0, time.process_time_ns()
            _on_board(engine, program, trace)
            return instructions * 1000 / (time.process_time_ns() - before)

        traced, bare = alternate(
            partial(mips, True), partial(mips, False), rounds=run.rounds(9, 1), progress=run.progress
        )
        yield Figure.compared(program, "MIPS", compare(traced, bare), MIPS_GOAL)


def _on_board(engine: Any, program: str, trace: int) -> Work:
    """As `bench.mips` does, on a board with this trace ring (0: none)."""
    from core.bare import BareMachine
    from core.board.boot import BootFiles
    from core.board.virt import Machine
    from core.events import EventKind

    with BareMachine(engine, Machine(memory=MEMORY)) as machine:
        machine.board.trace = trace
        machine.load(BootFiles(kernel=str(SOURCES / f"{program}.elf"), bios="none"))
        machine.start()
        end = time.monotonic() + DEADLINE
        while not any(event[0] == EventKind.POWER for event in machine.take_events()):
            if machine.join(0.02) or time.monotonic() > end:
                break
        return Work(machine.console())
