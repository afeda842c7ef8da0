"""What the keeper believes of a packet that a process other than the core sent: that it has these fields, of these
types, and not too many lines for a log.

A device may be wrong, or worse. A packet that is not of its kind ends the process that sent it: what follows cannot be
trusted either. Lines beyond the limit are counted, and the next one that is written says how many there were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proto.errors import ProtocolError
from proto.throttle import Throttle

__all__ = ["LONGEST_LINE", "check", "line_of", "log_throttle", "report_of"]

LOG_RATE, LOG_BURST = 100, 1000  # lines a second, and at once
LONGEST_LINE = 4000  # characters
LONGEST_REPORT = 16384  # of a sandbox, as JSON
FIELDS: dict[str, dict[str, type]] = {
    "STATE": {"state": str, "away": bool},
    "LOG": {"text": str, "id": str},
    "FAILED": {"error": str, "hint": str},
    "UNSTORE": {"names": list},
    "HELD": {"held": list, "more": int, "rules": int},
}


def check(kind: str, body: Mapping[str, Any]) -> None:
    """Raises ProtocolError when a field that is there is of another type, or is too long."""
    for name, type in FIELDS.get(kind, {}).items():
        value = body.get(name)
        if value is not None and not isinstance(value, type):
            raise ProtocolError(f"{kind} with {name} that is no {type.__name__}", field=name)


def log_throttle() -> Throttle:
    """For one process's lines."""
    return Throttle(LOG_RATE, LOG_BURST)


def line_of(text: str, throttle: Throttle) -> str | None:
    """What is written of a line; None when there were too many."""
    refused = throttle.refused
    if not throttle.allow():
        return None
    if refused:
        throttle.take_refused()
    before = f"({refused} lines were too many) " if refused else ""
    return (before + text)[:LONGEST_LINE]


def report_of(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a process says of its sandbox, if that is what it looks like; nothing depends on it."""
    report = body.get("sandbox")
    try:
        if isinstance(report, dict) and len(json.dumps(report)) <= LONGEST_REPORT:
            return {**report, "in_force": dict(report["in_force"]), "missing": dict(report["missing"])}
    except (TypeError, ValueError, KeyError):
        pass
    return None
