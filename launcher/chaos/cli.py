"""`bulkhead chaos`: machines of its own, work in them, faults under it, and a report.

For each guest one thread has it work, round after round, and one carries out the plan's faults; the main thread shows
how it goes and listens to Ctrl-C. The first thing that is lost ends everything: what there is to see is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from launcher.chaos import stepped
from launcher.chaos.faults import Hand, Stage
from launcher.chaos.machines import Lost, Running
from launcher.chaos.plan import chosen, plan
from launcher.chaos.report import Report
from launcher.chaos.work import GUESTS, Guest, Stopped
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.console.session import ending_signals
from launcher.images import ImagesError
from launcher.run.rundir import run_base, scratch_directory
from proto.errors import BulkheadError, ConfigError

__all__ = ["add_arguments", "run"]

MINUTES = 2.0
ROOM = 1 << 30  # bytes: images, their mirrors, and copies for the checks
LOOK = 0.1  # seconds between two drawings
TELL = 30.0  # seconds between two lines where there is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `chaos`."""
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the faults of a run; default: a new one")
    parser.add_argument("--minutes", type=float, metavar="M", help=f"how long (default {MINUTES:.0f})")
    parser.add_argument("--kills", type=int, metavar="N", default=0, help="go on until so many processes were killed")
    parser.add_argument("--swaps", type=int, metavar="N", default=0, help="go on until there were so many swaps")
    parser.add_argument(
        "--only", metavar="WORDS", default="", help="devices or faults: disk,fs,net,rng,kill,step,swap,…"
    )
    parser.add_argument(
        "--guest", choices=("both", *GUESTS), help="default: both, or bundled where Debian cannot be had"
    )
    parser.add_argument("--size", type=int, metavar="N", default=4, help="how much work a round is (default 4)")
    parser.add_argument("--plan", action="store_true", help="only print the first 50 faults for each guest")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--report", metavar="FILE", help="write the report to a file too: .json, or else Markdown")


def run(arguments: argparse.Namespace) -> int:
    """The verb. OK only if nothing was lost."""
    if arguments.size < 1:
        raise ConfigError("--size is at least 1")
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1 << 31)
    only = chosen(arguments.only)
    names = list(GUESTS) if arguments.guest in (None, "both") else [arguments.guest]
    if arguments.plan:
        return _print_plan(seed, names, only)
    report = Report(seed, _command(arguments, seed))
    with ending_signals() as signals, scratch_directory("chaos") as folder:
        if (free := shutil.disk_usage(folder).free) < ROOM:
            raise ConfigError(f"{folder.parent} has {free >> 20} MiB left; chaos takes {ROOM >> 20}")
        guests = _guests(names, folder, seed, must=arguments.guest is not None)
        limits = Limits(arguments.minutes, arguments.kills, arguments.swaps, report)
        campaigns = [Campaign(guest, folder, limits, arguments.size, only) for guest in guests]
        try:
            for campaign in campaigns:
                campaign.start()
            _attend(campaigns, limits, signals)
        finally:
            limits.stop()
            for campaign in campaigns:
                campaign.join()
            for guest in guests:
                guest.close()
    if arguments.report:
        path = Path(arguments.report)
        path.write_text(json.dumps(report.as_dict(), indent=2) + "\n" if path.suffix == ".json" else report.page())
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report.text())
    if report.lost or not report.rounds:
        return ExitCode.ERROR
    return ExitCode.KILLED if report.stopped else ExitCode.OK


def _command(arguments: argparse.Namespace, seed: int) -> str:
    words = ["bulkhead", "chaos", "--seed", str(seed)]
    for name in ("minutes", "kills", "swaps", "only", "guest"):
        if value := getattr(arguments, name):
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    if arguments.size != 4:
        words += ["--size", str(arguments.size)]
    return shlex.join(words)


def _print_plan(seed: int, names: list[str], only: frozenset[str]) -> int:
    for name in names:
        faults = plan(seed, name, GUESTS[name].targets, only)
        for _ in range(50):
            fault = next(faults)
            print(f"{name} {fault}, after {fault.pause * 1000:.0f} ms")
    return ExitCode.OK


def _guests(names: list[str], folder: Path, seed: int, *, must: bool) -> list[Guest]:
    """Made ready, in a folder each."""
    made: list[Guest] = []
    with show.Progress(sys.stderr) as progress:
        progress("compile the disk whose steps are numbered", None)
        stepped.image()
        for name in names:
            place = folder / name
            place.mkdir()
            try:
                made.append(GUESTS[name](place, seed, progress))
            except ImagesError as error:
                if must:
                    raise
                show.complain(f"no Debian guest: {error.message}", "The bundled guest alone works.")
    return made


