"""Block requests from inside a guest: the same guest on the same image, Bulkhead against qemu-system-riscv64.

The bundled guest's `diskbench` keeps a number of requests under way, and does nothing else. In Debian fio does so,
through Linux's AIO and past the page cache: reads of the disk, writes of a file that is there already (bench/fio.py).
Debian's `dd` writes a file to ext4 and syncs it; that time is the host's, from the command to its end. Both machines
stay up and take turns.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import fio
from bench.blk_ring import make_image
from bench.boot import ARGUMENTS, BUNDLED, BUNDLED_SHELL, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Run, alternate, compare

PEER = "qemu-system-riscv64"
PHASE = re.compile(rb"(read|write) +(\S.*?) +(\d+) IOPS")
DD = ("write, bs=1M, fsync", 64, "dd if=/dev/zero of=/root/bench bs=1M count=64 conv=fsync")  # MiB, and how


def bundled(run: Run, folder: Path) -> Iterator[Figure]:
    """Every phase of `diskbench`, reading and writing."""
    images = make_image(str(folder), "ours.img"), make_image(str(folder), "theirs.img")
    milliseconds = 300 if run.quick else 1000
    with (
        Console(bulkhead("run", "--kernel", BUNDLED, "--disk", images[0])) as ours,
        Console(qemu("-kernel", BUNDLED, disk=images[1])) as theirs,
    ):
        phases: dict[str, list[list[float]]] = {}

        def turn(side: int, console: Console, operation: str) -> Callable[[], float]:
            def once() -> float:
                text = console.ask(f"diskbench {operation} {milliseconds}", BUNDLED_SHELL, DEADLINE)
                for kind, what, iops in PHASE.findall(text):
                    phases.setdefault(f"{kind.decode()} {what.decode()}", [[], []])[side].append(float(iops))
                return 0.0

            return once

        for console in (ours, theirs):
            console.until(BUNDLED_SHELL, DEADLINE)
        for operation in ("read", "write"):
            sides = turn(0, ours, operation), turn(1, theirs, operation)
            alternate(*sides, rounds=run.rounds(5), progress=lambda text: run.progress(f"diskbench: {text}"))
    for what, (mine, peers) in phases.items():
        yield Figure.compared(what, "IOPS", compare(mine, peers))


def linux(run: Run, folder: Path) -> Iterator[Figure]:
    """fio and `dd` in Debian, root on the disk."""
    images = debian(run.progress)
    tools = str(fio.tools_disk(images, run))
    disks = folder / "ours.ext4", folder / "theirs.ext4"
    for disk in disks:
        images.copy_root(disk)
    kernel = ["--kernel", str(images.kernel), "--initrd", str(images.initrd), "--append"]
    append = f"{ARGUMENTS} root=/dev/vda rw"
    theirs_kernel = [word.replace("--", "-") for word in kernel]
    with (
        Console(bulkhead("run", *kernel, append, "--disk", f"{disks[0]},id=blk0", "--disk", f"{tools},ro")) as ours,
        Console(qemu(*theirs_kernel, append, disk=str(disks[1]), second=tools)) as theirs,
    ):
        run.progress("boot Debian on both")
        for console in (ours, theirs):
            console.until(SHELL, DEADLINE)
        for console in (ours, theirs):
            fio.prepare(console)
        yield from fio.figures(run, ours, theirs)
        what, size, line = DD

        def speed(console: Console) -> float:
            begun = time.perf_counter()
            console.ask(f"{line} 2>&-; echo =$?=", b"=0=", DEADLINE)
            return size / (time.perf_counter() - begun)

        sides = partial(speed, ours), partial(speed, theirs)
        for side in sides:
            side()  # warm up
        values = alternate(*sides, rounds=run.rounds(5), progress=lambda text: run.progress(f"{what}: {text}"))
        yield Figure.compared(f"Debian: {what}", "MiB/s", compare(*values))


def measure(run: Run) -> Iterator[Figure]:
    """The bundled guest, then Linux."""
    with scratch() as name:
        yield from bundled(run, Path(name))
        yield from linux(run, Path(name))
