"""From the command to a prompt: Bulkhead against qemu-system-riscv64, same kernel, same initramfs, same disk.

Bulkhead's time is that of the whole command: command line, keeper, core and device processes, firmware and kernel.
Debian's kernel loads virtio_mmio and virtio_blk as modules from the initramfs, and ext4 when the root is on the disk.
The bundled guest is this project's own small kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.guests import REPOSITORY, Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Goal, Run, alternate, compare

PEER = "qemu-system-riscv64"
GOAL = Goal("<=", 5)
DEADLINE = 120.0
SHELL, BUNDLED_SHELL = b"bulkhead:~#", b"\n> "
BUNDLED = str(REPOSITORY / "guest" / "bulkhead-guest.elf")
ARGUMENTS = "console=ttyS0 panic=-1"


def seconds(command: Sequence[str], prompt: bytes) -> Callable[[], float]:
    """A measurement: start, wait for the prompt, end."""

    def once() -> float:
        with Console(command) as console:
            return console.wait_for(prompt, DEADLINE)

    return once


def both(
    run: Run,
    what: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    prompt: bytes,
    rounds: int,
    goal: Goal | None = GOAL,
) -> Figure:
    """One line of the table; the first start warms caches up and does not count."""
    sides = seconds(ours, prompt), seconds(theirs, prompt)
    run.progress(f"{what}: warm up")
    for side in sides:
        side()
    values = alternate(*sides, rounds=rounds, progress=lambda text: run.progress(f"{what}: {text}"))
    return Figure.compared(what, "s", compare(*values), goal)


def measure(run: Run) -> Iterator[Figure]:
    """Bundled guest, Debian with its initramfs alone, Debian with its root on the disk."""
    theirs = qemu("-kernel", BUNDLED)
    ours = bulkhead("run", "--kernel", BUNDLED)
    yield both(run, "bundled guest", ours, theirs, BUNDLED_SHELL, run.rounds(7), None)
    images = debian(run.progress)
    kernel = ["--kernel", str(images.kernel), "--initrd", str(images.initrd), "--append"]
    theirs_kernel = [word.replace("--", "-") for word in kernel]
    with scratch() as folder:
        disk, other = Path(folder) / "disk.img", Path(folder) / "other.img"
        for copy in (disk, other):
            images.copy_root(copy)
        for what, append in (
            ("Debian, initramfs alone", ARGUMENTS),
            ("Debian, ext4 root on virtio-blk", f"{ARGUMENTS} root=/dev/vda ro"),
        ):
            ours = bulkhead("run", *kernel, append, "--disk", f"{disk},id=blk0")
            theirs = qemu(*theirs_kernel, append, disk=str(other))
            yield both(run, what, ours, theirs, SHELL, run.rounds(3))
