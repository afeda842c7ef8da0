"""From records to requests: what core and device wrote of one request is put together under its id.

`Follower` takes records of all rings of one machine in any order, and gives tellings, oldest first: a dict for each
request, with the times from notify to interrupt, and one for each event that is no request (a register access, a
message, a death). Everything is joined by what the records say, nothing by guesses (proto/trace.py, "One request, one
id"): what was overwritten before it was read is missing from the telling, not made up.

Times are in seconds; `time` is the wall clock of the viewer. A request is told once its interrupt was raised, or
LINGER after it was given back, for drivers that want none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from devproc.tellers import tell
from proto.messages import MESSAGES
from proto.trace import NO_QUEUE, TracePoint, TraceRecord

__all__ = ["EVENTS", "FIELDS", "Follower"]

HOLD = 20_000_000  # ns that records wait for those of other rings, to be told in order
LINGER = 20_000_000  # ns that a request waits for its interrupt
MAX_PENDING = 1 << 14  # requests taken and not given back, of one device
EVENTS = {  # trace points that are told as they are, with the type under which a filter finds them
    TracePoint.NOTIFY: "notify",
    TracePoint.CALL: "call",
    TracePoint.INTERRUPT: "interrupt",
    TracePoint.MMIO_READ: "mmio",
    TracePoint.MMIO_WRITE: "mmio",
    TracePoint.MESSAGE_IN: "message",
    TracePoint.MESSAGE_OUT: "message",
    TracePoint.SESSION: "session",
    TracePoint.STARTED: "process",
    TracePoint.ENDED: "process",
    TracePoint.CONSOLE_IN: "console",
    TracePoint.CONSOLE_OUT: "console",
}
FIELDS = {
    "time": "seconds since 1970, when it began",
    "machine": "the machine's name",
    "device": "the device, or core, or keeper",
    "kind": "what it is: blk, net, 9p, virtiofs, rng, …",
    "type": "request, process, session, console, mmio, message, notify, call or interrupt",
    "op": "READ, WRITE, SEND, LOOKUP, …",
    "status": "OK, or what went wrong",
    "latency": "from the notify (or the pop, if there was none) to the interrupt (or to being given back)",
    "queue": "number of the virtqueue",
    "head": "first descriptor",
    "id": "of the request, or of the message",
    "bytes": "of data",
    "sector": "of a disk request",
    "sectors": "of a disk request",
    "wait": "from notify to pop",
    "served": "from pop to done",
    "backend": "in the backend's calls, where the device tells them",
    "irq": "from being given back to the interrupt",
    "pc": "of the guest's instruction",
    "hart": "that notified",
    "again": "1: a process before had taken it already",
    "dst": "of a frame",
    "src": "of a frame",
    "protocol": "of a frame",
    "tag": "of a 9p request",
    "fid": "of a 9p request",
    "unique": "of a FUSE request",
    "epoch": "which life of a process",
    "pid": "of a process",
    "offset": "of a register",
    "value": "of a register",
    "calls": "the device's count of calls",
    "position": "in a ring",
    "text": "of an event",
}


@dataclass
class Pending:
    """A request on its way."""

    pop: TraceRecord
    notified: tuple[int, int, int] | None = None  # time, pc, hart
    first: int = 0  # when a process took it first
    done: TraceRecord | None = None
    used: int = 0  # when
    calls: int | None = None  # the device's count of calls when it called for this one
    interrupted: int = 0  # when
    backend: int = 0  # ns in calls of the backend
    call: str = ""


class _Queue:
    """What is known of one virtqueue."""

    def __init__(self) -> None:
        self.notes: deque[tuple[int, int, int, int]] = deque(maxlen=4096)  # avail.idx, time, pc, hart
        self.pending: dict[int, Pending] = {}
        self.given: list[Pending] = []  # done, not yet visible in used.idx
        self.used: list[Pending] = []  # visible, waiting for their interrupt

    def note_of(self, pop: TraceRecord) -> tuple[int, int, int] | None:
        """The notification that covers a pop; older ones are forgotten."""
        while self.notes and (self.notes[0][0] - pop.position - 1) & 0xFFFF >= 0x8000:
            self.notes.popleft()
        if self.notes and self.notes[0][1] <= pop.time:
            return self.notes[0][1:]
        return None


class Follower:
    """Puts the records of one machine together."""

    def __init__(self, machine: str, rings: Iterable[Mapping[str, Any]], wall: Callable[[int], float]) -> None:
        """`rings` as TRACE tells them; `wall` makes the viewer's wall clock of the machine's CLOCK_MONOTONIC."""
        self._machine = machine
        self._wall = wall
        self._waiting: list[tuple[int, str, TraceRecord]] = []
        self._queues: dict[tuple[str, int], _Queue] = {}
        self._told: list[dict[str, Any]] = []
        self._kinds: dict[str, str] = {}
        self._by_slot: dict[int, str] = {}
        self.describe(rings)

    def describe(self, rings: Iterable[Mapping[str, Any]]) -> None:
        """Whose rings there are now."""
        for ring in rings:
            self._kinds[ring["id"]] = ring["device"] or ring["role"]
            if ring["slot"] is not None:
                self._by_slot[ring["slot"]] = ring["id"]

    def feed(self, ring: str, records: Iterable[TraceRecord]) -> None:
        """Records of one ring, oldest first."""
        self._waiting += [(record.time, ring, record) for record in records]

    def settle(self, now: int | None = None) -> list[dict[str, Any]]:
        """What can be told at `now` (the machine's CLOCK_MONOTONIC); everything that is there if that is None."""
        self._waiting.sort(key=lambda entry: entry[0])
        until = None if now is None else now - HOLD
        count = len(self._waiting)
        if until is not None:
            count = next((at for at, entry in enumerate(self._waiting) if entry[0] > until), count)
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, ring, record in ready:
            self._take(ring, record)
        for (ring, _), queue in self._queues.items():
            late = [entry for entry in queue.used if until is None or entry.used + LINGER < until]
            self._tell_all(ring, queue, late)
        told, self._told = self._told, []
        return sorted(told, key=lambda telling: telling["ended"])

    # -- one record ------------------------------------------------------------------------------------------------

    def _take(self, ring: str, record: TraceRecord) -> None:
        handler = self._HANDLERS.get(record.point)
        if handler is not None:
            handler(self, ring, record)
        kind = EVENTS.get(record.point)  # type: ignore[call-overload]
        if kind is not None:
            self._event(ring, record, kind)

    def _queue(self, ring: str, number: int) -> _Queue:
        return self._queues.setdefault((ring, number), _Queue())

    def _notify(self, ring: str, record: TraceRecord) -> None:
        device = self._by_slot.get(record.head)
        if device is not None:
            self._queue(device, record.queue).notes.append((record.position, record.time, record.a, record.id))

    def _pop(self, ring: str, record: TraceRecord) -> None:
        queue = self._queue(ring, record.queue)
        entry = Pending(record, first=record.time)
        before = queue.pending.pop(record.id, None)
        if record.fields()["again"]:
            if before is not None:
                entry.notified, entry.first = before.notified, before.first
        else:
            entry.notified = queue.note_of(record)
        if len(queue.pending) >= MAX_PENDING:
            queue.pending.pop(next(iter(queue.pending)))
        queue.pending[record.id] = entry

    def _backend(self, ring: str, record: TraceRecord) -> None:
        entry = self._queue(ring, record.queue).pending.get(record.id)
        if entry is not None:
            entry.backend += record.a
            entry.call = record.fields()["call"]

    def _done(self, ring: str, record: TraceRecord) -> None:
        queue = self._queue(ring, record.queue)
        entry = queue.pending.pop(record.id, None)
        if entry is not None:
            entry.done = record
            queue.given.append(entry)

    def _used(self, ring: str, record: TraceRecord) -> None:
        queue = self._queue(ring, record.queue)
        for entry in queue.given:
            entry.used = record.time
        queue.used += queue.given
        queue.given = []

    def _call(self, ring: str, record: TraceRecord) -> None:
        for entry in self._queue(ring, record.queue).used:
            if entry.calls is None:
                entry.calls = record.id

    def _interrupt(self, ring: str, record: TraceRecord) -> None:
        device = self._by_slot.get(record.head)
        for (owner, _), queue in self._queues.items():
            if owner != device:
                continue
            answered = [
                entry
                for entry in queue.used
                if entry.calls is not None and (record.id - entry.calls) & 0xFFFFFFFF < 1 << 31
            ]
            for entry in answered:
                entry.interrupted = record.time
            self._tell_all(owner, queue, answered)

    _HANDLERS: dict[int, Callable[[Follower, str, TraceRecord], None]] = {
        TracePoint.NOTIFY: _notify,
        TracePoint.POP: _pop,
        TracePoint.BACKEND: _backend,
        TracePoint.DONE: _done,
        TracePoint.USED: _used,
        TracePoint.CALL: _call,
        TracePoint.INTERRUPT: _interrupt,
    }

    # -- tellings --------------------------------------------------------------------------------------------------

    def _tell_all(self, ring: str, queue: _Queue, entries: list[Pending]) -> None:
        if entries:
            told = {id(entry) for entry in entries}
            queue.used = [entry for entry in queue.used if id(entry) not in told]
            self._told += [self._request(ring, entry) for entry in entries]

    def _request(self, ring: str, entry: Pending) -> dict[str, Any]:
        pop, done = entry.pop, entry.done
        assert done is not None
        began = entry.notified[0] if entry.notified else entry.first
        ended = entry.interrupted or entry.used
        kind = self._kinds.get(ring, "")
        telling = {
            "time": self._wall(began),
            "ended": self._wall(ended),
            "machine": self._machine,
            "device": ring,
            "kind": kind,
            "type": "request",
            "queue": pop.queue,
            "head": pop.head,
            "id": pop.id,
            "latency": _seconds(ended - began),
            "wait": _seconds(entry.first - entry.notified[0]) if entry.notified else None,
            "served": _seconds(done.time - pop.time),
            "backend": _seconds(entry.backend) if entry.call else None,
            "irq": _seconds(entry.interrupted - entry.used) if entry.interrupted else None,
            "pc": entry.notified[1] if entry.notified else None,
            "hart": entry.notified[2] if entry.notified else None,
            "again": pop.fields()["again"],
            "call": "",
            "words": "",
            **tell(kind, pop, done),
        }
        if entry.call:
            telling["call"] = entry.call
        return telling

    def _event(self, ring: str, record: TraceRecord, kind: str) -> None:
        fields = record.fields()
        slot = fields.pop("slot", None)
        device = self._by_slot.get(slot, ring) if ring == "core" and slot is not None else ring
        device = fields.pop("process", None) or device
        point = TracePoint(record.point)
        if kind == "message":
            number = fields.pop("type")
            fields["message"] = next((row.name for row in MESSAGES.values() if row.number == number), str(number))
        text = point.told.format(**record.fields()) if kind != "message" else _message(ring, device, fields)
        wall = self._wall(record.time)
        telling = {"time": wall, "ended": wall, "machine": self._machine, "device": device}
        telling |= {"kind": self._kinds.get(device, ""), "type": kind, "op": point.name, **fields, "text": text}
        if record.queue == NO_QUEUE:
            telling.pop("queue", None)
        self._told.append(telling)


def _message(ring: str, device: str, fields: Mapping[str, Any]) -> str:
    what = {0: "", 1: " answered", 3: " refused"}.get(fields["flags"], "")
    side = "core" if ring == "core" else device
    return f"{side}: {fields['message']}{what}, number {fields['seq']}, {fields['bytes']} bytes"


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9
