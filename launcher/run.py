"""`bulkhead run`: start a machine and be its console until it ends.

What must not leak is claimed in this order: the run directory (its lock goes with the last process that holds it), then
the keeper (it ends everything when our channel closes). From before the claim on, ending signals only arrive in the
console's loop, so that Ctrl-C works at every moment and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launcher import __version__, show
from launcher.child import module_command, module_environment
from launcher.configfile import read_config
from launcher.console import Console, Outcome, ending_signals
from launcher.exitcodes import ExitCode, exit_code
from launcher.frame import CommandOutput
from launcher.machine import Machine
from launcher.options import RUN_OPTIONS, Given, Options
from launcher.plan import Plan, describe_device, device_names, make_plan
from launcher.rundir import RunDirectory, sweep
from launcher.suggest import did_you_mean
from launcher.terminal import RawTerminal, size
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ConfigError

__all__ = ["run"]

KEEPER_DEADLINE = 5.0  # seconds that a keeper without a client may take to end


def run(arguments: argparse.Namespace) -> int:
    """The verb. Returns the exit code. Raises BulkheadError."""
    options = _options(arguments)
    for given in options.get("device", []):
        if _device_help(given):
            return ExitCode.OK
    command: list[str] = arguments.command
    with show.Progress(sys.stderr) as progress:
        plan = make_plan(options, command, _terminal_size(), progress)
    if any(name in options for name in ("dry-run", "print-map")):
        if "print-map" in options:
            print(show.memory_map(plan.machine))
        if "dry-run" in options:
            print(show.processes(plan.machine))
        return ExitCode.OK
    if plan.machine.verbose:
        print(show.description(plan.machine), file=sys.stderr)
    return _start(plan, command)


def _options(arguments: argparse.Namespace) -> Options:
    """What the command line says, after what the TOML file says."""
    here = Path.cwd()
    options: Options = {}
    if arguments.config:
        options = read_config(Path(arguments.config).expanduser())
    for option in RUN_OPTIONS:
        value = getattr(arguments, option.name.replace("-", "_"))
        if value in (None, False, []):
            continue
        if option.choices and value not in option.choices:
            expected = " or ".join(option.choices)
            raise ConfigError(f"{option.long} {value}: expected {expected}{did_you_mean(value, option.choices)}")
        values = value if option.kind == "list" else [value]
        given = [Given(item, option.long, here) for item in values]
        options[option.name] = options.get(option.name, []) + given if option.kind == "list" else given
    return options


def _device_help(given: Given) -> bool:
    """`--device help` and `--device X,help` print and do nothing else."""
    text = given.value if isinstance(given.value, str) else ""
    if text == "help":
        for name in device_names():
            print(describe_device(name)["help"].splitlines()[0])
        print("Your own: ./FILE.py:CLASS")
        return True
    if text.endswith(",help"):
        print(describe_device(text.removesuffix(",help"))["help"])
        return True
    return False


def _foreground(fd: int) -> bool:
    """True when `fd` is a terminal that is ours to read (not in the background of a shell)."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def _interactive() -> bool:
    return _foreground(0) and os.isatty(1)


def _terminal_size() -> tuple[int, int] | None:
    return size(1) if _interactive() else None


# -- starting ----------------------------------------------------------------------------------------------------------


def _start(plan: Plan, command: list[str]) -> int:
    with ending_signals() as signals:
        directory = RunDirectory.claim(plan.name)
        try:
            machine = plan.prepare(directory)
            ours, theirs = _serial_line(machine)
            terminal = RawTerminal(0) if ours is not None and _interactive() else None
            keeper, channel = _spawn_keeper(directory)
        except BaseException:
            directory.remove()
            raise
        directory.release()  # the keeper holds it now
        _send_machine(channel, machine, theirs, terminal)
        console = _RunConsole(
            channel,
            ours,
            signals,
            stdin=0 if not os.isatty(0) or _foreground(0) else None,
            stdout=1,
            terminal=terminal,
            command=CommandOutput(plan.command) if command else None,
        )
        console.introduce(machine, keeper.pid)
        with channel:
            outcome = console.run()
        if outcome.reason == "detached":
            print(f"machine {machine.name} runs; end it with: bulkhead stop --machine {machine.name}")
            return ExitCode.OK
        _wait_for(keeper, outcome, directory)
    return _conclude(outcome, bool(command))


