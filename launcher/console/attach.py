"""`bulkhead attach`: the console of a machine that runs on its own, as often as one likes.

The machine's serial line is a socket (`run --detach`, or `--serial socket:PATH`). What the guest said while nobody was
there comes first, as much of it as the core keeps. Leaving, in whatever way, leaves the machine running; Ctrl-A x, and
nothing else, ends it. One console at a time: a lock beside the control socket says that somebody is there, and goes
with its process.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode, exit_code
from launcher.console.session import Console, Outcome, ending_signals
from launcher.console.terminal import RawTerminal
from launcher.control import choose_machine, connect, request
from launcher.run.rundir import run_base
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed

__all__ = ["add_arguments", "run"]

RECONNECT = 0.05  # seconds between two attempts, while the guest starts again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("id", metavar="ID", nargs="?", help="a device: its process under COMMAND, as `bulkhead debug`")
    parser.add_argument("--machine", metavar="NAME", help="the machine")


def run(arguments: argparse.Namespace) -> int:
    """The verb. Returns the exit code: 0 when the console was left, else how the machine ended."""
    if arguments.id or arguments.command:
        from launcher.orders.debug import run as debug

        if not arguments.id:
            raise ConfigError(
                "attach COMMAND to which device?", hint="For example: bulkhead attach blk0 -- python -m pdb"
            )
        return debug(arguments)
    name = choose_machine(arguments.machine)
    with connect(name) as keeper, _alone(name), ending_signals() as signals:
        path = request(keeper, "PS")["serial"]
        terminal = RawTerminal(0) if os.isatty(0) and os.isatty(1) else None
        console = _Attached(keeper, name, _line(name, path), path, signals, terminal)
        if os.isatty(2):
            show.line(sys.stderr, f"machine {name}; Ctrl-A d leaves it running, Ctrl-A x ends it, Ctrl-A h shows help")
        outcome = console.run()
    if outcome.reason == "detached":
        if os.isatty(2):
            print(f"machine {name} runs on; come back with: bulkhead attach --machine {name}", file=sys.stderr)
        return ExitCode.OK
    if outcome.error:
        show.complain(outcome.error)
    return exit_code(outcome.reason, outcome.code)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Be the only console of a machine. Raises ConfigError when there is one."""
    descriptor = os.open(run_base() / name / "console.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"somebody is attached to {name}", hint="A machine has one console at a time.") from None
    finally:
        os.close(descriptor)


def _line(name: str, path: str) -> socket.socket:
    """Our end of the serial line. Raises ConfigError when it is none that one could attach to."""
    if not path or not Path(path).is_socket():
        where = f"is {path}" if path else "is not a socket"
        raise ConfigError(
            f"the serial line of {name} {where}", hint="Attach to what was started with: bulkhead run --detach"
        )
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(path)
    except OSError as error:
        line.close()
        raise ConfigError(f"cannot attach to {name}: {error.strerror}", hint="Has it just ended?") from error
    return line


class _Attached(Console):
    """A console that can be left. `keeper` is a control connection that watches the machine."""

    def __init__(
        self,
        keeper: Channel,
        machine: str,
        line: socket.socket,
        path: str,
        signals: socket.socket,
        terminal: RawTerminal | None,
    ) -> None:
        super().__init__(keeper, line, signals, stdin=0, stdout=1, terminal=terminal, machine=machine)
        self.running = True
        self._path = path
        self._ending: dict[str, Any] = {}
        keeper.send("WATCH")
        self._open_input()

    def quit(self, reason: str) -> None:
        """Ctrl-A x ends the machine; whatever else would end the console leaves it."""
        if reason == "quit":
            super().quit(reason)
        else:
            self.leave()

    def leave(self) -> None:
        self._end(Outcome("detached"))

    def patience(self) -> float | None:
        return RECONNECT if self.serial is None and self.outcome is None else None

    def _turn(self) -> None:
        if self.serial is None and self.outcome is None:
            self._come_back()
        super()._turn()

    def _come_back(self) -> None:
        """The line broke: the guest starts again, or all has ended, as the keeper will say."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.connect(self._path)
        except OSError:
            line.close()
        else:
            line.setblocking(False)
            self.serial = line

    def _hear_keeper(self) -> None:
        try:
            packet = self.keeper.recv(0)
        except DeadlineMissed:
            return
        except ChannelClosed:
            self._end(Outcome(self._ending.get("reason", "killed"), int(self._ending.get("code", 0))))
            return
        except BulkheadError:
            return
        packet.close()
        if packet.kind == "EVENT" and packet.body["name"] == "ENDING":
            self._ending = packet.body

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome
        self._leave_at = None
        if self.outcome.reason == "detached" and self.serial is not None:
            self.serial.close()
            self.serial = None
