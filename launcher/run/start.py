"""Starting a machine: what `run` and `demo` do before they serve its console.

What must not leak is claimed in this order: the run directory (its lock goes with the last process that holds it), then
the keeper (it ends everything when our channel closes). Signals that end a process should be caught before.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from launcher.console.session import Outcome
from launcher.console.terminal import RawTerminal
from launcher.keeper.child import module_command, module_environment
from launcher.machine.description import Machine
from launcher.machine.plan import Plan
from launcher.run.rundir import RunDirectory, sweep
from proto.channel import Channel
from proto.errors import BulkheadError

__all__ = ["Started", "start"]

KEEPER_DEADLINE = 5.0  # seconds that a keeper without a client may take to end


@dataclass
class Started:
    """A machine whose keeper runs. Closing the channel ends it."""

    machine: Machine
    directory: RunDirectory
    keeper: subprocess.Popen[bytes]
    channel: Channel
    serial: socket.socket | None  # our end of the serial line, or of a console's port, if one comes to us

    def wait(self, outcome: Outcome) -> None:
        """After the console's end and with the channel closed: let the keeper end; if it died or hangs, clean up."""
        try:
            self.keeper.wait(KEEPER_DEADLINE)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait()
        if self.keeper.returncode != 0:
            if outcome.error.startswith("the keeper") and not outcome.hint:
                with contextlib.suppress(OSError):
                    outcome.hint = self.directory.log("keeper").read_text(errors="replace")[-2000:].strip()
                if self.keeper.returncode == -signal.SIGKILL:
                    outcome.reason, outcome.hint = "killed", ""
            deadline = time.monotonic() + KEEPER_DEADLINE
            while self.directory.path.exists() and time.monotonic() < deadline:
                sweep()


def start(plan: Plan, terminal: RawTerminal | None) -> Started:
    """Claim a name, make what the run needs, start the keeper and tell it the machine. Raises BulkheadError.

    The keeper restores `terminal` should we be killed."""
    directory = RunDirectory.claim(plan.name)
    try:
        keeper, channel = _spawn_keeper(directory)  # first: it begins to import while we prepare
        try:
            machine = plan.prepare(directory)
        except BaseException:
            channel.close()  # the keeper ends
            keeper.wait(KEEPER_DEADLINE)
            raise
    except BaseException:
        directory.remove()
        raise
    directory.release()  # the keeper holds it now
    ours, theirs = _serial_line(machine)
    _send_machine(channel, machine, theirs, terminal)
    return Started(machine, directory, keeper, channel, ours)


def _serial_line(machine: Machine) -> tuple[socket.socket | None, socket.socket | None]:
    if machine.serial.kind != "fd" and not machine.console_on_stdio:
        return None, None
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _spawn_keeper(directory: RunDirectory) -> tuple[subprocess.Popen[bytes], Channel]:
    ours, theirs = Channel.pair()
    arguments = [directory.name, str(directory.path), str(directory.scratch), str(theirs.fileno())]
    arguments += [str(lock) for lock in directory.locks]
    with theirs, open(directory.log("keeper"), "ab") as log:
        keeper = subprocess.Popen(
            [*module_command("launcher.keeper"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno(), *directory.locks],
            env={**module_environment(), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # the terminal's signals are for us
        )
    return keeper, ours


def _send_machine(
    channel: Channel, machine: Machine, serial: socket.socket | None, terminal: RawTerminal | None
) -> None:
    fds: dict[str, int] = {}
    body = machine.as_dict()
    if serial is not None:
        fds["serial" if machine.serial.kind == "fd" else "console"] = serial.fileno()
    if terminal is not None:
        fds["terminal"] = terminal.fd
        body["terminal"] = terminal.saved
    with contextlib.suppress(BulkheadError):  # it has died already: its end-of-file says so
        channel.send("MACHINE", body, fds)
    if serial is not None:
        serial.close()
