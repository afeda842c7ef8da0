"""Rules for a device's requests, and what becomes of those that are held: the steps behind `bulkhead break` and its
kin, and behind the commands of QMP that do the same.

Each takes a connection to the machine, and returns when what it ordered is in force. Raises ConfigError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from launcher.control import Line, request
from proto.errors import ConfigError
from proto.faults import Rule

__all__ = ["ALL", "FIRST", "add", "clear", "order"]

DEADLINE = 10.0  # seconds until an order must be in force
PERIOD = 0.005  # seconds between two looks whether it is
FIRST, ALL = "first", "all"  # in the place of a request's number


def add(line: Line, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """These from now on. Returns how they are listed."""
    added = request(line, "BREAK", rules=[rule.as_dict() for rule in rules])["rules"]
    keys = {(row["device"], row["number"]) for row in added}

    def mine(seen: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in seen["rules"] if (row["device"], row["number"]) in keys]

    return mine(_await(line, lambda seen: all(row["in_force"] for row in mine(seen)), "the rules"))


def clear(line: Line, id: str = "", number: int | None = None) -> int:
    """Forget a rule, those of a device, or all; what they held goes on. Returns how many there were."""
    removed: int = request(line, "BREAK_CLEAR", id=id, number=number)["removed"]
    _await(line, lambda seen: all(row["in_force"] for row in seen["rules"]), "the rules")
    return removed


def order(line: Line, id: str, then: str, wanted: str, **more: Any) -> list[list[int]]:
    """Have requests that a device holds go, drop, fail or change. `wanted` is a number, QUEUE:NUMBER, FIRST or ALL.
    Returns [queue, number] of each."""
    rows = [row for row in request(line, "BREAKS")["held"] if row["device"] == id]
    keys = _keys(id, rows, wanted)
    since = {(row["queue"], row["number"], row["at"]): row["since"] for row in rows}
    request(line, "HOLD", id=id, then=then, keys=keys, **more)

    def gone(seen: dict[str, Any]) -> bool:
        """Not held any more, or held anew: at its completion, or by another rule."""
        left = [row for row in seen["held"] if row["device"] == id]
        return not any(
            [row["queue"], row["number"]] in keys
            and since.get((row["queue"], row["number"], row["at"])) == row["since"]
            for row in left
        )

    _await(line, gone, f"{then} of {id}")
    return keys


def _keys(id: str, rows: list[dict[str, Any]], wanted: str) -> list[list[int]]:
    """[queue, number] of the requests meant. Raises ConfigError."""
    keys = [[row["queue"], row["number"]] for row in rows]
    if wanted == FIRST:
        keys = keys[:1]
    elif wanted != ALL:
        queue, _, number = wanted.lstrip("#").rpartition(":")
        if not number.isdecimal() or (queue and not queue.isdecimal()):
            raise ConfigError(f"{wanted} is no request", hint=f"Its number, as `bulkhead held {id}` shows it, or all.")
        keys = [key for key in keys if key[1] == int(number) and queue in ("", str(key[0]))]
        if len(keys) > 1:
            raise ConfigError(
                f"request {number} is held in queues {', '.join(str(key[0]) for key in keys)}",
                hint=f"Say which: {keys[0][0]}:{number}",
            )
    if not keys:
        what = "no request" if wanted in (ALL, FIRST) else f"no request {wanted}"
        raise ConfigError(f"{id} holds {what}", hint="See: bulkhead held")
    return keys


def _await(line: Line, done: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """BREAKS once it is as wanted. Raises ConfigError when that takes too long."""
    deadline = time.monotonic() + DEADLINE
    while True:
        seen = request(line, "BREAKS")
        if done(seen):
            return seen
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{what}: not in force after {DEADLINE:.0f} s", hint="The device's process does not serve: bulkhead ps"
            )
        time.sleep(PERIOD)