class Limits:
    """When it is enough; shared by all."""

    def __init__(self, minutes: float | None, kills: int, swaps: int, report: Report) -> None:
        self.report = report
        self.lock = threading.Lock()  # of the report
        self._kills, self._swaps = kills, swaps
        counted = kills or swaps
        self._seconds = (minutes or (0.0 if counted else MINUTES)) * 60
        self._began: float | None = None
        self._stopped = False

    def begin(self) -> None:
        """The guests work: time counts from now on."""
        self._began = self._began or time.monotonic()

    def stop(self) -> None:
        """At once."""
        self._stopped = True

    def going(self) -> bool:
        """Is anything wanted still?"""
        return not self._stopped and not self.report.lost

    def more_faults(self) -> bool:
        """False when there were enough: the rounds under way are finished."""
        if not self.going():
            return False
        if self._seconds and self._began is not None and time.monotonic() - self._began > self._seconds:
            return False
        if not (self._kills or self._swaps):
            return True
        with self.lock:
            return self.report.kills < self._kills or self.report.swaps < self._swaps

    def lose(self, what: str) -> None:
        """Something is lost: the end of everything."""
        with self.lock:
            self.report.lost.append(what)


class Campaign:
    """One guest, its work and its faults."""

    def __init__(self, guest: Guest, folder: Path, limits: Limits, size: int, only: frozenset[str]) -> None:
        self.guest = guest
        self.now = "starts"
        self._limits = limits
        self._size = size
        self._only = only
        self._name = f"chaos-{os.getpid()}-{guest.name}"
        self._folder = folder / guest.name
        self._quiet = threading.Lock()  # held during a fault, and while the host looks at the disks
        self._last = ""
        self._thread = threading.Thread(target=self._work, name=f"{guest.name} work")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Until everything of it is gone."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        running = Running(self._name, self.guest.arguments())
        with running as machine, self._noting(machine), contextlib.suppress(Stopped):
            self._rounds(machine)

    def _rounds(self, machine: Running) -> None:
        machine.attend(60.0)
        self.guest.await_ready(machine)
        hand = Hand(machine, self.guest.targets, Stage(self._folder))
        self._limits.begin()
        faults = threading.Thread(target=self._faults, args=(machine, hand), name=f"{self.guest.name} faults")
        faults.start()
        try:
            for number in count():
                found = self.guest.round(machine, number, self._size, self._limits.going)
                with self._quiet:
                    found.update(self.guest.check_images(hand.backend))
                with self._limits.lock:
                    self._limits.report.verify(self.guest.name, found)
                    self._limits.report.rounds[self.guest.name] += 1
                if not faults.is_alive():
                    return
        finally:
            self._stop_faults = True
            faults.join()
            hand.close()

    _stop_faults = False

    def _faults(self, machine: Running, hand: Hand) -> None:
        limits = self._limits
        with self._noting(machine):
            for fault in plan(limits.report.seed, self.guest.name, self.guest.targets, self._only):
                time.sleep(fault.pause)  # part of the plan
                with self._quiet:
                    if self._stop_faults or not limits.more_faults():
                        return
                    self.now = f"{fault.kind} {fault.id}"
                    self._last = str(fault)
                    done = hand.perform(fault)
                with limits.lock:
                    limits.report.done.append((self.guest.name, done))

    @contextlib.contextmanager
    def _noting(self, machine: Running) -> Iterator[None]:
        """What is lost goes into the report, and the machine's logs to where they stay."""
        try:
            yield
        except Exception as error:  # a mistake of ours ends the run as well
            if self._limits.going():
                kept = _keep_logs(machine)
                what = error.message if isinstance(error, BulkheadError) else f"{type(error).__name__}: {error}"
                hint = f" ({error.hint})" if isinstance(error, Lost) and error.hint else ""
                self._limits.lose(f"{what}{hint}; last fault: {self._last or 'none'}; logs: {kept}")
        finally:
            if not self._limits.going():
                self._stop_faults = True


def _keep_logs(machine: Running) -> Path:
    """The logs of all processes, what `ps` says, all events, and what the guest said last."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bulkhead" / "chaos"
    place = base / machine.name
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (run_base() / machine.name / "logs").glob("*.log"):
        with contextlib.suppress(OSError):
            shutil.copyfile(path, place / path.name)
    with contextlib.suppress(BulkheadError):
        (place / "ps.json").write_text(json.dumps(machine.ask("PS"), indent=2, default=str))
    (place / "events.json").write_text(json.dumps(machine.told(), indent=2, default=str))
    (place / "console").write_bytes(machine.said)
    return place


def _attend(campaigns: list[Campaign], limits: Limits, signals: socket.socket) -> None:
    """Show how it goes until all have ended, or a signal says that it is enough."""
    report = limits.report
    told = 0.0
    with show.Progress(sys.stderr) as progress:
        while any(campaign.alive for campaign in campaigns):
            with contextlib.suppress(BlockingIOError):
                if signals.recv(64):
                    report.stopped = True
                    limits.stop()
                    return
            now = time.monotonic()
            if sys.stderr.isatty() or now - told >= TELL:
                told = now
                progress(_line(campaigns, limits, now - report.began), None)
            time.sleep(LOOK)


def _line(campaigns: list[Campaign], limits: Limits, seconds: float) -> str:
    with limits.lock:
        report = limits.report
        rounds = " ".join(f"{campaign.guest.name} {report.rounds[campaign.guest.name]}" for campaign in campaigns)
        text = (
            f"{int(seconds) // 60}:{int(seconds) % 60:02} {report.kills} kills {report.swaps} swaps · rounds {rounds}"
        )
    busy = " ".join(campaign.now for campaign in campaigns)
    return f"{text} · {busy}"
