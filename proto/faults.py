"""Rules that stop or change a device's requests: what they match, which of the matches they take, what becomes of them.

A `Rule` is plain data: a command line, a TOML file, the keeper and START packets all carry it as a map. `Rule.parse`
checks one, wherever it comes from. A device process applies it (`devproc.breaks`).

Which of its matches a rule takes is computed from the match's number alone (`Rule.takes`), so that the same driver sees
the same faults again. The numbers live in a `Tally`, in a segment that the keeper holds for the device: they outlive
the process, and a request that comes again after a kill is judged as it was the first time. Behind them in the segment
is room for what a device holds that is in nobody's ring (`proto.room`).
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proto.errors import ConfigError
from proto.filters import Filter, parse
from proto.room import ROOM_SIZE
from proto.suggest import did_you_mean

__all__ = [
    "ACTIONS",
    "FIELDS",
    "RULES_MAX",
    "RULES_SIZE",
    "STAGES",
    "TALLY_SIZE",
    "Rule",
    "Tally",
    "parse_action",
    "parse_change",
]

RULES_MAX = 16  # of one device
JUDGED = 1024  # matches of one rule that are remembered with what was decided
STAGES = {"pop": "before the device sees the request", "complete": "before the driver gets it back"}
ACTIONS = {
    "hold": "it waits for `step`, `go`, `drop`, `fail` or `change`",
    "fail": "it is answered with the device's I/O error; with --after pop nothing is carried out",
    "drop": "it is answered with success, and nothing is carried out",
    "delay": "it waits so long, then goes on",
    "set": "bytes of it are changed: of what the device reads, or (before complete) of what the driver reads",
}
FIELDS = {
    "op": "READ, WRITE, FLUSH, SEND, LOOKUP, …; MALFORMED; REQUEST where the device has no words",
    "queue": "number of the virtqueue",
    "head": "first descriptor",
    "id": "number of the request, as in the trace",
    "readable": "bytes that the driver sends",
    "writable": "bytes that the driver has room for",
    "first": "the first 16 bytes that the driver sends, in hexadecimal",
    "again": "1: a process before had taken it already",
    "bytes": "of data",
    "sector": "of a disk request",
    "sectors": "of a disk request",
    "dst": "of a frame",
    "src": "of a frame",
    "protocol": "of a frame",
    "tag": "of a 9p request",
    "fid": "of a 9p request",
    "unique": "of a FUSE request",
    "status": "OK, or what went wrong; only before complete",
    "written": "bytes of the answer; only before complete",
}
_WORD = struct.Struct("<Q")
_SLOT = 16 + 16 * JUDGED  # matched, taken, and pairs of (request + 1, taken)
TALLY_SIZE = RULES_MAX * _SLOT
RULES_SIZE = TALLY_SIZE + ROOM_SIZE  # of the segment
_CHANGE = re.compile(r"([0-9a-fA-F]{2}(?:[0-9a-fA-F]{2})*)@(-?(?:0[xX][0-9a-fA-F]+|\d+))")
_NUMBERS = {"skip": 0, "every": 1, "count": 0, "seed": 0}
_LIMIT = 1 << 48


@dataclass(frozen=True)
class Rule:
    """One rule of one device."""

    device: str
    match: str = ""  # a filter over FIELDS; empty: every request
    at: str = "pop"  # of STAGES
    action: str = "hold"  # of ACTIONS
    delay: float = 0.0  # seconds
    data: bytes = b""  # of set
    offset: int = 0  # where; negative: from the end
    skip: int = 0  # matches that pass first
    every: int = 1  # of those that follow: each so manieth is taken
    count: int = 0  # so many are taken at most; 0: any number
    probability: float = 1.0  # with which a match is taken that would be
    seed: int = 0  # of the probability
    slot: int = 0  # of the tally; the keeper's to choose

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Rule:
        """A rule of plain values. `action` may be as typed (`delay=200ms`). Raises ConfigError."""
        before = f"{where}: " if where else ""
        known = list(cls.__dataclass_fields__)
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"{before}no key {name}{did_you_mean(name, known)}", hint=f"Keys: {', '.join(known)}."
                )
        rule = dict(values)
        for name, kind in (("device", str), ("match", str), ("at", str), ("action", str), ("data", bytes)):
            if name in rule and not isinstance(rule[name], kind):
                raise ConfigError(f"{before}{name} = {rule[name]!r}: expected {'text' if kind is str else 'bytes'}")
        if not rule.get("device"):
            raise ConfigError(f"{before}it does not say of which device", hint='For example: device = "blk0"')
        if "=" in rule.get("action", "") or " " in rule.get("action", ""):
            rule |= parse_action(rule["action"])
        for name, least in (*_NUMBERS.items(), ("offset", -_LIMIT), ("slot", 0)):
            value = rule.get(name, max(least, 0))
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LIMIT:
                raise ConfigError(f"{before}{name} = {value!r}: expected a number, at least {least}")
        for name, most in (("delay", 86400.0), ("probability", 1.0)):
            value = rule.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise ConfigError(f"{before}{name} = {value!r}: expected a number from 0 to {most:g}")
        return cls(**rule)._checked(before)

    def _checked(self, before: str) -> Rule:
        for name, value, known in (("at", self.at, STAGES), ("action", self.action, ACTIONS)):
            if value not in known:
                raise ConfigError(
                    f"{before}{name} {value}: expected {', '.join(known)}{did_you_mean(value, known)}",
                    hint="delay takes a time (delay=200ms), set takes bytes and a place (set ff00@8).",
                )
        if self.action == "delay" and not self.delay:
            raise ConfigError(f"{before}delay of how long?", hint="For example: delay=200ms")
        if self.action == "set" and not self.data:
            raise ConfigError(f"{before}set which bytes?", hint="For example: set ff00@8")
        if self.action == "drop" and self.at == "complete":
            raise ConfigError(
                f"{before}a request cannot be dropped when it has been carried out",
                hint="Drop it after pop, or fail it.",
            )
        if not 0 <= self.slot < RULES_MAX:
            raise ConfigError(f"{before}slot {self.slot}: there are {RULES_MAX}")
        try:
            self.filter()
        except ConfigError as error:
            raise ConfigError(f"{before}{error.message}", hint=error.hint) from error
        return self

    def filter(self) -> Filter | None:
        """What it matches; None: everything. Raises ConfigError."""
        return parse(self.match, FIELDS) if self.match.strip() else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a packet."""
        return asdict(self)

    def takes(self, number: int, taken: int) -> bool:
        """Is match `number` (from 0) one that the rule takes, having taken so many before?"""
        after = number - self.skip
        if after < 0 or (after + 1) % max(1, self.every) or (self.count and taken >= self.count):
            return False
        return self.probability >= 1 or random.Random(f"{self.seed}:{number}").random() < self.probability

    def act(self) -> str:
        """The action, as typed."""
        if self.action == "delay":
            return f"delay={self.delay * 1000:g}ms"
        return f"set {self.data.hex()}@{self.offset}" if self.action == "set" else self.action

    def describe(self) -> str:
        """One line for people: what, when, which of them, and then?"""
        words = [self.match or "every request", f"{'after' if self.at == 'pop' else 'before'} {self.at}"]
        for name in ("skip", "every", "count", "probability", "seed"):
            value = getattr(self, name)
            if value != Rule.__dataclass_fields__[name].default:
                words.append(f"{name} {value:g}")
        return f"{' · '.join(words)} → {self.act()}"


