"""Starting processes: a device to its HELLO, the engine from its cache, the command line; against Python doing nothing.

A device's time is from the fork to the HELLO that the core would get, its memory what it has written to and nobody
shares (Private_Dirty). The peer shows what of it is the start of Python itself: `python -c pass`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.guests import REPOSITORY, Console, bulkhead, memory, scratch
from bench.measure import Figure, Goal, Run, Sample, alternate, compare
from launcher.replay.frontend import FrontEnd

PEER = "python -c pass"
HELLO_GOAL, MEMORY_GOAL = Goal("<=", 150), Goal("<=", 20)
IMAGE_SIZE = 16 << 20
DEADLINE = 30.0
ENGINE = (
    "import time; from core.cpu.engine import load_engine; begun = time.perf_counter(); load_engine(); "
    "print((time.perf_counter() - begun) * 1000)"
)
BUNDLED = str(REPOSITORY / "guest" / "bulkhead-guest.elf")


def command(words: Sequence[str]) -> Callable[[], float]:
    """A measurement: milliseconds a command takes."""

    def once() -> float:
        begun = time.perf_counter()
        subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)  # with a timeout, run() would poll
        return (time.perf_counter() - begun) * 1000

    return once


def device_start(kind: str, backend: str, sizes: list[float]) -> Callable[[], float]:
    """A measurement: milliseconds from the fork of a device process to its HELLO. Memory in MiB goes to `sizes`."""

    def once() -> float:
        with FrontEnd(kind, backend=backend) as front:
            begun = time.perf_counter()
            front.start()
            taken = (time.perf_counter() - begun) * 1000
            assert front.process is not None
            sizes.append(memory(front.process.pid).own / (1 << 20))
            front.stop()
        return taken

    return once


def engine_load() -> float:
    """Milliseconds, in a process of its own that has imported everything."""
    words = [sys.executable, "-c", ENGINE]
    out = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, timeout=DEADLINE, check=True).stdout
    return float(out)


def measure(run: Run) -> Iterator[Figure]:
    """Devices, engine, command line."""
    bare = command([sys.executable, "-c", "pass"])
    rounds = run.rounds(11, 2)

    def beside(what: str, side: Callable[[], float], goal: Goal | None = None) -> Figure:
        run.progress(what)
        side()  # warm up
        values = compare(*alternate(side, bare, rounds=rounds))
        return Figure(what, "ms", values.ours, values.theirs, goal=goal)

    with scratch() as folder:
        image = Path(folder) / "disk.img"
        image.write_bytes(bytes(IMAGE_SIZE))
        for kind, backend in (("blk", f"file:{image}"), ("rng", "")):
            sizes: list[float] = []
            yield beside(f"{kind} device to HELLO", device_start(kind, backend, sizes), HELLO_GOAL)
            yield Figure(f"{kind} device, its own memory", "MiB", Sample.of(sizes), goal=MEMORY_GOAL)
    run.progress("engine")
    engine_load()
    yield Figure("the engine, from its cache", "ms", Sample.of([engine_load() for _ in range(rounds)]))
    yield beside("bulkhead --help", command(bulkhead("--help")))
    with Console(bulkhead("run", "--name", "bench-start", "--kernel", BUNDLED)) as console:
        console.wait_for(b"\n> ", DEADLINE)
        yield beside("bulkhead ps", command(bulkhead("ps", "--machine", "bench-start")))
        yield beside("bulkhead ps --json", command(bulkhead("ps", "--json", "--machine", "bench-start")))
