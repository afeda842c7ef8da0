"""`bulkhead mirror`: copy a disk to another place, or into another format, while the guest uses it; then use that.
`bulkhead commit`: write an overlay to what it stands on, while the guest uses it; then use that.

The keeper does it (`launcher.keeper.mirror`); these commands ask, show how far it is, and on Ctrl-C cancel. Killed,
they leave it going: the same command again joins it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect, request
from launcher.machine.options import Given
from launcher.machine.values import parse_disk, parse_size
from launcher.orders.swap import device_row
from proto.channel import Channel
from proto.errors import ConfigError

__all__ = ["add_arguments", "commit", "commit_arguments", "run"]

PERIOD = 0.1  # seconds between two looks
SMOOTH = 0.8  # how much of the rate shown is that of before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mirror`."""
    parser.add_argument("id", metavar="ID", help="the disk: blk0, …")
    parser.add_argument("to", metavar="URI", nargs="?", default="", help="the copy; made if it is not there")
    _common_arguments(parser)


def commit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `commit`."""
    parser.add_argument("id", metavar="ID", help="the disk: blk0, …; an overlay")
    _common_arguments(parser)


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", metavar="SIZE", default="", help="copy at most so much a second: 50M")
    parser.add_argument("--no-pivot", action="store_true", help="keep both equal, and the guest on the old one")
    parser.add_argument("--cancel", action="store_true", help="end one that is under way; the old disk stays")
    parser.add_argument("--machine", metavar="NAME", help="the machine")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The verb; returns when the guest uses the copy, or with --no-pivot when both are equal."""
    rate, pivot = _rate(arguments), not arguments.no_pivot
    with connect(choose_machine(arguments.machine)) as channel:
        row = device_row(channel, arguments.id)
        if arguments.cancel:
            return _cancel(channel, arguments)
        target = parse_disk(Given(arguments.to, "mirror", Path.cwd()))[0] if arguments.to else ""
        made = _make(arguments.to, target, row)
        try:
            request(channel, "MIRROR", id=arguments.id, to=target, rate=rate, pivot=pivot)
        except ConfigError:
            if made:
                os.unlink(made)
            raise
        return _follow(channel, arguments)


def commit(arguments: argparse.Namespace) -> int:
    """The verb `commit`; returns when the guest uses what was below, or with --no-pivot when both are equal."""
    rate, pivot = _rate(arguments), not arguments.no_pivot
    with connect(choose_machine(arguments.machine)) as channel:
        device_row(channel, arguments.id)
        if arguments.cancel:
            return _cancel(channel, arguments)
        request(channel, "COMMIT", id=arguments.id, rate=rate, pivot=pivot)
        return _follow(channel, arguments)


def _rate(arguments: argparse.Namespace) -> int:
    return parse_size(Given(arguments.rate, "--rate", Path.cwd())) if arguments.rate else 0


def _cancel(channel: Channel, arguments: argparse.Namespace) -> int:
    request(channel, "MIRROR_CANCEL", id=arguments.id)
    return _report(arguments, _until_over(channel, arguments.id))


def _follow(channel: Channel, arguments: argparse.Namespace) -> int:
    """Show how far it is until it is over; Ctrl-C cancels."""
    try:
        status = _watch(channel, arguments.id, wait_for_pivot=not arguments.no_pivot)
    except KeyboardInterrupt:
        request(channel, "MIRROR_CANCEL", id=arguments.id)
        status = _until_over(channel, arguments.id)
        show.complain(f"cancelled; {arguments.id} keeps {status['source']}")
        return ExitCode.KILLED
    return _report(arguments, status)


def _make(given: str, target: str, row: dict[str, Any]) -> str:
    """Make the image of a target that is not there, as large as the disk. Returns its path, or "". Raises ConfigError,
    also for a name that is misleading as it was `given`."""
    from devproc.blk.uri import parse_uri, storage
    from launcher.disks.actions import create, refuse_misleading

    if not target or parse_uri(target).scheme not in ("file", "qcow2"):
        return ""
    (path,) = storage(target)
    if os.path.exists(path) or not os.path.isabs(path):
        return ""
    if row["role"] != "blk":
        raise ConfigError(f"{row['id']} is no disk: there is nothing to copy", hint="See: bulkhead ps")
    if "size" not in row:
        raise ConfigError(f"{row['id']} has not started yet", hint="Try again when it runs.")
    refuse_misleading(given)
    create(target, str(row["size"]), progress=lambda what, fraction: None)
    return path


def _watch(channel: Channel, id: str, *, wait_for_pivot: bool) -> dict[str, Any]:
    """Show how far it is until it is over. Its last status."""
    speed, seen = 0.0, (time.monotonic(), -1)
    with show.Progress(sys.stderr) as progress:
        while True:
            status = request(channel, "MIRRORED", id=id)
            if status["state"] in ("done", "cancelled", "failed") or (
                status["state"] == "equal" and not wait_for_pivot
            ):
                return status
            now = time.monotonic()
            if seen[1] >= 0 and now > seen[0]:
                speed = SMOOTH * speed + (1 - SMOOTH) * max(0, status["copied"] - seen[1]) / (now - seen[0])
            seen = (now, status["copied"])
            total = status["bytes"]
            progress(_words(id, status, speed), (total - status["left"]) / total if total else None)
            time.sleep(PERIOD)


def _words(id: str, status: dict[str, Any], speed: float) -> str:
    """One line: what is done, and on a terminal how fast and how long still."""
    what = f"{id}: {status['state']}"
    if not sys.stderr.isatty() or status["state"] != "copying" or speed < 1:
        return what
    seconds = int(status["left"] / speed)
    return f"{what} {show.size(int(speed))}/s, {seconds // 60}:{seconds % 60:02} left"


def _until_over(channel: Channel, id: str) -> dict[str, Any]:
    while (status := request(channel, "MIRRORED", id=id))["state"] not in ("done", "cancelled", "failed"):
        time.sleep(PERIOD)
    return status


def _report(arguments: argparse.Namespace, status: dict[str, Any]) -> int:
    id, state = arguments.id, status["state"]
    failed = state == "failed" or (state == "cancelled" and not arguments.cancel)
    if arguments.json:
        print(json.dumps({"id": id, **status}, indent=2))
        return ExitCode.ERROR if failed else ExitCode.OK
    if failed:
        error = status["error"].rstrip(".") or f"the {status['kind']} was cancelled"
        raise ConfigError(f"{id} keeps {status['source']}: {error}", hint=status["hint"])
    if state == "done":
        print(f"{id} is now {status['target']}, after a pause of {status['pause_ms']:.0f} ms at most")
    elif state == "equal":
        print(f"{id} is {status['source']}; {status['target']} is equal to it and stays so")
    else:
        print(f"{id} is {status['source']}; the {status['kind']} is ended")
    return ExitCode.OK
