"""`bulkhead demo`: Linux boots from a disk that lives in another process; all that is shown is also checked.

Two boots of one Debian guest. In the first it writes 64 MiB to a second disk, whose process is killed five times
meanwhile, and which moves from a raw image to a qcow2 one (`launcher.keeper.mirror`); in the second, from the new
image, it reads them back. Then, on a terminal, the console is handed over; without one the machine powers off. Where
the Debian guest cannot be had, the bundled one does the same in its own words.

Exit code 0 means that every check held and that nothing is left: no process, no file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from launcher import __version__
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.console.frame import CommandOutput
from launcher.console.session import Console, Outcome, ending_signals
from launcher.console.terminal import RawTerminal, size
from launcher.control import connect, request
from launcher.images import ImagesError
from launcher.inspect import ps
from launcher.inspect.bundles import bundles
from launcher.machine.options import Given, Options
from launcher.machine.plan import Plan, make_plan
from launcher.orders.lifecycle import PERIOD, await_running
from launcher.orders.swap import device_row
from launcher.run.rundir import machines, scratch_directory
from launcher.run.start import Started, start
from proto.channel import Packet
from proto.errors import BulkheadError, ConfigError

__all__ = ["add_arguments", "run"]

NAME = "demo"
COPY = "data.qcow2"  # beside data.img
MIB = 1 << 20
WRITTEN = 64  # MiB
ROOM = 4 * WRITTEN * MIB  # for that, its copy in the other format, and the root disk's copy
KILL_AT = (8, 16, 40, 48, 56)  # MiB written
MIRROR_AT = 24
MIRROR_DEADLINE = 60.0
DISK_SIZE = WRITTEN * MIB
RESTART_DEADLINE = 15.0  # seconds that a killed device may be away
BAR = 16  # characters

# The guests' scripts tell how far they are in lines that begin with "demo: ".
DEBIAN_FIRST = f"""
say() {{ echo "demo: $*" >&3; }}
exec 3>&1
say ready
dd if=/dev/urandom of=/tmp/block bs=1M count=1 2>/dev/null
i=0
while [ $i -lt {WRITTEN} ]; do
    printf %08d $i | dd of=/tmp/block conv=notrunc 2>/dev/null
    dd if=/tmp/block of=/dev/vdb bs=1M seek=$i conv=notrunc 2>/dev/null
    i=$((i + 1))
    say written $i
done
sync
say synced
sum=$(sha256sum /dev/vdb)
echo "${{sum%% *}}" >/root/written
sync
say sum "${{sum%% *}}"
say errors $(dmesg | grep -ciE 'I/O error|EXT4-fs error|blocked for more')
"""

DEBIAN_SECOND = """
say() { echo "demo: $*" >&3; }
exec 3>&1
say ready
read -r written </root/written
sum=$(sha256sum /dev/vdb)
say sum "${sum%% *}" "$written"
say errors $(dmesg | grep -ciE 'I/O error|EXT4-fs error|blocked for more')
"""

HAND_OVER = "say yours; exec 3>&-; exec sh -l\n"

BUNDLED_FIRST = (
    "echo,demo:,ready;"
    + "".join(f"fill,{size},{size};echo,demo:,written,{size};" for size in sorted((*KILL_AT, MIRROR_AT)))
    + f"fill,{WRITTEN},7;echo,demo:,synced;check,{WRITTEN},7;exit"
)
BUNDLED_SECOND = f"echo,demo:,ready;check,{WRITTEN},7;"

SAID = re.compile(r"demo: (\w+) ?(.*)")
BUNDLED_SUM = re.compile(r"checked .*, (crc32 \w+)")


class DemoFailed(BulkheadError):
    """Something that the demo shows did not hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--guest", choices=("debian", "bundled"), help="default: debian, or bundled where Debian cannot be had"
    )


def run(arguments: argparse.Namespace) -> int:
    """The verb. Returns the exit code. Raises BulkheadError."""
    screen = Screen()
    guest = arguments.guest or _choose_guest(screen)
    interactive = os.isatty(0) and os.isatty(1) and os.tcgetpgrp(0) == os.getpgrp()
    with ending_signals() as signals, scratch_directory(NAME) as scratch:
        data = scratch / "data.img"
        if (free := shutil.disk_usage(scratch).free) < ROOM:
            raise ConfigError(
                f"{scratch.parent} has {free // MIB} MiB left; the demo takes {ROOM // MIB}",
                hint="Make room, or set XDG_CACHE_HOME to a directory that has it.",
            )
        with open(data, "wb") as file:
            file.truncate(DISK_SIZE)
        facts = Facts()
        for boot in (1, 2):
            terminal = RawTerminal(0) if interactive and boot == 2 else None
            plan = _plan(guest, boot, scratch, terminal)
            if boot == 1:
                screen.title(plan)
            code = _boot(plan, signals, screen, facts, terminal, scratch)
            if code is not None:
                return code
            if boot == 1 and guest == "debian":
                _check_on_host(scratch, facts, screen)
    _check_nothing_left(facts, scratch)
    _forget_crashes(facts)
    screen.step("nothing left behind")
    return ExitCode.OK


