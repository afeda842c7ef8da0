"""The verb `disk`: one table of actions, each a function from its words and options to a result.

A result is a plain dict: printed as JSON with --json, otherwise as the sentence that its action makes of it. Nothing
that exists is overwritten; what was begun and not finished is removed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.disks import actions
from launcher.disks.whole import signals_interrupt
from proto.errors import BackendError, ConfigError
from proto.suggest import did_you_mean

__all__ = ["ACTIONS", "add_arguments", "run"]

Result = dict[str, Any]
LEAKS, ERRORS = 3, 2  # exit codes of `check`, as qemu-img's


@dataclass(frozen=True)
class Action:
    """One action: its words, those of them that may be left out, and the options it takes."""

    name: str
    words: tuple[str, ...]
    run: Callable[..., Result]
    say: Callable[[Result], str]
    summary: str
    options: tuple[str, ...] = ()
    optional: int = 0  # so many of the last words may be missing

    def usage(self) -> str:
        """`create URI [SIZE]`."""
        least = len(self.words) - self.optional
        return " ".join([self.name, *self.words[:least], *(f"[{word}]" for word in self.words[least:])])


OPTIONS = {  # name: (placeholder or "" for a flag, help)
    "cluster": ("SIZE", "create, convert: bytes of a qcow2 cluster (64k)"),
    "format-version": ("2|3", "create, convert: the version of qcow2 (3)"),
    "backing": ("FILE", "create: what the qcow2 image stands on; relative to the image"),
    "backing-format": ("raw|qcow2", "create: its format (looked at by default)"),
    "repair": ("", "check: take leaked clusters back"),
    "block": ("SIZE", "split: bytes of a block, a power of two (256k)"),
    "prefetch": ("LIST", "split: the blocks that a boot needs, in order: 0,1,7"),
    "group": ("N", "split: so many of them in one file (8)"),
    "shrink": ("", "resize: yes, cut off the end"),
}


def _made(result: Result) -> str:
    return f"{result['path']}: {result['format']}, {show.size(result['size'])}"


def _converted(result: Result) -> str:
    return f"{_made(result)}, {show.size(result['copied'])} copied"


def _checked(result: Result) -> str:
    lines = list(result["errors"][:20])
    if len(result["errors"]) > 20:
        lines.append(f"… and {len(result['errors']) - 20} more")
    if result["repaired"]:
        lines.append(f"{result['repaired']} leaked clusters were taken back")
    elif result["leaks"]:
        lines.append(f"{result['leaks']} clusters are leaked; --repair takes them back")
    counts = (
        f"{result['allocated']} of {result['clusters']} clusters are in the image, {result['compressed']} compressed"
    )
    return "\n".join([*lines, counts if lines else f"no errors; {counts}"])


def _described(result: Result, indent: str = "") -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}below", _described(value, indent + "  ")]
        elif value not in (None, "", False):
            text = f"{value} ({show.size(value)})" if name in ("size", "allocated", "written", "cluster") else value
            lines.append(f"{indent}{name.replace('_', ' '):<16}{text}")
    return "\n".join(lines)


ACTIONS = (
    Action(
        "create",
        ("URI", "SIZE"),
        actions.create,
        _made,
        "an empty image, raw or qcow2:",
        ("cluster", "format-version", "backing", "backing-format"),
        1,
    ),
    Action(
        "convert",
        ("FROM", "TO"),
        actions.convert,
        _converted,
        "copy a disk into a new image of another format",
        ("cluster", "format-version"),
    ),
    Action("info", ("URI",), actions.info, _described, "what a disk is and stands on"),
    Action("check", ("URI",), actions.check, _checked, "count every reference of a qcow2 image", ("repair",)),
    Action(
        "split",
        ("FROM", "FOLDER"),
        actions.split,
        lambda result: f"{result['path']}: {result['blocks']} blocks, {result['groups']} groups",
        "cut a disk into files for a web server",
        ("block", "prefetch", "group"),
    ),
    Action(
        "commit",
        ("URI",),
        actions.commit,
        lambda result: f"{show.size(result['committed'])} written to {result['into']}",
        "write a snapshot's overlay, or a qcow2 image, to what is below",
    ),
    Action(
        "discard",
        ("URI",),
        actions.discard,
        lambda result: f"{show.size(result['discarded'])} dropped",
        "empty a snapshot's overlay",
    ),
    Action("resize", ("URI", "SIZE"), actions.resize, _made, "make an image longer", ("shrink",)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    listing = "; ".join(f"{action.usage()}: {action.summary}" for action in ACTIONS)
    parser.add_argument("action", metavar="ACTION", nargs="?", help=listing)
    parser.add_argument("words", metavar="WORD", nargs="*", help="what the action is about")
    for name, (placeholder, text) in OPTIONS.items():
        if placeholder:
            parser.add_argument(f"--{name}", metavar=placeholder, help=text)
        else:
            parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The verb. Returns the exit code."""
    action = _find(arguments.action)
    least = len(action.words) - action.optional
    if not least <= len(arguments.words) <= len(action.words):
        raise ConfigError(
            f"disk {action.name} takes {' '.join(action.words)}", hint=f"Usage: bulkhead disk {action.usage()}"
        )
    given = {name: getattr(arguments, name.replace("-", "_")) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value not in (None, False)}
    for name in given:
        if name not in action.options:
            raise ConfigError(f"--{name} means nothing to disk {action.name}")
    with signals_interrupt(), show.Progress(sys.stderr) as progress:
        options = {name.replace("-", "_"): value for name, value in given.items()}
        try:
            result = action.run(*arguments.words, progress=progress, **options)
        except (BackendError, OSError) as error:
            raise ConfigError(f"disk {action.name}: {_reason(error)}") from error
    print(json.dumps(result) if arguments.json else action.say(result))
    if action.name == "check":
        return ERRORS if result["errors"] else LEAKS if result["leaks"] > result["repaired"] else ExitCode.OK
    return ExitCode.OK


def _reason(error: BackendError | OSError) -> str:
    """What the host, or a backend, said, and of what."""
    said = getattr(error, "strerror", None) or str(error)
    about = getattr(error, "filename", None)
    return f"{about}: {said}" if about else said


def _find(name: str | None) -> Action:
    names = [action.name for action in ACTIONS]
    if name is None:
        raise ConfigError("disk: which action?", hint=f"There are {', '.join(names)}.")
    for action in ACTIONS:
        if action.name == name:
            return action
    raise ConfigError(f"disk has no action {name}{did_you_mean(name, names)}", hint=f"There are {', '.join(names)}.")
