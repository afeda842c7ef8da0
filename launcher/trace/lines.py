"""A telling as a line for people, and as JSON.

12:01:07.332 118  blk0 #48211  WRITE  sector 2048  8 KiB   notify → pop 6 µs · pwritev 1.9 ms · used → irq 4 µs  OK  1.92 ms
"""  # noqa: E501 - it is that wide

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from launcher.cli import show
from launcher.trace.summary import duration

__all__ = ["as_json", "as_line"]

OWN = ("ended", "words", "call")  # of the telling, not of the record


def as_line(telling: Mapping[str, Any], *, machines: bool = False) -> str:
    """One line; with `machines` it begins with the machine's name."""
    name = f"{telling['machine']}/{telling['device']}" if machines else telling["device"]
    when = _clock(telling["time"])
    if telling["type"] != "request":
        return f"{when}  {name}  {show.paint(telling['text'], 'dim', sys.stdout)}"
    good = telling["status"] == "OK"
    status = telling["status"] if good else show.paint(telling["status"], "red", sys.stdout)
    words = f"{telling['op']:<5}  {telling['words']}".rstrip()
    again = "  again" if telling["again"] else ""
    middle = f"{name} #{telling['id']}  {words}{again}"
    return f"{when}  {middle:<48}  {_path(telling)}  {status}  {duration(telling['latency'])}"


def _path(telling: Mapping[str, Any]) -> str:
    """Where its time went."""
    steps = []
    if telling["wait"] is not None:
        steps.append(f"notify → pop {duration(telling['wait'])}")
    if telling["backend"] is not None:
        steps.append(f"{telling['call']} {duration(telling['backend'])}")
    else:
        steps.append(f"{telling['call'] or 'served'} {duration(telling['served'])}")
    if telling["irq"] is not None:
        steps.append(f"used → irq {duration(telling['irq'])}")
    return " · ".join(steps)


def _clock(seconds: float) -> str:
    whole, rest = divmod(seconds, 1)
    micro = int(rest * 1e6)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{micro // 1000:03} {micro % 1000:03}"


def as_json(telling: Mapping[str, Any]) -> str:
    """One line of JSON: the fields of docs/trace.md, those that there are; bytes as hexadecimal digits."""
    fields = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in telling.items()
        if value is not None and name not in OWN
    }
    return json.dumps(fields)