def _choose_guest(screen: Screen) -> str:
    """Debian if it is there or can be fetched; otherwise why not, and the bundled guest."""
    from launcher.images import ensure

    try:
        with show.Progress(sys.stderr) as progress:
            ensure(progress)
    except ImagesError as error:
        show.complain(f"no Debian guest: {error.message}", "The demo runs the bundled guest.")
        return "bundled"
    screen.restart_clock()  # what was fetched once is not part of what is shown
    return "debian"


def _plan(guest: str, boot: int, scratch: Path, terminal: RawTerminal | None) -> Plan:
    """What `bulkhead run` would make of it: `--guest G --root root.ext4 --disk data.img --device rng`."""

    def given(value: Any) -> list[Given]:
        return [Given(value, "demo", scratch)]

    options: Options = {
        "guest": given(guest),
        "disk": given("data.img" if boot == 1 else f"qcow2:{COPY}"),
        "device": given("rng"),
        "no-reboot": given(True),
    }
    if NAME not in machines():
        options["name"] = given(NAME)
    if guest == "bundled":
        last = "echo,demo:,yours" if terminal else "exit"
        options["append"] = given(f"cmd={BUNDLED_FIRST if boot == 1 else BUNDLED_SECOND + last}")
        return make_plan(options, [], None, lambda what, fraction: None)
    options["root"] = given("root.ext4")
    script = DEBIAN_FIRST if boot == 1 else DEBIAN_SECOND + (HAND_OVER if terminal else "")
    return make_plan(options, ["sh", "-c", script], size(1) if terminal else None, lambda what, fraction: None)


@dataclass
class Facts:
    """What was learnt on the way, to be compared later."""

    sum: str = ""  # of what the guest wrote
    pids: set[tuple[int, float]] = field(default_factory=set)  # all that ever ran, with the times they began
    began: float = field(default_factory=time.time)
    kills: int = 0
    killed: set[int] = field(default_factory=set)
    mirrored: bool = False


def _boot(
    plan: Plan, signals: socket.socket, screen: Screen, facts: Facts, terminal: RawTerminal | None, scratch: Path
) -> int | None:
    """One boot, to its end. None: all is well; otherwise the exit code."""
    started = start(plan, terminal)
    outcome = Outcome("error")
    try:
        with started.channel:
            console = _DemoConsole(started, signals, screen, facts, plan, terminal, scratch)
            outcome = console.run()
    finally:
        started.wait(outcome)
    if console.handed_over:
        return None
    if outcome.reason in ("killed", "stopped"):
        return ExitCode.KILLED
    if outcome.panic:
        raise DemoFailed(f"the guest's kernel panicked: {outcome.panic}")
    if outcome.reason == "error":
        raise DemoFailed(outcome.error or "the machine failed", hint=outcome.hint)
    if not console.told or outcome.code or outcome.status:
        said = outcome.before.decode(errors="replace").strip().splitlines()[-8:]
        raise DemoFailed(f"the guest stopped ({outcome.reason}) before it was done", hint="\n".join(said))
    screen.step("power off")
    return None


def _check_on_host(scratch: Path, facts: Facts, screen: Screen) -> None:
    """What is in the new image."""
    from devproc.blk.backend import open_backend

    disk, sum = open_backend(f"qcow2:{scratch / COPY}", read_only=True), hashlib.sha256()
    try:
        piece = memoryview(bytearray(MIB))
        for offset in range(0, WRITTEN * MIB, MIB):
            disk.preadv([piece], offset)
            sum.update(piece)
    finally:
        disk.close()
    if sum.hexdigest() != facts.sum:
        raise DemoFailed(f"{COPY} has other data than the guest wrote: sha256 {sum.hexdigest()}, not {facts.sum}")
    screen.step(f"on the host {COPY} has the same data", f"sha256 {sum.hexdigest()[:12]}…")


def _check_nothing_left(facts: Facts, scratch: Path) -> None:
    alive = [pid for pid, began in facts.pids if _is_alive(pid, began)]
    if alive:
        raise DemoFailed(f"processes are left behind: {', '.join(map(str, alive))}")
    if scratch.exists():
        raise DemoFailed(f"files are left behind in {scratch}")