def _serial_line(machine: Machine) -> tuple[socket.socket | None, socket.socket | None]:
    if machine.serial.kind != "fd":
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
        fds["serial"] = serial.fileno()
    if terminal is not None:
        fds["terminal"] = terminal.fd
        body["terminal"] = terminal.saved
    with contextlib.suppress(BulkheadError):  # it has died already: its end-of-file says so
        channel.send("MACHINE", body, fds)
    if serial is not None:
        serial.close()


# -- while it runs -----------------------------------------------------------------------------------------------------


class _RunConsole(Console):
    """The console with what `run` says beside the guest's own output: on standard error, if it is a terminal."""

    _progress: show.Progress | None = None

    def introduce(self, machine: Machine, pid: int) -> None:
        """The first lines."""
        self._machine = machine
        self._talks = os.isatty(2) and self.command is None
        self._keeper_pid = pid
        if self._talks:
            show.line(sys.stderr, f"bulkhead {__version__}  {show.summary(machine)}")

    def heard(self, packet: Packet) -> None:
        if packet.kind == "STATE" and os.isatty(2) and not self.running:
            if self._progress is None:
                self._progress = show.Progress(sys.stderr)
            self._progress(f"{packet.body['id']}: {packet.body['text']} …", None)
        elif packet.kind == "RUNNING":
            if self._progress is not None:
                self._progress.clear()
            self._announce(packet.body)

    def _announce(self, body: dict[str, Any]) -> None:
        if self._machine.detach:
            self.outcome = Outcome("detached")
            return
        if not self._talks:
            if self.serial is None and self._machine.serial.kind in ("pty", "socket"):
                print(f"serial line: {body['serial']}", file=sys.stderr)
            return
        end = "\r\n" if self.terminal is not None and self.terminal.raw else "\n"
        show.line(sys.stderr, show.process_line(self._keeper_pid, body["processes"]), end)
        if self.serial is None:
            where = body["serial"] or self._machine.serial.kind
            show.line(sys.stderr, f"serial line: {where}; Ctrl-C ends the machine", end)
        elif self.terminal is not None:
            show.line(sys.stderr, "Ctrl-A x quits, Ctrl-A h shows help", end)


def _wait_for(keeper: subprocess.Popen[bytes], outcome: Outcome, directory: RunDirectory) -> None:
    """Let the keeper end; if it died or hangs, clean up what it left."""
    try:
        keeper.wait(KEEPER_DEADLINE)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    if keeper.returncode != 0:
        if outcome.error.startswith("the keeper") and not outcome.hint:
            with contextlib.suppress(OSError):
                outcome.hint = directory.log("keeper").read_text(errors="replace")[-2000:].strip()
            if keeper.returncode == -signal.SIGKILL:
                outcome.reason, outcome.hint = "killed", ""
        deadline = time.monotonic() + KEEPER_DEADLINE
        while directory.path.exists() and time.monotonic() < deadline:
            sweep()


def _conclude(outcome: Outcome, command: bool) -> int:
    """Say what went wrong, if anything did, and give the exit code."""
    if outcome.panic and outcome.reason in ("panic", "reset", "stopped"):
        show.complain(f"the guest's kernel panicked: {outcome.panic.partition(': ')[2] or outcome.panic}")
        return ExitCode.PANIC
    if outcome.reason == "error":
        where = f"{outcome.process}: " if outcome.process and not outcome.error.startswith(outcome.process) else ""
        show.complain(where + (outcome.error or "the machine failed"), outcome.hint)
        return ExitCode.ERROR
    if outcome.reason in ("killed", "stopped"):
        if outcome.error:
            show.complain(outcome.error)
        return ExitCode.KILLED
    if not command:
        return exit_code(outcome.reason, outcome.code)
    if outcome.status is not None:
        return outcome.status
    last = outcome.before.decode(errors="replace").replace("\r", "").strip().splitlines()[-8:]
    what = "ended" if outcome.before == b"" else "was started"
    show.complain(f"the guest stopped ({outcome.reason}) before COMMAND {what}", "\n".join(last))
    return ExitCode.UNFINISHED
