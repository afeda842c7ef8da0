"""Speed of the interpreter: six bare-metal programs against qemu-system-riscv64 and the host itself.

A million instructions a second of the program's own work, by the guest's clock, which both take from the host's. The
count of instructions is Bulkhead's for all of them: QEMU does not count without being slowed down, and the host runs
the same C compiled by its own compiler, at the same optimisation, without a vectoriser on either side.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.guests import REPOSITORY, Console, qemu, scratch
from bench.measure import Figure, Goal, Missing, Run, Sample, alternate, compare, geometric_mean, number

PEER = "qemu-system-riscv64"
PROGRAMS = ("mix", "copy", "sort", "dispatch", "hash", "matrix")
SOURCES = REPOSITORY / "bench" / "guest"
LINE = re.compile(rb"checksum=(\w+) microseconds=(\d+)(?: instructions=(\d+))?")
GOAL = Goal(">=", 0.3)
MEMORY = 32 << 20
DEADLINE = 60.0  # seconds for one program


class Work:
    """What a program printed."""

    def __init__(self, output: bytes) -> None:
        found = LINE.search(output)
        if found is None:
            raise RuntimeError(f"the program did not finish: {output[-500:]!r}")
        self.checksum = found[1]
        self.microseconds = int(found[2])
        self.instructions = int(found[3] or 0)


def on_bulkhead(engine: Any, program: str) -> Work:
    """In this process: engine and board, and nothing around them."""
    from core.bare import BareMachine
    from core.board.boot import BootFiles
    from core.board.virt import Machine
    from core.events import EventKind

    with BareMachine(engine, Machine(memory=MEMORY)) as machine:
        machine.load(BootFiles(kernel=str(SOURCES / f"{program}.elf"), bios="none"))
        machine.start()
        end = time.monotonic() + DEADLINE
        while not any(event[0] == EventKind.POWER for event in machine.take_events()):
            if machine.join(0.02) or time.monotonic() > end:
                break
        return Work(machine.console())


def on_qemu(program: str) -> Work:
    """A QEMU for each run."""
    with Console(qemu("-bios", "none", "-kernel", str(SOURCES / f"{program}.elf"))) as console:
        return Work(console.finish(DEADLINE))


def on_host(folder: Path, program: str) -> Work:
    """As the host's compiler made it."""
    return Work(subprocess.run([folder / program], stdout=subprocess.PIPE, timeout=DEADLINE, check=True).stdout)


def build_for_host(folder: Path) -> None:
    """The Makefile's rule `native`, in a folder of our own. Raises Missing."""
    try:
        subprocess.run(
            ["make", "-s", "-C", SOURCES, f"BUILD={folder}", "native"], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise Missing("make is missing: apt-get install make gcc") from None
    except subprocess.CalledProcessError as error:
        raise Missing(f"the host's compiler does not build the programs: {error.stderr[-300:]}") from error


def compare_program(run: Run, engine: Any, folder: Path, program: str) -> Figure:
    """One line of the table."""
    run.progress(f"{program}: warm up")
    first = on_bulkhead(engine, program)
    instructions = first.instructions

    def speed(work: Work) -> float:
        if work.checksum != first.checksum:
            raise RuntimeError(f"{program} has different results")
        return instructions / work.microseconds

    ours, theirs, hosts = alternate(
        lambda: speed(on_bulkhead(engine, program)),
        lambda: speed(on_qemu(program)),
        lambda: speed(on_host(folder, program)),
        rounds=run.rounds(5),
        progress=lambda text: run.progress(f"{program}: {text}"),
    )
    host = compare(ours, hosts)
    note = f"host {number(host.theirs.median)}, ratio {number(host.ratio.median)}"
    return Figure.compared(program, "MIPS", compare(ours, theirs), note=note)


def measure(run: Run) -> Iterator[Figure]:
    """A figure for each program, and their geometric mean."""
    from core.cpu.engine import load_engine

    run.progress("load the engine")
    engine = load_engine()
    with scratch() as name:
        build_for_host(Path(name))
        figures = []
        for program in PROGRAMS[:2] if run.quick else PROGRAMS:
            figures.append(compare_program(run, engine, Path(name), program))
            yield figures[-1]
    yield mean(figures)


def mean(figures: list[Figure]) -> Figure:
    """The geometric mean of the medians; lowest and highest are those of the programs."""

    def of(samples: list[Sample]) -> Sample:
        medians = [sample.median for sample in samples]
        return Sample(geometric_mean(medians), min(medians), max(medians), samples[0].count)

    theirs = [figure.theirs for figure in figures if figure.theirs]
    ratios = [figure.ratio for figure in figures if figure.ratio]
    return Figure("geometric mean", "MIPS", of([f.ours for f in figures]), of(theirs), of(ratios), GOAL)
