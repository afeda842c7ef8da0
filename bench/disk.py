"""Block requests from inside a guest: the same guest on the same image, Bulkhead against qemu-system-riscv64.

The bundled guest's `diskbench` keeps a number of requests under way, and does nothing else. In Debian, `blockload`
(bench/guest) does so through Linux as fio does, with AIO past the page cache: reads of the disk, writes of a file that
is there already. Its `dd` reads past the cache too, and writes a file to ext4 and syncs it; that time is the host's,
from the command to its end. Both machines stay up and take turns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.blk_ring import make_image
from bench.boot import ARGUMENTS, BUNDLED, BUNDLED_SHELL, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Missing, Run, alternate, compare

PEER = "qemu-system-riscv64"
PHASE = re.compile(rb"(read|write) +(\S.*?) +(\d+) IOPS")
DD = (  # MiB, and how
    ("read, bs=4k", 16, "dd if=/dev/vda of=/dev/null bs=4k count=4096 iflag=direct"),
    ("read, bs=1M", 128, "dd if=/dev/vda of=/dev/null bs=1M count=128 iflag=direct"),
    ("write, bs=1M, fsync", 64, "dd if=/dev/zero of=/root/bench bs=1M count=64 conv=fsync"),
)
LOADS = (  # what, and how `blockload` is told
    ("4 KiB random read, depth 1", "read 4096 1 random"),
    ("4 KiB random read, depth 32", "read 4096 32 random"),
    ("4 KiB random write, depth 1", "write 4096 1 random"),
    ("4 KiB random write, depth 32", "write 4096 32 random"),
    ("128 KiB sequential read, depth 4", "read 131072 4 sequential"),
    ("128 KiB sequential write, depth 4", "write 131072 4 sequential"),
)
LOAD = Path(__file__).parent / "guest" / "blockload.elf"
LOAD_FILE = "/root/load"  # in the guest; 64 MiB
IOPS = re.compile(rb"IOPS=(\d+)")


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
    """`dd` in Debian, root on the disk."""
    images = debian(run.progress)
    disks = folder / "ours.ext4", folder / "theirs.ext4"
    for disk in disks:
        images.copy_root(disk)
        add_program(disk)
    kernel = ["--kernel", str(images.kernel), "--initrd", str(images.initrd), "--append"]
    append = f"{ARGUMENTS} root=/dev/vda rw"
    theirs_kernel = [word.replace("--", "-") for word in kernel]
    with (
        Console(bulkhead("run", *kernel, append, "--disk", f"{disks[0]},id=blk0")) as ours,
        Console(qemu(*theirs_kernel, append, disk=str(disks[1]))) as theirs,
    ):
        run.progress("boot Debian on both")
        for console in (ours, theirs):
            console.until(SHELL, DEADLINE)

        def speed(console: Console, size: int, line: str) -> Callable[[], float]:
            def once() -> float:
                begun = time.perf_counter()
                console.ask(f"{line} 2>&-; echo =$?=", b"=0=", DEADLINE)
                return size / (time.perf_counter() - begun)

            return once

        yield from loads(run, ours, theirs)
        for what, size, line in DD:
            sides = speed(ours, size, line), speed(theirs, size, line)
            for side in sides:
                side()  # warm up
            progress = partial(_progress, run, what)
            values = alternate(*sides, rounds=run.rounds(5), progress=progress)
            yield Figure.compared(f"Debian: {what}", "MiB/s", compare(*values))


def add_program(disk: Path) -> None:
    """Put `blockload` into the root of a Debian image. Raises Missing."""
    debugfs = shutil.which("debugfs") or shutil.which("debugfs", path="/sbin:/usr/sbin")
    if debugfs is None:
        raise Missing("debugfs is missing: apt-get install e2fsprogs")
    script = f"write {LOAD} blockload\nset_inode_field blockload mode 0100755\n"
    subprocess.run([debugfs, "-w", "-f", "-", str(disk)], input=script, text=True, check=True, capture_output=True)


def loads(run: Run, ours: Console, theirs: Console) -> Iterator[Figure]:
    """Every load of LOADS."""
    milliseconds = 500 if run.quick else 2000
    for console in (ours, theirs):
        console.ask(f"dd if=/dev/zero of={LOAD_FILE} bs=1M count=64 conv=fsync 2>&-; echo =$?=", b"=0=", DEADLINE)

    def rate(console: Console, words: str) -> Callable[[], float]:
        file = LOAD_FILE if words.startswith("write") else "/dev/vda"

        def once() -> float:
            text = console.ask(f"/blockload {file} {words} {milliseconds}; echo =$?=", b"=0=", DEADLINE)
            found = IOPS.search(text)
            assert found is not None, text
            return float(found[1])

        return once

    for what, words in LOADS:
        sides = rate(ours, words), rate(theirs, words)
        values = alternate(*sides, rounds=run.rounds(5), progress=partial(_progress, run, what))
        yield Figure.compared(f"Debian: {what}", "IOPS", compare(*values))


def _progress(run: Run, what: str, text: str) -> None:
    run.progress(f"{what}: {text}")


def measure(run: Run) -> Iterator[Figure]:
    """The bundled guest, then Linux."""
    with scratch() as name:
        yield from bundled(run, Path(name))
        yield from linux(run, Path(name))
