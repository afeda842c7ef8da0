"""`bulkhead run`: start a machine and be its console until it ends.

From before anything is claimed on, ending signals only arrive in the console's loop, so that Ctrl-C works at every
moment and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode, exit_code
from launcher.console.frame import CommandOutput
from launcher.console.session import Console, Outcome, ending_signals
from launcher.console.terminal import RawTerminal, size
from launcher.machine.configfile import read_config
from launcher.machine.description import Machine
from launcher.machine.options import GROUPS, RUN_OPTIONS, Given, Options
from launcher.machine.plan import Plan, describe_device, device_names, make_plan
from launcher.run.start import start
from proto.channel import Packet
from proto.errors import ConfigError
from proto.suggest import did_you_mean, one_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`, from their table."""
    groups = {key: parser.add_argument_group(title) for key, title in GROUPS.items()}
    for option in RUN_OPTIONS:
        names = [option.short, option.long] if option.short else [option.long]
        destination = option.name.replace("-", "_")
        if option.kind == "flag":
            groups[option.group].add_argument(*names, dest=destination, action="store_true", help=option.help)
        else:
            action = "append" if option.kind == "list" else "store"
            groups[option.group].add_argument(
                *names, dest=destination, action=action, metavar=option.metavar, help=option.help.replace("%", "%%")
            )


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
        if value == "" and option.name != "append":
            raise ConfigError(f"{option.long} needs a value", hint="See: bulkhead run --help")
        if option.choices and value not in option.choices:
            suggestion = did_you_mean(value, option.choices)
            raise ConfigError(f"{option.long} {value}: expected {one_of(option.choices)}{suggestion}")
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


def _start(plan: Plan, command: list[str]) -> int:
    with ending_signals() as signals:
        ours = (plan.machine.serial.kind == "fd" or plan.machine.console_on_stdio) and not plan.machine.detach
        terminal = RawTerminal(0) if ours and _interactive() else None
        started = start(plan, terminal)
        console = _RunConsole(
            started.channel,
            started.serial,
            signals,
            stdin=0 if not os.isatty(0) or _foreground(0) else None,
            stdout=1,
            terminal=terminal,
            command=CommandOutput(plan.command) if command else None,
            machine=started.machine.name,
        )
        console.introduce(started.machine, started.keeper.pid)
        with started.channel:
            outcome = console.run()
        if outcome.reason == "detached":
            name = started.machine.name
            print(f"machine {name} runs; bulkhead attach --machine {name} is its console, bulkhead stop ends it")
            return ExitCode.OK
        started.wait(outcome)
    return _conclude(outcome, bool(command))


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
            self._progress(f"{packet.body['id']}: {packet.body['text']}", None)
        elif packet.kind == "RUNNING":
            if self._progress is not None:
                self._progress.clear()
            self._announce(packet.body)
        elif packet.kind == "CRASH" and self._talks:
            show.line(sys.stderr, packet.body["text"], self._line_end())

    def _line_end(self) -> str:
        return "\r\n" if self.terminal is not None and self.terminal.raw else "\n"

    def _announce(self, body: dict[str, Any]) -> None:
        if self._machine.detach:
            self.outcome = Outcome("detached")
            return
        if not self._talks:
            if self.serial is None and self._machine.serial.kind in ("pty", "socket"):
                print(f"serial line: {body['serial']}", file=sys.stderr)
            return
        end = self._line_end()
        show.line(sys.stderr, show.process_line(self._keeper_pid, body["processes"]), end)
        if self.serial is None:
            where = body["serial"] or self._machine.serial.kind
            show.line(sys.stderr, f"serial line: {where}; Ctrl-C ends the machine", end)
        elif self.terminal is not None:
            show.line(sys.stderr, "Ctrl-A x quits, Ctrl-A h shows help", end)
        if body["gdb"]:
            show.line(sys.stderr, f"gdb: target remote {body['gdb']}", end)


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