def _forget_crashes(facts: Facts) -> None:
    """What its own kills have left (`launcher.inspect.bundles`). When something did not hold they stay, as evidence."""
    for bundle in bundles():
        if bundle.crash.get("pid") in facts.killed and bundle.crash.get("time", 0.0) >= facts.began:
            shutil.rmtree(bundle.path, ignore_errors=True)


def _is_alive(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


# -- while it runs -----------------------------------------------------------------------------------------------------


class _DemoConsole(Console):
    """Listens to what the guest says instead of showing it, until the guest hands over."""

    def __init__(
        self,
        started: Started,
        signals: socket.socket,
        screen: Screen,
        facts: Facts,
        plan: Plan,
        terminal: RawTerminal | None,
        scratch: Path,
    ) -> None:
        command = CommandOutput(plan.command) if plan.command is not None else None
        super().__init__(
            started.channel, started.serial, signals, stdin=None, stdout=1, terminal=terminal, command=command
        )
        self.handed_over = False
        self.told = False  # the checksum has come
        self._name = started.machine.name
        self._keeper = started.keeper.pid
        self._screen = screen
        self._facts = facts
        self._text = b""
        self._scratch = scratch
        self._mirroring = False
        self._ready_early = False  # the guest said so before the keeper said that it runs

    def heard(self, packet: Packet) -> None:
        """The keeper's news."""
        if packet.kind == "RUNNING" and self._leave_at is None:
            self._screen.line(show.process_line(self._keeper, packet.body["processes"]))
            self._screen.step("kernel entered")
            self._look()
            if self._ready_early:
                self._said_ready()

    def _open_input(self) -> None:
        if self.handed_over:
            super()._open_input()

    def _show(self, data: bytes) -> None:
        if self.handed_over:
            super()._show(data)
            return
        *lines, self._text = (self._text + data).split(b"\n")
        for index, line in enumerate(lines):
            self._listen(line.decode(errors="replace").rstrip("\r"))
            if self.handed_over:
                rest = b"\n".join([*lines[index + 1 :], self._text])
                super()._show(rest)
                return

    def _listen(self, line: str) -> None:
        if self._leave_at is not None:  # on the way out: there may be no machine any more to look at
            return
        if match := SAID.fullmatch(line):
            getattr(self, f"_said_{match[1]}")(*match[2].split())
        elif match := BUNDLED_SUM.fullmatch(line):
            self._said_sum(match[1])

    # -- what the guest says -----------------------------------------------------------------------------------------

    def _said_ready(self) -> None:
        if not self.running:
            self._ready_early = True
            return
        count = self._look()["core"]["instructions"]
        took = self._screen.elapsed - self._screen.last
        note = f"{count / 1e9:.2f} G instructions · {count / took / 1e6:.0f} MIPS" if count else ""
        self._screen.step("shell ready, its root on a disk in blk0" if self.command else "shell ready", note)
        if not self._facts.sum:
            rows = ps.tables([self._name], self._screen.columns)[0].splitlines()[1:]  # the first one is the title's
            self._screen.table("\n".join(row for row in rows if not row.startswith("spare")))

    def _said_written(self, mebibytes: str) -> None:
        done = int(mebibytes)
        self._screen.progress(f"guest writes {WRITTEN} MiB to {self._disk}", done / WRITTEN)
        if done in KILL_AT:
            self._kill_device()
        elif done == MIRROR_AT:
            self._begin_mirror()
        self._look_at_mirror()

    def _said_synced(self) -> None:
        self._screen.step(f"{WRITTEN} MiB written and synced")
        deadline = time.monotonic() + MIRROR_DEADLINE
        while not self._facts.mirrored:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the copy of {self._victim} took more than {MIRROR_DEADLINE:.0f} s")
            time.sleep(PERIOD)
            self._look_at_mirror()
        if self._facts.kills != len(KILL_AT):
            raise DemoFailed(f"the disk died {self._facts.kills} times, not {len(KILL_AT)}")

    def _said_sum(self, sum: str, *others: str) -> None:
        self.told = True
        if not self._facts.sum:
            self._facts.sum = sum
            self._screen.step("the guest reads them back", _short(sum))
        elif {sum, *others} != {self._facts.sum}:
            raise DemoFailed(f"the guest read other data than before: {sum}, not {self._facts.sum}")
        else:
            self._screen.step(f"read back after the second boot: {WRITTEN} MiB, equal", _short(sum))

    def _said_errors(self, count: str) -> None:
        if int(count):
            raise DemoFailed(f"the guest's kernel reported {count} I/O errors")
        self._screen.step("no I/O error in dmesg")

    def _said_yours(self) -> None:
        self._screen.step("the console is yours; Ctrl-A x quits, Ctrl-A h shows help")
        self.handed_over = True
        self.stdin = 0
        self._open_input()

    # -- what the demo does ------------------------------------------------------------------------------------------

    @property
    def _victim(self) -> str:
        return "blk1" if self.command else "blk0"

    @property
    def _disk(self) -> str:
        return "/dev/vdb" if self.command else "the disk"

    def _look(self) -> dict[str, dict[str, Any]]:
        """The rows of `ps`, by id."""
        with connect(self._name) as channel:
            rows = {row["id"]: row for row in request(channel, "PS")["processes"]}
        for pid in (self._keeper, *(row["pid"] for row in rows.values())):
            if pid is not None and psutil.pid_exists(pid):
                self._facts.pids.add((pid, psutil.Process(pid).create_time()))
        return rows

    def _kill_device(self) -> None:
        id = self._victim
        with connect(self._name) as channel:
            before = device_row(channel, id)
            began = time.monotonic()
            os.kill(before["pid"], signal.SIGKILL)
            self._facts.killed.add(before["pid"])
            after = await_running(channel, id, before["epoch"] + 1, began + RESTART_DEADLINE)
        took = (time.monotonic() - began) * 1000
        self._look()
        self._facts.kills += 1
        note = f"death {self._facts.kills} of {len(KILL_AT)}, the guest writes on"
        self._screen.step(f"kill -9 {id} ({before['pid']})  →  {id} {after['pid']} back in {took:.0f} ms", note)

    def _begin_mirror(self) -> None:
        from launcher.disks.actions import create

        target = f"qcow2:{self._scratch / COPY}"
        create(target, str(DISK_SIZE), progress=lambda what, fraction: None)
        with connect(self._name) as channel:
            request(channel, "MIRROR", id=self._victim, to=target, rate=0, pivot=True)
        self._mirroring = True
        self._screen.step(f"mirror {self._victim} qcow2:{COPY}", "another format, while the guest writes")

    def _look_at_mirror(self) -> None:
        if not self._mirroring:
            return
        with connect(self._name) as channel:
            status = request(channel, "MIRRORED", id=self._victim)
        if status["state"] in ("failed", "cancelled"):
            raise DemoFailed(f"{self._victim} stays a raw image: {status['error']}", hint=status["hint"])
        if status["state"] == "done":
            self._mirroring = False
            self._facts.mirrored = True
            self._look()
            self._screen.step(f"{self._victim} is now qcow2:{COPY}", f"a pause of {status['pause_ms']:.0f} ms")


def _short(sum: str) -> str:
    return sum if sum.startswith("crc32") else f"sha256 {sum[:12]}…"


# -- the screen --------------------------------------------------------------------------------------------------------


class Screen:
    """Lines that begin with the seconds since the start; on a terminal, one progress line below them."""

    INDENT = 12 * " "  # the width of a time

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._began = time.monotonic()
        self.last = 0.0  # seconds, at the last step

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def restart_clock(self) -> None:
        """It starts now."""
        self._began = time.monotonic()

    def title(self, plan: Plan) -> None:
        """The first line."""
        self.line(show.paint(f"bulkhead {__version__}  {show.summary(plan.machine)} · interpreter", "bold", sys.stdout))

    def line(self, text: str) -> None:
        """A line without time."""
        print(("\r\x1b[K" if self._terminal else "") + text, flush=True)

    @property
    def columns(self) -> int | None:
        """Of the terminal, right of the times; None when it is none."""
        found = size(1)
        return found[1] - len(self.INDENT) if found else None

    def table(self, text: str) -> None:
        """Lines without time, beside the others' text."""
        for row in text.splitlines():
            self.line(self.INDENT + row)

    def step(self, text: str, note: str = "") -> None:
        """A line with the time, and something more to the right."""
        self.last = self.elapsed
        self.line(f"{self.last:7.2f} s  {text:<56}{show.paint(note, 'dim', sys.stdout)}".rstrip())

    def progress(self, text: str, fraction: float) -> None:
        """How far something is; gone with the next line."""
        if self._terminal:
            bar = "█" * round(fraction * BAR) + "░" * (BAR - round(fraction * BAR))
            print(f"\r\x1b[K{self.elapsed:7.2f} s  {text} …  {bar} {fraction:4.0%}", end="", flush=True)
