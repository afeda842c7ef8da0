"""A shared folder from inside Debian: walked, looked at, read and asked about by git, Bulkhead against QEMU with its 9P
and with virtiofsd.

The same kernel, initramfs, folder and commands; both machines stay up and take turns. The time is the host's, from the
command to its end, and most of it is the CPU's: Linux executes some 25,000 instructions for each request, whoever
answers it. What the CPU is worth is measured within the same runs: the time in which the guest's processor was not
idle, for an idle one waits for the device. The ratio of that is each figure's goal: where it is reached, the way to the
files and back adds no more than QEMU's does. The same commands on a copy of the folder in the guest's own memory are
another kind of work, starting processes above all; they are shown, and nobody's goal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
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
PROTOS = "9p", "virtiofs"
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
UPTIME = "read up idle </proc/uptime; echo $idle"  # the processor's idle seconds, told by the shell itself
NUMBERS = re.compile(rb"^([\d.]+)\r?$", re.MULTILINE)


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
            if proto == PROTOS[0]:
                yield _in_memory(run, what, line, ours, theirs)
            yield _on_share(run, f"{proto}: {what}", line.format(at=SHARED), ours, theirs)


def _git(run: Run) -> bytes:
    try:
        return programs_archive(GIT, lambda what, _: run.progress(what))
    except ImagesError as error:
        raise Missing(f"no git for the guest: {error}") from error


class Side:
    """One machine that does a command again and again."""

    def __init__(self, console: Console, line: str) -> None:
        self._console, self._line = console, line
        self.answers: set[bytes] = set()
        self.idle: list[float] = []  # seconds of each time in which the guest's processor had nothing to do

    def __call__(self) -> float:
        """Do it; the seconds it took."""
        begun = time.perf_counter()
        said = self._console.ask(f"{UPTIME}; {self._line}; {UPTIME}; echo =$?=", b"=0=", DEADLINE)
        seconds = time.perf_counter() - begun
        before, answer, after = NUMBERS.findall(said)[-3:]
        self.answers.add(answer)
        self.idle.append(float(after) - float(before))
        return seconds


def _in_memory(run: Run, what: str, line: str, ours: Console, theirs: Console) -> Figure:
    """The same in the guest's own memory, several times since once is short."""
    often = f"for time in $(seq {OFTEN}); do {line.format(at=OWN)}; done"
    seconds, _ = _measured(run, f"in memory: {what}", often, ours, theirs)
    return Figure.compared(f"in memory: {what}", "s", compare(*seconds), note=f"{OFTEN} times")


def _on_share(run: Run, what: str, line: str, ours: Console, theirs: Console) -> Figure:
    """What it takes on the share; the goal is the ratio of what the guests' processors did for it."""
    seconds, idle = _measured(run, what, line, ours, theirs)
    busy = ([each - lost for each, lost in zip(*pair, strict=True)] for pair in zip(seconds, idle, strict=True))
    goal = Goal("<=", float(f"{compare(*busy).ratio.median:.3g}"))
    waits = [sum(lost) / sum(each) for each, lost in zip(seconds, idle, strict=True)]
    note = f"of it the guest waits {waits[0]:.0%}; QEMU's {waits[1]:.0%}"
    return Figure.compared(what, "s", compare(*seconds), goal, note)


def _measured(
    run: Run, what: str, line: str, ours: Console, theirs: Console
) -> tuple[list[list[float]], list[list[float]]]:
    """The seconds of both sides, and those in which their guests were idle."""
    sides = Side(ours, line), Side(theirs, line)
    for side in sides:
        side()  # warm up
        side.idle.clear()
    seconds = alternate(*sides, rounds=run.rounds(5), progress=partial(_progress, run, what))
    if len(answers := sides[0].answers | sides[1].answers) != 1:
        raise RuntimeError(f"{line}: the answers differ: {answers}")
    return seconds, [side.idle for side in sides]


def _progress(run: Run, what: str, text: str) -> None:
    run.progress(f"{what}: {text}")


def measure(run: Run) -> Iterator[Figure]:
    """9P, then virtio-fs."""
    with scratch() as name:
        place = Path(name)
        folder = place / "shared"
        fill(folder)
        for proto in PROTOS:
            yield from one(run, proto, folder, place)
