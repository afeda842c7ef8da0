"""Rules in a device process (`proto.faults`): which requests are stopped or changed, those that are held, and what is
done with them in the end.

While there are rules every request comes by the readable path (`devproc.queues`), and is judged after it was taken and
before it is given back. A request that is held is *parked*: the loop goes on, so that nothing hangs; a successor of the
process is handed it again, and judges it again; when the driver resets the device it is forgotten. In a queue that is
served in order nothing is taken while one of its requests is held. What has arrived and is in no ring yet is judged in
the same way by the device that reads it (`devproc.net.arrivals`), and kept in the `room` meanwhile.

Promises: without rules nothing of this is on any request's way but one test. Does not: keep rules, or counts; they are
the keeper's.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from devproc.device import VirtioDevice
from devproc.refusal import accept
from devproc.request import Request
from native.memory import Area
from proto.errors import BackendError
from proto.faults import RULES_SIZE, TALLY_SIZE, Rule, Tally
from proto.filters import Filter
from proto.trace import DATA_BYTES

__all__ = ["Breaks", "Held"]

REPORTED = 256  # held requests that the keeper is told of; the others are counted
_QUEUE_SHIFT = 56  # of a request's key


@dataclass
class Held:
    """A request that waits."""

    request: Request
    rule: Rule
    at: str
    fields: dict[str, Any]
    since: float
    due: float = 0.0  # when it goes on by itself; 0: never
    then: str = "go"  # what becomes of it

    @property
    def key(self) -> tuple[int, int]:
        """(queue, number)."""
        return self.request.queue, self.request.number

    def as_dict(self) -> dict[str, Any]:
        """For the keeper."""
        request = self.request
        return {
            "queue": request.queue,
            "number": request.number,
            "head": request.head,
            "at": self.at,
            "rule": self.rule.slot,
            "op": str(self.fields.get("op", "")),
            "words": str(self.fields.get("words", "")),
            "since": self.since,
            "due": self.due,
        }


class Breaks:
    """The rules of one device, and the requests that they hold."""

    def __init__(self, device: VirtioDevice, kind: str) -> None:
        self.active = False
        self.changed = False  # the keeper does not know yet
        self._device = device
        self._kind = kind
        self._rules: dict[str, list[tuple[Rule, Filter | None]]] = {"pop": [], "complete": []}
        self._tally: Tally | None = None
        self.room: memoryview | None = None  # for what a device holds that is in no ring (`proto.room`)
        self._held: dict[tuple[int, int], Held] = {}

    def set_rules(self, rules: Sequence[dict[str, Any]], fd: int | None) -> None:
        """These from now on; `fd` is the segment of their tally, which stays the caller's. Requests held by rules that
        are no more go on."""
        if fd is not None and self._tally is None:
            self._area = Area.map_fd(fd, RULES_SIZE, shared=True, live_peer=True)
            self._tally = Tally(self._area.view()[:TALLY_SIZE])
            self.room = self._area.view()[TALLY_SIZE:]
        parsed = [Rule.parse(rule) for rule in rules]
        for at in self._rules:
            self._rules[at] = [(rule, rule.filter()) for rule in parsed if rule.at == at]
        self.active = bool(parsed) and self._tally is not None
        self.changed = True  # the keeper is told that they are in force
        left = {rule.slot for rule in parsed}
        self.release([held for held in self._held.values() if held.rule.slot not in left], "go")

    def rule(self, slot: int) -> Rule | None:
        """The rule of this number, if there is one."""
        return next((rule for rules in self._rules.values() for rule, _ in rules if rule.slot == slot), None)

    @property
    def watched(self) -> bool:
        """Is there anything to be done from time to time?"""
        return self.changed or bool(self._held)

    # -- judging ---------------------------------------------------------------------------------------------------

    def judge(self, at: str, request: Request, first_at: int) -> tuple[Rule, dict[str, Any]] | None:
        """The rule that takes a request now, and what the request is. The first one that takes it counts; those behind
        it are not asked. `first_at`: where its telling bytes begin."""
        rules = self._rules[at]
        if not rules or self._tally is None:
            return None
        fields = self.tell(at, request, first_at)
        key = request.queue << _QUEUE_SHIFT | request.number
        for rule, filter in rules:
            if (filter is None or filter.matches(fields)) and self._tally.judge(rule, key, request.again):
                return rule, fields
        return None

    def tell(self, at: str, request: Request, first_at: int) -> dict[str, Any]:
        """What there is to say of a request: FIELDS of `proto.faults`, and `words`."""
        from devproc.tellers import tell_fields  # only where there are rules

        there = request.written if at == "complete" or request.arrived else 0
        answer = _bytes(request.views, there, first_at)
        first = answer if request.arrived else _bytes(request.views_readable, request.readable, first_at)
        asked = {
            "queue": request.queue,
            "head": request.head,
            "id": request.number,
            "readable": request.readable,
            "writable": request.writable,
            "again": int(request.again),
            "error": request.error,
            "first": first,
        }
        answered = {"status": int(request.failed), "written": request.written, "first": answer}
        fields = {**asked, **tell_fields(self._kind, asked, answered), "first": first.hex()}
        if at == "pop":
            fields.pop("status", None)
        else:
            fields["written"] = request.written
        return fields

    # -- holding ---------------------------------------------------------------------------------------------------

    def hold(self, request: Request, rule: Rule, at: str, fields: dict[str, Any]) -> Held:
        """Remember a request that the caller has parked."""
        now = time.monotonic()
        return self.remember(Held(request, rule, at, fields, now, now + rule.delay if rule.action == "delay" else 0.0))

    def remember(self, held: Held) -> Held:
        """This one is held from now on, perhaps as it was by a predecessor."""
        self._held[held.key] = held
        self.changed = True
        return held

    def of_queue(self, queue: int) -> list[Held]:
        """Those of one queue that wait."""
        return [held for held in self._held.values() if held.request.queue == queue]

    def patience(self, longest: float) -> float:
        """Seconds until something is to be done here, at most `longest`."""
        due = [held.due for held in self._held.values() if held.due]
        return max(0.0, min(longest, min(due) - time.monotonic())) if due else longest

    def tick(self) -> None:
        """Let go what has waited long enough."""
        if self._held:
            now = time.monotonic()
            self.release([held for held in self._held.values() if held.due and held.due <= now], "go")

    def order(self, body: dict[str, Any]) -> None:
        """HELD {then, keys, data, offset}: the keeper says what becomes of some requests; those that are not held are
        left alone."""
        held = [found for key in body["keys"] if (found := self._held.get((key[0], key[1]))) is not None]
        if body["then"] == "change":
            for one in held:
                change(one.request, one.at, body["data"], body["offset"])
        self.release(held, str(body["then"]))

    def release(self, held: Sequence[Held], then: str) -> None:
        """Each goes on, in the order in which it was stopped."""
        for one in held:
            one.then = then
            one.due = 0.0
            self.changed = True
            one.request.finish()

    def gone(self, held: Held) -> None:
        """It is held no longer."""
        self._held.pop(held.key, None)
        self.changed = True

    def forget(self) -> None:
        """RESET: nothing is in flight any more."""
        self.changed = self.changed or bool(self._held)
        self._held.clear()

    def report(self) -> dict[str, Any]:
        """HELD, for the keeper."""
        self.changed = False
        rows = [held.as_dict() for held in self._held.values()]
        rules = sum(map(len, self._rules.values()))
        return {"rules": rules, "held": rows[:REPORTED], "more": max(0, len(rows) - REPORTED)}

    # -- what becomes of a request ---------------------------------------------------------------------------------

    def fail(self, request: Request) -> None:
        """Answer it with the device's I/O error."""
        self._device.failed(request, BackendError("failed by a rule", errno=errno.EIO))
        request.failed = True
        request.deferred = request.parked = False

    def drop(self, request: Request) -> None:
        """Answer it as if it had been carried out."""
        accept(int(self._device.device_id), request)
        request.deferred = request.parked = False


def change(request: Request, at: str, data: bytes, offset: int) -> None:
    """Put `data` over what the device reads of a request (a copy: the guest's memory stays as it is), or, before it is
    given back and of what has arrived, over what the driver reads of it. What does not fit is cut off."""
    answer = at == "complete" or request.arrived
    size = request.writable if answer else request.readable
    start = offset if offset >= 0 else size + offset
    if not 0 <= start < size:
        return
    data = data[: size - start]
    if answer:
        written = request.written
        request.write_at(start, data)
        request.written = max(written, start + len(data))
        return
    whole = bytearray(b"".join(request.views_readable(0, size)))
    whole[start : start + len(data)] = data
    request.replace_readable(bytes(whole))


def _bytes(views: Callable[[int, int], list[memoryview]], size: int, start: int) -> bytes:
    """The telling bytes, filled up with zeroes."""
    part = max(0, min(DATA_BYTES, size - start))
    return b"".join(views(start, part)).ljust(DATA_BYTES, b"\0") if part else bytes(DATA_BYTES)
