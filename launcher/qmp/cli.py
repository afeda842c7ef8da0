"""`bulkhead qmp` and `bulkhead monitor`: one QMP command from the shell, a conversation on standard input and output,
or the monitor's prompt."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect
from launcher.qmp.actions import Actions
from launcher.qmp.commands import COMMANDS, find_command
from launcher.qmp.monitor import Monitor, parse_words
from proto.errors import ChannelClosed

__all__ = ["monitor", "monitor_arguments", "qmp", "qmp_arguments"]

PROMPT = "(bulkhead) "


def qmp_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `qmp`."""
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="a command; without one they are listed")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE", help="its arguments; VALUE is text or JSON")
    parser.add_argument("--stdio", action="store_true", help="speak QMP on standard input and output")
    parser.add_argument("--machine", metavar="NAME", help="the machine")


def qmp(arguments: argparse.Namespace) -> int:
    """Carry out one command and print what it returns as JSON."""
    if arguments.stdio:
        from launcher.qmp.server import serve_stream

        return serve_stream(choose_machine(arguments.machine))
    if arguments.command is None:
        for text in show.table(("COMMAND", "ARGUMENTS", ""), [_row(command.name) for command in COMMANDS]):
            print(show.cut(text, sys.stdout))
        return ExitCode.OK
    command = find_command(arguments.command)
    given = parse_words(command, arguments.words)
    with connect(choose_machine(arguments.machine)) as control, contextlib.suppress(ChannelClosed):
        print(json.dumps(Actions(control).act(command.name, given), indent=2))
    return ExitCode.OK


def _row(name: str) -> tuple[str, str, str]:
    command = find_command(name)
    words = (f"[{a.name}]" if a.optional else a.name for a in command.arguments)
    return name, " ".join(words), command.text


def monitor_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `monitor`."""
    parser.add_argument("line", nargs="*", metavar="WORD", help="one line; without it, a prompt")
    parser.add_argument("--machine", metavar="NAME", help="the machine")


def monitor(arguments: argparse.Namespace) -> int:
    """One line of the monitor, or its prompt until the input ends."""
    with connect(choose_machine(arguments.machine)) as control:
        operator = Monitor(Actions(control))
        if arguments.line:
            sys.stdout.write(operator.carry_out(" ".join(arguments.line)))
            return ExitCode.OK
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - history and editing
        with contextlib.suppress(EOFError):
            while True:
                line = input(PROMPT if sys.stdin.isatty() else "")
                sys.stdout.write(operator.run(line))
    return ExitCode.OK
