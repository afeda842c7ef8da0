"""Recorded requests in the device's own words: the tellings of `bulkhead trace`, made of a recording.

The fields are those of docs/trace.md as far as a device process knows them: `latency` is from the pop until the request
was given back, and there is no notify and no interrupt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from devproc.tellers import tell
from proto.recording import Recorded, RecordingReader, Request, requests_of
from proto.tap import Event, EventFlag, EventKind
from proto.trace import DATA_BYTES, TracePoint, TraceRecord

__all__ = ["Joiner", "records_of", "requests_by_device", "telling_of"]

FIRST = {"net": 12}  # where a request's telling bytes begin: behind the frame's header
MAX_PENDING = 1 << 14


class Joiner:
    """Puts requests and answers of one device together as they come."""

    def __init__(self) -> None:
        self._pending: dict[tuple[int, int], Event] = {}
        self._count = 0

    def feed(self, events: Iterator[Event]) -> Iterator[Request]:
        """The requests that are answered in these events."""
        for event in events:
            key = (event.queue, event.id)
            if event.kind == EventKind.POP:
                if len(self._pending) >= MAX_PENDING:
                    del self._pending[next(iter(self._pending))]
                self._pending[key] = event
            elif event.kind == EventKind.DONE and key in self._pending:
                for request in requests_of(iter((self._pending.pop(key), event))):
                    yield request._replace(number=self._count)
                    self._count += 1


def telling_of(device: Mapping[str, Any], request: Request, wall: int = 0, machine: str = "") -> dict[str, Any]:
    """A request as `bulkhead trace` tells it; `wall` makes the time of day of its times (ns)."""
    kind = device.get("device", "")
    pop, done = request.pop, request.done
    ended = done.time if done is not None else pop.time
    telling: dict[str, Any] = {
        "time": (pop.time + wall) / 1e9,
        "ended": (ended + wall) / 1e9,
        "machine": machine,
        "device": device["id"],
        "kind": kind,
        "type": "request",
        "queue": pop.queue,
        "head": pop.head,
        "id": pop.id,
        "number": request.number,
        "latency": (ended - pop.time) / 1e9,
        "again": int(bool(pop.flags & EventFlag.AGAIN)),
        "call": "",
        "words": "",
    }
    asked, answered = records_of(kind, request)
    telling |= tell(kind, asked, answered)
    return telling if done is not None else telling | {"status": "UNANSWERED"}


def records_of(kind: str, request: Request) -> tuple[TraceRecord, TraceRecord]:
    """The request as its trace records would have it."""
    pop, first = request.pop, FIRST.get(kind, 0)
    head = request.readable[first : first + DATA_BYTES].ljust(DATA_BYTES, b"\0")
    sizes = min(pop.b, 0xFFFFFFFF) | min(sum(request.room), 0xFFFFFFFF) << 32
    again = int(bool(pop.flags & EventFlag.AGAIN))
    asked = TraceRecord(
        0, pop.time, TracePoint.POP, pop.queue, pop.head, 0, pop.id, sizes, again | pop.status << 32, head
    )
    tail = request.written[first : first + DATA_BYTES].ljust(DATA_BYTES, b"\0")
    done = request.done
    written, status, time = (done.a, done.status, done.time) if done is not None else (0, 0, pop.time)
    answered = TraceRecord(0, time, TracePoint.DONE, pop.queue, pop.head, 0, pop.id, written, status, tail)
    return asked, answered


def requests_by_device(reader: RecordingReader, ids: frozenset[str] | None = None) -> dict[str, list[Request]]:
    """All requests of a recording, in memory, by device."""
    events: dict[str, list[Event]] = {device["id"]: [] for device in reader.devices}
    recorded: Recorded
    for recorded in reader.events():
        if ids is None or recorded.device in ids:
            events[recorded.device].append(recorded.event)
    return {id: list(requests_of(iter(each))) for id, each in events.items()}
