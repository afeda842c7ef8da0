"""`bulkhead crashes`: what crashes of devices have left (`launcher.inspect.bundles`): a table, one in full, or JSON."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.inspect.bundles import Bundle, bundles, clean, crash_base, load_request
from proto.errors import ConfigError

__all__ = ["add_arguments", "run"]

HEADER = ("CRASH", "MACHINE", "DEVICE", "EPOCH", "LIVED", "IN FLIGHT", "WHAT", "THEN")
NUMBERS = ("EPOCH", "LIVED", "IN FLIGHT")
LOG_LINES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("id", metavar="ID", nargs="?", help="show this one: its name, the end of its name, or last")
    parser.add_argument("--machine", metavar="NAME", help="only those of this machine")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--clean", action="store_true", help="remove them")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.clean:
        if arguments.id:
            raise ConfigError("--clean removes them all", hint="To remove one, remove its directory.")
        count = clean(arguments.machine)
        print(f"{count} removed" if count else "nothing to remove")
        return ExitCode.OK
    found = bundles(arguments.machine)
    if arguments.id:
        bundle = _choose(found, arguments.id)
        print(json.dumps(_as_json(bundle), indent=2) if arguments.json else _in_full(bundle))
    elif arguments.json:
        print(json.dumps([_as_json(bundle) for bundle in found], indent=2))
    elif found:
        rows = [_row(bundle) for bundle in found]
        print("\n".join(show.table(HEADER, rows, NUMBERS)))
    else:
        print(f"no crashes in {crash_base()}")
    return ExitCode.OK


def _choose(found: list[Bundle], wanted: str) -> Bundle:
    chosen = found[-1:] if wanted == "last" else [bundle for bundle in found if bundle.id == wanted]
    chosen = chosen or [bundle for bundle in found if bundle.id.endswith(wanted)]
    if len(chosen) == 1:
        return chosen[0]
    why = f"{len(chosen)} crashes end in {wanted}" if chosen else f"there is no crash {wanted}"
    raise ConfigError(why, hint="`bulkhead crashes` lists them.")


def _as_json(bundle: Bundle) -> dict[str, Any]:
    return {"id": bundle.id, "path": str(bundle.path), "files": bundle.files(), **bundle.crash}


def _row(bundle: Bundle) -> tuple[str, ...]:
    crash = bundle.crash
    return (
        bundle.id,
        bundle.machine,
        str(crash.get("id", "?")),
        str(crash.get("epoch", "?")),
        f"{crash.get('lived', 0):.2f} s",
        str(crash.get("in_flight_count", "?")),
        str(crash.get("what", "crash.json cannot be read")),
        str(crash.get("outcome", "")),
    )


def _in_full(bundle: Bundle) -> str:
    crash = bundle.crash
    if not crash:
        return f"{bundle.path}: crash.json cannot be read"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(crash["time"]))
    device = crash["device"]
    behind = device["backend"] or device["device"]
    lived = f"epoch {crash['epoch']}, after {crash['lived']:.2f} s"
    lines = [
        f"{crash['id']} of {bundle.machine} {crash['what']}, {when} ({lived})",
        f"  reason     {crash['reason'] or crash['what']}",
        f"  then       {crash['outcome']}",
        f"  behind it  {behind}",
        f"  bundle     {bundle.path}",
    ]
    lines += _requests(crash)
    if "request.msgpack" in bundle.files():
        request = load_request(bundle.path / "request.msgpack")
        lines += ["", f"saved: queue {request['queue']} head {request['head']} (request.msgpack), its bytes begin"]
        lines += [f"  {request['readable'][:32].hex(' ')}"]
    log = bundle.text("log.txt").splitlines()[-LOG_LINES:]
    return "\n".join([*lines, "", "the end of its log:", *(f"  {line}" for line in log)])


def _requests(crash: dict[str, Any]) -> list[str]:
    flights = crash.get("in_flight", [])
    if not crash.get("in_flight_count"):
        return ["", "nothing was in flight"]
    condemned = {(flight["queue"], flight["counter"]) for flight in crash.get("condemned", [])}
    alone = {(flight["queue"], flight["counter"]) for flight in crash.get("carried_out_alone", [])}
    lines = ["", f"in flight ({crash['in_flight_count']}):"]
    for flight in flights:
        key = (flight["queue"], flight["counter"])
        asks = f"{flight['op']} sector {flight['sector']} length {flight['length']}" if "op" in flight else ""
        what = asks or f"{flight['readable']} bytes in, {flight['writable']} out, begins {flight['first']}"
        mark = "  condemned" if key in condemned else "  carried out alone" if key in alone else ""
        lines.append(f"  queue {flight['queue']} head {flight['head']:<4} counter {flight['counter']:<6} {what}{mark}")
    return lines
