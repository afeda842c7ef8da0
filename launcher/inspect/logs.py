"""`bulkhead logs`: what the processes of a running machine have printed and logged, once or as it comes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect, request
from launcher.run.rundir import run_base
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed
from proto.suggest import did_you_mean

__all__ = ["add_arguments", "run"]

PERIOD = 0.2  # seconds between two looks at files that are followed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("id", metavar="ID", nargs="?", help="only this process: keeper, core, blk0, …")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is logged, until the machine ends")
    parser.add_argument("--machine", metavar="NAME", help="the machine")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    name = choose_machine(arguments.machine)
    with connect(name) as channel:
        known = ["keeper", *(row["id"] for row in request(channel, "PS")["processes"])]
        if arguments.id is not None and arguments.id not in known:
            suggestion = did_you_mean(arguments.id, known)
            raise ConfigError(f"{name} has no process {arguments.id}{suggestion}", hint=f"It has: {', '.join(known)}.")
        directory = run_base() / name / "logs"
        wanted = [arguments.id] if arguments.id else known
        follower = _Follower({process: directory / f"{process}.log" for process in wanted})
        follower.show()
        while arguments.follow:
            try:
                channel.recv(PERIOD).close()
            except DeadlineMissed:
                follower.show()
            except (ChannelClosed, BulkheadError):
                follower.show()
                break
            except KeyboardInterrupt:
                break
    return ExitCode.OK


class _Follower:
    """Prints what was added to files since the last time."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths
        self._seen: dict[str, int] = {}  # bytes already printed
        self._last = ""

    def show(self) -> None:
        """Print it, with a title where the process changes."""
        for process, path in self._paths.items():
            data = self._news(process, path)
            if not data:
                continue
            if len(self._paths) > 1 and process != self._last:
                print(show.paint(f"== {process} ==", "bold", sys.stdout), flush=True)
            self._last = process
            sys.stdout.flush()
            os.write(1, data if data.endswith(b"\n") else data + b"\n")

    def _news(self, process: str, path: Path) -> bytes:
        seen = self._seen.get(process, 0)
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(seen)
            data = file.read()
            self._seen[process] = seen + len(data)
            return data
        return b""
