"""A shared folder from inside Debian: walked, looked at, read and asked about by git, Bulkhead against QEMU with its 9P
and with virtiofsd.

The same kernel, initramfs, folder and commands; both machines stay up and take turns. The time is the host's, from the
command to its end, and so most of it may be the CPU's: what that is worth, the same commands say on a copy of the
folder in the guest's own memory. That ratio is each figure's goal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.fs_ring import PROGRAMS
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Goal, Missing, Run, alternate, compare
from launcher.images import GuestShare, ImagesError, shares_archive
from launcher.images.programs import Programs, programs_archive

PEER = "qemu-system-riscv64"
FOLDERS, FILES, SIZE = 20, 25, 6000  # directories, files in each, bytes of one
OWN, SHARED = "/root/work", "/mnt/work"
OFTEN = 5  # times that work is done in the guest's own memory, where once is too short
WORK = (
    ("find", "find {at} | wc -l"),
    ("find, attributes of each", "find {at} -type f -size +1000k | wc -l"),
    ("tar", "tar -cf - -C {at} . | wc -c"),
    ("git status", "git -C {at} status --porcelain | wc -l"),
)
GIT = Programs("git", ("git", "libc6", "libpcre2-8-0", "zlib1g"), ("usr/bin/git",))
# What the guest is told before: names and sizes tell git whether a file has changed, since inodes are others there.
CONFIGURED = "git config --global {}"
SETTINGS = ("safe.directory '*'", "core.checkStat minimal", "core.trustctime false")
LONG_AGO = 1_600_000_000
NUMBER = re.compile(rb"(\d+)\r?\n")


def fill(folder: Path) -> None:
    """What is shared: a repository of git's. Raises Missing."""
    if shutil.which("git") is None:
        raise Missing("git is missing: apt-get install git")
    for number in range(FOLDERS):
        place = folder / f"directory {number:02}"
        place.mkdir(parents=True)
        for name in range(FILES):
            file = place / f"file {name:02}.c"
            file.write_bytes(bytes([number, name]) * (SIZE // 2))
            os.utime(file, (LONG_AGO, LONG_AGO))  # git reads again what is as young as its index
    git = ("git", "-C", str(folder), "-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run([*git, *words], check=True, stdout=subprocess.DEVNULL)


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
    images = debian(run.progress)
    initrd = place / f"initrd-{proto}"
    more = _git(run), shares_archive(images, [GuestShare("work", proto)])
    initrd.write_bytes(b"".join([images.initrd.read_bytes(), *more]))
    kernel = ("--kernel", str(images.kernel), "--initrd", str(initrd), "--append", ARGUMENTS)
    with (
        their_share(proto, folder, place) as share,
        Console(bulkhead("run", *kernel, "--share", f"{folder},tag=work,ro,proto={proto}")) as ours,
        Console(qemu(*(word.replace("--", "-") for word in kernel), *share)) as theirs,
    ):
        run.progress(f"{proto}: boot Debian on both")
        for console in (ours, theirs):
            console.until(SHELL, DEADLINE)
            console.ask(
                f"{'; '.join(map(CONFIGURED.format, SETTINGS))}; cp -a {SHARED} {OWN}; echo =$?=", b"=0=", DEADLINE
            )
        for what, line in WORK:
            own = _compared(run, f"{proto}: CPU: {what}", _often(line), ours, theirs, None)
            assert own.ratio is not None
            yield own
            goal = Goal("<=", float(f"{own.ratio.median:.3g}"))
            yield _compared(run, f"{proto}: {what}", line.format(at=SHARED), ours, theirs, goal)


def _git(run: Run) -> bytes:
    try:
        return programs_archive(GIT, lambda what, _: run.progress(what))
    except ImagesError as error:
        raise Missing(f"no git for the guest: {error}") from error


def _often(line: str) -> str:
    """The same in the guest's own memory."""
    return f"for time in $(seq {OFTEN}); do {line.format(at=OWN)}; done"


def _compared(run: Run, what: str, line: str, ours: Console, theirs: Console, goal: Goal | None) -> Figure:
    answers: set[bytes] = set()
    sides = _seconds(ours, line, answers), _seconds(theirs, line, answers)
    for side in sides:
        side()  # warm up
    if len(answers) != 1:
        raise RuntimeError(f"{line}: the two guests differ: {answers}")
    note = "" if goal is None else f"the CPU's own ratio is {goal.value:g}"
    values = alternate(*sides, rounds=run.rounds(5), progress=partial(_progress, run, what))
    return Figure.compared(what, "s", compare(*values), goal, note)


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
