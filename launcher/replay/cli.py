"""`bulkhead replay`: arguments, what is shown, and the device under pdb in the foreground."""

from __future__ import annotations

import argparse
import inspect
import types
from pathlib import Path

from devproc.registry import load_class
from launcher.cli.exitcodes import ExitCode
from launcher.keeper.child import module_command
from launcher.replay.compare import MODES
from launcher.replay.place import Place, place
from launcher.replay.player import DEADLINE, Player
from launcher.replay.source import load
from proto.errors import ConfigError

__all__ = ["add_arguments", "run"]

DIFFERENT = 1  # the exit code
PATIENCE = 86400.0  # seconds for an answer of a device under a debugger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("file", metavar="FILE", help="a recording, a crash bundle, or the request that is in one")
    parser.add_argument("spec", metavar="SPEC", nargs="?", default="", help="a disk, a directory, or PATH.py:Class")
    parser.add_argument("--device", metavar="ID", help="which of the recorded devices")
    parser.add_argument("--request", metavar="N", type=int, help="only this one, counted from 0")
    parser.add_argument("--speed", choices=("real", "max"), default="max", help="real|max; max is the default")
    parser.add_argument("--compare", choices=MODES, default="", help="|".join(MODES))
    parser.add_argument("--deadline", metavar="SECONDS", type=float, default=DEADLINE, help="for an answer; 10")
    parser.add_argument("--pdb", action="store_true", help="the device in the foreground under Python's debugger")
    parser.add_argument("--json", action="store_true", help="for programs: all differences")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    script = load(Path(arguments.file), arguments.device)
    if arguments.request is not None:
        script = script.only(arguments.request)
    found = place(script, arguments.spec)
    try:
        player = Player(
            script,
            found,
            speed=arguments.speed,
            compare=arguments.compare,
            deadline=PATIENCE if arguments.pdb else arguments.deadline,
            command=_under_pdb(found) if arguments.pdb else None,
            readable=arguments.pdb,
        )
        result = player.play()
    finally:
        found.close()
    print(result.as_json() if arguments.json else result.text)
    return ExitCode.OK if result.same else DIFFERENT


def _under_pdb(found: Place) -> list[str]:
    """The device's process under pdb, which stops where the first request comes to `handle`. Raises ConfigError."""
    handle = getattr(load_class(found.device), "handle", None)
    if handle is None:
        raise ConfigError(f"{found.device} handles no requests", hint="--pdb is for devices with virtqueues.")
    file = inspect.getsourcefile(handle)
    line = _first_line(handle)
    return [*module_command("launcher.replay.under_pdb"), str(file), str(line)]


def _first_line(function: object) -> int:
    """Of its body, behind the line that defines it."""
    code: types.CodeType = getattr(function, "__code__")  # noqa: B009 - of any callable
    lines = [line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    return min(lines, default=code.co_firstlineno)
