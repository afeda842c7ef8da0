"""What idle machines cost: a Linux guest at its prompt, alone and twenty of them, against one idle qemu-system-riscv64.

CPU time of all processes of a machine together (client, keeper, core, device), as a share of one host core, over a
window after the guest has settled; the spread is that of several windows. Memory is the processes' proportional share
(Pss), with what the guest has touched of its RAM; and without guest RAM what they have written to and nobody shares
(Private_Dirty).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, memory, qemu, scratch
from bench.measure import Figure, Goal, Run, Sample
from launcher.images import Images

PEER = "qemu-system-riscv64"
GOAL = Goal("<=", 2)
SETTLE = 8.0  # seconds after the prompt: the kernel's own late work is over
WINDOW = 20.0
MANY = 20
MEMORY = "128M"  # each of the twenty
MIB = 1 << 20


def cpu_seconds(processes: Sequence[psutil.Process]) -> list[float]:
    """Time on a CPU so far, of each."""
    times = [process.cpu_times() for process in processes]
    return [time.user + time.system for time in times]


def busy(processes: Sequence[psutil.Process], window: float) -> list[float]:
    """Percent of a core that each took over the next `window` seconds."""
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(window)
    elapsed = time.monotonic() - began
    return [100 * (after - first) / elapsed for after, first in zip(cpu_seconds(processes), before, strict=True)]


def role(process: psutil.Process) -> str:
    """What a process is, by its command line."""
    words = process.cmdline()
    for word, name in (("launcher.keeper", "keeper"), ("core.main", "core"), ("devproc.main", "device")):
        if word in words:
            return name
    return "client" if "launcher" in words else "qemu"


def single(run: Run, images: Images, folder: Path) -> Iterator[Figure]:
    """One machine and one QEMU side by side, so that both see the same host."""
    disks = folder / "ours.img", folder / "theirs.img"
    for disk in disks:
        images.copy_root(disk)
    ours = bulkhead("run", *machine(images), "--disk", f"{disks[0]},id=blk0")
    theirs = qemu(*(word.replace("--", "-") for word in machine(images)), disk=str(disks[1]))
    with Console(ours) as one, Console(theirs) as other:
        run.progress("boot both")
        one.wait_for(SHELL, DEADLINE)
        other.wait_for(SHELL, DEADLINE)
        run.progress("let them settle")
        time.sleep(SETTLE)
        ours_now, theirs_now = one.processes(), other.processes()
        windows: list[list[float]] = []
        for number in range(run.rounds(3)):
            run.progress(f"window {number + 1}")
            windows.append(busy([*ours_now, *theirs_now], 5 if run.quick else WINDOW))
        split = len(ours_now)
        mine = Sample.of([sum(window[:split]) for window in windows])
        note = ", ".join(
            f"{role(process)} {sum(window[position] for window in windows) / len(windows):.2f}"
            for position, process in enumerate(ours_now)
        )
        yield Figure(
            "one idle Debian, % of a core",
            "%",
            mine,
            Sample.of([sum(w[split:]) for w in windows]),
            goal=GOAL,
            note=note,
        )
        sizes = [memory(process.pid) for process in ours_now]
        peer = sum(memory(process.pid).share for process in theirs_now) / MIB
        whole = sum(size.share for size in sizes) / MIB
        yield Figure("its memory, guest RAM included", "MiB", Sample.of([whole]), Sample.of([peer]))
        note = ", ".join(f"{role(process)} {size.own / MIB:.1f}" for process, size in zip(ours_now, sizes, strict=True))
        yield Figure("without guest RAM", "MiB", Sample.of([sum(size.own for size in sizes) / MIB]), note=note)


def machine(images: Images) -> list[str]:
    """Debian with its root on the disk."""
    append = f"{ARGUMENTS} root=/dev/vda rw"
    return ["--kernel", str(images.kernel), "--initrd", str(images.initrd), "--append", append]


def many(run: Run, images: Images, folder: Path) -> Iterator[Figure]:
    """Twenty machines side by side."""
    count = 3 if run.quick else MANY
    with contextlib.ExitStack() as stack:
        consoles = []
        for position in range(count):
            disk = folder / f"{position}.img"
            images.copy_root(disk)
            command = bulkhead("run", "-m", MEMORY, *machine(images), "--disk", f"{disk},id=blk0")
            consoles.append(stack.enter_context(Console(command)))
            consoles[-1].wait_for(SHELL, DEADLINE)  # one after the other: booting is not what is measured
            run.progress(f"boot {position + 1} of {count}")
        run.progress("let them settle")
        time.sleep(SETTLE)
        processes = [process for console in consoles for process in console.processes()]
        run.progress("measure")
        shares = busy(processes, 5 if run.quick else WINDOW)
        yield Figure(
            f"{count} idle machines, % of a core",
            "%",
            Sample.of([sum(shares)]),
            note=f"{sum(shares) / count:.2f} each, {len(processes)} processes",
        )
        sizes = [memory(process.pid) for process in processes]
        whole, own = sum(size.share for size in sizes) / MIB, sum(size.own for size in sizes) / MIB
        note = f"{whole / count:.1f} each"
        yield Figure(f"memory of {count} machines, guest RAM included", "MiB", Sample.of([whole]), note=note)
        yield Figure("without guest RAM", "MiB", Sample.of([own]), note=f"{own / count:.1f} each")


def measure(run: Run) -> Iterator[Figure]:
    """One machine, then twenty."""
    images = debian(run.progress)
    with scratch() as name:
        yield from single(run, images, Path(name))
        yield from many(run, images, Path(name))