class Tally:
    """How often each rule of a device has matched and taken, in memory that outlives the process. One writer."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def counts(self, slot: int) -> tuple[int, int]:
        """(matched, taken)."""
        return self._get(slot * _SLOT), self._get(slot * _SLOT + 8)

    def clear(self, slot: int) -> None:
        """Begin to count anew."""
        self._view[slot * _SLOT : (slot + 1) * _SLOT] = bytes(_SLOT)

    def judge(self, rule: Rule, key: int, again: bool) -> bool:
        """The rule matches a request: does it take it? `key` names the request; one that comes `again` is judged as it
        was before, if that is still known, and not counted twice."""
        base = rule.slot * _SLOT
        matched, taken = self.counts(rule.slot)
        if again:
            for number in range(matched - 1, max(-1, matched - 1 - JUDGED), -1):
                at = base + 16 + 16 * (number % JUDGED)
                if self._get(at) == key + 1:
                    return bool(self._get(at + 8))
        decision = rule.takes(matched, taken)
        at = base + 16 + 16 * (matched % JUDGED)
        self._put(at, key + 1)
        self._put(at + 8, int(decision))
        self._put(base + 8, taken + int(decision))
        self._put(base, matched + 1)
        return decision

    def _get(self, at: int) -> int:
        value: int = _WORD.unpack_from(self._view, at)[0]
        return value

    def _put(self, at: int, value: int) -> None:
        _WORD.pack_into(self._view, at, value)


def parse_action(text: str) -> dict[str, Any]:
    """hold, fail, drop, delay=200ms, or set BYTES@OFFSET, as fields of a rule. Raises ConfigError."""
    name, value = ([*re.split(r"[= ]\s*", text.strip(), maxsplit=1), ""])[:2]
    if name == "delay":
        return {"action": name, "delay": _seconds(value)}
    if name == "set":
        data, offset = parse_change(value)
        return {"action": name, "data": data, "offset": offset}
    if value and name in ACTIONS:
        raise ConfigError(f"action {name} takes nothing behind it: {value}", hint="See: bulkhead break --help")
    return {"action": name}


def parse_change(text: str) -> tuple[bytes, int]:
    """BYTES@OFFSET: hexadecimal digits and a place, negative from the end. Raises ConfigError."""
    found = _CHANGE.fullmatch(text.strip().replace(" ", ""))
    if found is None:
        raise ConfigError(
            f"set {text}: expected BYTES@OFFSET", hint="For example: set 00ff@8, or set 01@-1 (the last byte)"
        )
    return bytes.fromhex(found[1]), int(found[2], 0)


def _seconds(text: str) -> float:
    """A time with a unit; a bare number is milliseconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|µs|ms|s|)", text.strip())
    if found is None:
        raise ConfigError(f"delay={text}: expected a time", hint="For example: delay=200ms, delay=1.5s")
    return float(found[1]) * {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0}[found[2]]
