"""`bulkhead debug ID [-- COMMAND]` and `bulkhead attach ID [-- COMMAND]`: a device's process under a debugger, in this
terminal, while the guest waits.

The keeper ends the present process and gives us the channel of its successor; we start COMMAND with it, as our own
child in our own terminal, so that Ctrl-C, job control and line editing are the debugger's. The process is the device:
it is handed the requests that its predecessor had in flight, and the guest waits as long as it stands still. When
COMMAND ends, the keeper starts a process as ever. When we are killed, COMMAND is, too.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect, exchange
from launcher.keeper.child import die_with_parent, module_environment
from proto.channel import DEBUGGED, ENVIRONMENT, Channel
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed

__all__ = ["add_arguments", "command_of", "run"]

MODULE = "devproc.main"
ANSWER_DEADLINE = 10.0  # seconds: the present process may finish what it does
END_DEADLINE = 2.0  # seconds that the debugger has when the machine has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("id", metavar="ID", help="the device: blk0, fs0, …")
    parser.add_argument("--machine", metavar="NAME", help="the machine")


def run(arguments: argparse.Namespace) -> int:
    """The verb: returns when the debugger has ended, with its status."""
    name = choose_machine(arguments.machine)
    command = command_of(arguments.command)
    with connect(name) as keeper:
        descriptor = _take(keeper, arguments.id)
        try:
            process = _start(command, descriptor)
        finally:
            os.close(descriptor)
        try:
            show.line(
                sys.stderr, f"{arguments.id} of {name} is {process.pid} now; the guest waits while it stands still"
            )
            exchange(keeper, "DEBUGGED", ANSWER_DEADLINE, id=arguments.id, pid=process.pid)
            status = _wait(keeper, process)
        finally:
            _end(process)
    return status if 0 <= status < 256 else ExitCode.KILLED


def command_of(words: Sequence[str]) -> list[str]:
    """The command that is started: what was typed, and the device's process at its end unless it is named already.
    `python` is the one that runs this. Raises ConfigError when there is no such program."""
    if not words:
        words = ["python", "-m", "pdb"]
    program = sys.executable if words[0] in ("python", "python3") else shutil.which(words[0])
    if program is None:
        raise ConfigError(
            f"no program {words[0]}", hint="COMMAND is a debugger on this host, for example: python -m pdb"
        )
    rest = list(words[1:])
    if MODULE not in rest:
        rest += ["-m", MODULE] if program == sys.executable else [sys.executable, "-P", "-m", MODULE]
    return [program, "-P", *rest] if program == sys.executable else [program, *rest]


def _take(keeper: Channel, id: str) -> int:
    """The child's end of the channel of the next process of a device."""
    return exchange(keeper, "DEBUG", ANSWER_DEADLINE, id=id).fds["channel"]


def _start(command: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal's Ctrl-C is the debugger's
    try:
        return subprocess.Popen(
            command,
            pass_fds=[descriptor],
            env={**module_environment(), ENVIRONMENT: str(descriptor), DEBUGGED: "1"},
            preexec_fn=die_with_parent(),
        )
    except OSError as error:
        raise ConfigError(f"cannot start {command[0]}: {(error.strerror or '').lower()}") from error


def _wait(keeper: Channel, process: subprocess.Popen[bytes]) -> int:
    """Until COMMAND ends, or the machine does."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(keeper, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if descriptor in ready:
                return process.wait()
            try:
                keeper.recv(0).close()
            except ChannelClosed:
                show.line(sys.stderr, "the machine has ended")
                return _end(process)
            except DeadlineMissed:
                continue
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
