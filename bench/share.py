"""A shared folder from inside Debian: walked, looked at and read, Bulkhead against QEMU with its 9P and with virtiofsd.

The same kernel, initramfs, folder and commands; both machines stay up and take turns. What `git status` asks, the
attributes of every file, is asked by `find -size`, which the guest has. The time is the host's, from the command to its
end, and so most of it may be the CPU's: the table of the interpreter's speed says what that is worth.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.fs_ring import PROGRAMS
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Missing, Run, alternate, compare

PEER = "qemu-system-riscv64"
FOLDERS, FILES, SIZE = 20, 25, 6000  # directories, files in each, bytes of one
WORK = (
    ("find", "find /mnt/work | wc -l"),
    ("find, attributes of each", "find /mnt/work -type f -size +1000k | wc -l"),
    ("tar", "tar -cf - -C /mnt work | wc -c"),
)
NUMBER = re.compile(rb"(\d+)\r?\n")


def fill(folder: Path) -> None:
    """What is shared."""
    for number in range(FOLDERS):
        place = folder / f"directory {number:02}"
        place.mkdir(parents=True)
        for name in range(FILES):
            (place / f"file {name:02}.c").write_bytes(bytes([number, name]) * (SIZE // 2))


@contextlib.contextmanager
def their_share(proto: str, folder: Path, place: Path) -> Iterator[list[str]]:
    """QEMU's arguments, and what must run beside it. Raises Missing."""
    if proto == "9p":
        shared = f"local,id=share,path={folder},security_model=none,readonly=on"
        yield ["-fsdev", shared, "-device", "virtio-9p-device,fsdev=share,mount_tag=work"]
        return
    program = next((path for path in PROGRAMS if Path(path).exists()), None)
    if program is None:
        raise Missing("virtiofsd is missing: apt-get install qemu-system-common")
    socket = place / "virtiofsd.socket"
    options = ("-o", f"source={folder}", "-o", "cache=none", "-o", "sandbox=chroot")
    process = subprocess.Popen([program, f"--socket-path={socket}", *options], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing("virtiofsd does not start")
            time.sleep(0.01)
        memory = ["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"]
        device = [
            "-chardev",
            f"socket,id=share,path={socket}",
            "-device",
            "vhost-user-fs-device,chardev=share,tag=work",
        ]
        yield [*memory, *device]
    finally:
        process.terminate()
        process.wait(10)


def one(run: Run, proto: str, folder: Path, place: Path) -> Iterator[Figure]:
    """All of WORK with one protocol."""
    from launcher.images import GuestShare, shares_archive

    images = debian(run.progress)
    initrd = place / f"initrd-{proto}"
    initrd.write_bytes(images.initrd.read_bytes() + shares_archive(images, [GuestShare("work", proto)]))
    kernel = ("--kernel", str(images.kernel), "--initrd", str(initrd), "--append", ARGUMENTS)
    with (
        their_share(proto, folder, place) as share,
        Console(bulkhead("run", *kernel, "--share", f"{folder},tag=work,ro,proto={proto}")) as ours,
        Console(qemu(*(word.replace("--", "-") for word in kernel), *share)) as theirs,
    ):
        run.progress(f"{proto}: boot Debian on both")
        for console in (ours, theirs):
            console.until(SHELL, DEADLINE)
        for what, line in WORK:
            answers: set[bytes] = set()
            sides = _seconds(ours, line, answers), _seconds(theirs, line, answers)
            for side in sides:
                side()  # warm up
            if len(answers) != 1:
                raise RuntimeError(f"{line}: the two guests differ: {answers}")
            progress = partial(_progress, run, f"{proto}, {what}")
            yield Figure.compared(
                f"{proto}: {what}", "s", compare(*alternate(*sides, rounds=run.rounds(5), progress=progress))
            )


def _seconds(console: Console, line: str, answers: set[bytes]) -> Callable[[], float]:
    def once() -> float:
        begun = time.perf_counter()
        said = console.ask(f"{line}; echo =$?=", b"=0=", DEADLINE)
        seconds = time.perf_counter() - begun
        answers.add(NUMBER.findall(said)[-1])
        return seconds

    return once


def _progress(run: Run, what: str, text: str) -> None:
    run.progress(f"{what}: {text}")


def measure(run: Run) -> Iterator[Figure]:
    """9P, then virtio-fs."""
    with scratch() as name:
        place = Path(name)
        folder = place / "shared"
        fill(folder)
        for proto in ("9p", "virtiofs"):
            yield from one(run, proto, folder, place)
