"""`bulkhead swap`: what a user writes as what shall be behind a device, and the wait until it is.

What is understood depends on the device: a disk takes a URI, a network what `--net` takes, a shared folder a directory;
every device takes PATH.py:Class, which is other code for it, and NAME=VALUE, which are properties.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect, request
from launcher.machine.description import NETWORK
from launcher.machine.options import Given
from launcher.machine.values import SHARE_DEVICES, absolute, parse_device, parse_disk, parse_net
from proto.channel import Channel
from proto.errors import ConfigError

__all__ = ["add_arguments", "device_row", "follow", "run", "understand"]

DEADLINE = 60.0  # seconds for a whole swap
PERIOD = 0.005  # seconds between two questions how far it is
_PROPERTY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `swap`."""
    parser.add_argument("id", metavar="ID", help="the device: blk0, net0, fs0, …")
    parser.add_argument("what", metavar="URI|NAME=VALUE", nargs="+", help="what shall be behind it, or its properties")
    parser.add_argument("--machine", metavar="NAME", help="the machine")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The verb; returns when the new process serves. Raises ConfigError when the old one goes on."""
    name = choose_machine(arguments.machine)
    with connect(name) as channel:
        row = device_row(channel, arguments.id)
        outcome = follow(channel, request(channel, "SWAP", id=arguments.id, **understand(row, arguments.what)))
    if arguments.json:
        print(json.dumps({"id": arguments.id, "before": row["backend"], **outcome}, indent=2))
        return ExitCode.OK if outcome["state"] == "done" else ExitCode.ERROR
    if outcome["state"] != "done":
        raise refused(arguments.id, row, outcome)
    what = outcome["backend"] or "new code"
    print(f"{arguments.id} is now {what}, epoch {outcome['epoch']}, after a pause of {outcome['pause_ms']:.0f} ms")
    return ExitCode.OK


def device_row(channel: Channel, id: str) -> dict[str, Any]:
    """The row of `ps` of a device. Raises ConfigError."""
    rows = request(channel, "PS")["processes"]
    devices: dict[str, dict[str, Any]] = {row["id"]: row for row in rows if row.get("device")}
    if id not in devices:
        known = f"It has: {', '.join(devices)}." if devices else "It has none."
        raise ConfigError(f"there is no device {id}", hint=known)
    return devices[id]


def follow(channel: Channel, begun: dict[str, Any]) -> dict[str, Any]:
    """How a swap ended. Raises ConfigError when the machine ends, or nothing happens for too long."""
    deadline = time.monotonic() + DEADLINE
    while True:
        outcome: dict[str, Any] = request(channel, "SWAPPED", swap=begun["swap"])
        if outcome["state"] in ("done", "failed"):
            return outcome
        if time.monotonic() > deadline:
            raise ConfigError(f"the swap is still at its step {outcome['state']!r}", hint="See: bulkhead ps")
        time.sleep(PERIOD)


def refused(id: str, row: dict[str, Any], outcome: dict[str, Any]) -> ConfigError:
    """Why the old process goes on, in a sentence."""
    keeps = f"{id} keeps {row['backend'] or 'its old code'}"
    pause = outcome["pause_ms"]
    noticed = f"The guest saw a pause of {pause:.0f} ms." if pause else "The guest noticed nothing."
    if row["state"] in ("quarantined", "restarting", "stuck"):
        keeps, noticed = f"{id} stays {row['state']}", ""
    error = outcome["error"].rstrip(".")
    return ConfigError(f"{keeps}: {error}. {noticed}".rstrip(), hint=outcome["hint"])


def understand(row: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The body of SWAP: backend, device, properties. Raises ConfigError."""
    properties: dict[str, Any] = {}
    places = []
    for word in words:
        found = _PROPERTY.fullmatch(word)
        if found is not None and ":" not in found[1]:
            properties[found[1]] = found[2]
        else:
            places.append(word)
    if len(places) > 1:
        raise ConfigError(f"{row['id']}: {places[0]} or {places[1]}?", hint="Properties are given as NAME=VALUE.")
    change: dict[str, Any] = {}
    if places:
        given = Given(places[0], row["id"], Path.cwd())
        code = re.match(r"[^,]*\.py:\w+", places[0]) is not None
        change = _code(given) if code else _READERS.get(row["device"], _code)(given)
    return {**change, "properties": {**change.get("properties", {}), **properties}}


def _disk(given: Given) -> dict[str, Any]:
    uri, _, properties = parse_disk(given)
    return {"backend": uri, "properties": properties}


def _net(given: Given) -> dict[str, Any]:
    from launcher.machine.plan import describe_device

    card = parse_net(given, describe_device(NETWORK)["properties"])
    return {"backend": card.uri, "properties": card.properties}


def _share(given: Given) -> dict[str, Any]:
    return {"backend": absolute(given, str(given.value))}


def _code(given: Given) -> dict[str, Any]:
    device, _, properties = parse_device(given)
    return {"device": device, "properties": properties}


_READERS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "blk": _disk,
    NETWORK: _net,
    **dict.fromkeys(SHARE_DEVICES.values(), _share),
}
