"""`bulkhead queue`: a device's rings and the requests in them, and what is wrong with them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from devproc.tellers import amount
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import machine_arguments, reach, request
from proto.virtio import DESC_F_INDIRECT, DESC_F_WRITE

__all__ = ["add_arguments", "lines", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("id", metavar="ID", help="the device: blk0, net0, …")
    parser.add_argument("--descriptors", action="store_true", help="show the descriptors of each request, too")
    parser.add_argument("--json", action="store_true", help="for programs")
    machine_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    with reach(arguments) as line:
        seen = request(line, "QUEUE", id=arguments.id)
    if arguments.json:
        print(json.dumps(seen, indent=2))
    else:
        for text, wrong in lines(seen, descriptors=arguments.descriptors):
            print(show.paint(text, "red", sys.stdout) if wrong else text)
    return ExitCode.OK


def lines(seen: dict[str, Any], *, descriptors: bool = False) -> list[tuple[str, bool]]:
    """(line, whether it tells of something wrong)."""
    who = f"{seen['pid']}, epoch {seen['epoch']}" if seen["pid"] else f"no process, epoch {seen['epoch']}"
    reason = f": {seen['reason']}" if seen["reason"] else ""
    found = [(f"{seen['id']} ({who}) {seen['state']}{reason}", seen["state"] not in ("running", "debugged"))]
    if not seen["queues"]:
        found.append(("no queues: the driver has set none up", False))
    for queue in seen["queues"]:
        found.append((_head(queue), False))
        found += [(f"  wrong: {text}", True) for text in queue["wrong"] if not text.startswith("head ")]
        for row in queue["requests"]:
            found.append((f"  {_request(row)}", "wrong" in row))
            if descriptors:
                found += [(f"    {_descriptor(entry)}", False) for entry in row["descriptors"]]
        if queue["more"] > 0:
            passive = not queue["requests"] and queue["waiting"]
            found.append((f"  {queue['more']} {'buffers wait to be filled' if passive else 'more'}", False))
        if not queue["wrong"]:
            found.append(("  nothing is wrong with it", False))
    return found


def _head(queue: dict[str, Any]) -> str:
    words = [f"queue {queue['index']}", f"size {queue['size']}"]
    if "avail_idx" in queue:
        words.append(f"avail {queue['avail_idx']} used {queue['used_idx']}")
        words.append(f"{queue['in_flight']} in flight, {queue['waiting']} waiting")
    if queue["event_idx"] and "used_event" in queue:
        words.append(f"event-idx: used_event {queue['used_event']} avail_event {queue['avail_event']}")
    for name, text in (("no_interrupt", "no interrupts wanted"), ("no_notify", "no notifications wanted")):
        if queue.get(name) and not queue["event_idx"]:
            words.append(text)
    words.append(f"{queue['completed']} completed, {queue['errors']} failed, {queue['malformed']} malformed")
    return " · ".join(words)


def _request(row: dict[str, Any]) -> str:
    parts = [f"head {row['head']:<4}"]
    parts.append(f"#{row['counter']:<7}" if "counter" in row else " " * 8)
    parts.append(_asks(row))
    if row["state"] == "waiting":
        parts.append("waiting")
    else:
        parts.append(f"{row['state']}{' at ' + row['held'] if 'held' in row else ''}")
        if "for" in row:
            parts.append(f"for {_age(row['for'])}")
    if "wrong" in row:
        parts.append(f"← {row['wrong']}; the driver is at fault")
    return "  ".join(parts).rstrip()


def _asks(row: dict[str, Any]) -> str:
    if "op" in row:
        op = {"IN": "READ", "OUT": "WRITE"}.get(row["op"], row["op"])
        return f"{op} sector {row['sector']} {amount(row['length'])}" if op in ("READ", "WRITE") else str(op)
    return f"{amount(row['readable'])} in, {amount(row['writable'])} out"


def _age(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _descriptor(entry: dict[str, Any]) -> str:
    flags = entry["flags"]
    kind = "indirect" if flags & DESC_F_INDIRECT else "device writes" if flags & DESC_F_WRITE else "device reads"
    following = f" → {entry['next']}" if flags & 1 else ""
    return f"[{entry['index']}] {entry['address']:#x} + {entry['length']} {kind}{following}"
