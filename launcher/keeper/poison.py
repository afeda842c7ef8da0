"""Whose fault it was: which requests were in flight at each death of a device, and which of them is to blame.

The in-flight table (`proto.inflight`) outlives the process and says what was in flight; a request is known by queue,
head and counter. What was in flight at SUSPICIOUS deaths in a row is suspected: the successor is started `careful`
(`devproc.careful`), carries the suspects out one at a time, and marks the one that it has (`QueueStatistics.marked`).
A request that was marked when the process died, and in flight at POISONOUS deaths in a row, this one among them, is
condemned: the next process answers it with an I/O error without carrying it out.

A SIGKILL from outside is hardly a request's doing (but it may be: the kernel's, for want of memory). So such deaths
alone condemn nobody before a request was the one carried out at KILLED_ALONE of them in a row.

Promises: a request that never was alone at a death is never condemned, whatever its neighbours do. Reads tables of dead
processes only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from proto.inflight import INFLIGHT_VERSION, InflightEntry, InflightHeader, queue_region_size

__all__ = ["KILLED_ALONE", "POISONOUS", "SUSPICIOUS", "Flight", "Record", "Suspects", "in_flight"]

SUSPICIOUS = 2  # deaths in a row until a successor is careful
POISONOUS = 3
KILLED_ALONE = 8
_HEADER = struct.Struct("<QHHHH")
_ENTRY = struct.Struct("<B5xHQ")
assert _HEADER.size == InflightHeader.offset("desc") and _ENTRY.size == InflightEntry.size()


class Flight(NamedTuple):
    """A request in flight."""

    queue: int
    head: int
    counter: int


@dataclass(frozen=True)
class Record:
    """What is known of a request that was in flight at the last death: in how many in a row, in how many of them it was
    the one carried out, and how many of them were not a SIGKILL from outside."""

    deaths: int = 0
    alone: int = 0
    crashes: int = 0


def in_flight(table: memoryview, queues: int, queue_size: int) -> list[Flight]:
    """What a table of so many regions says, in the order in which the requests were taken."""
    found = []
    region = queue_region_size(queue_size)
    for queue in range(queues):
        _, version, size, _, _ = _HEADER.unpack_from(table, queue * region)
        if version != INFLIGHT_VERSION or size > queue_size:
            continue
        start = queue * region + _HEADER.size
        entries = _ENTRY.iter_unpack(table[start : start + size * _ENTRY.size])
        taken = [Flight(queue, head, counter) for head, (busy, _, counter) in enumerate(entries) if busy]
        found += sorted(taken, key=lambda flight: flight.counter)
    return found


class Suspects:
    """The requests of one device that were in flight when it died."""

    def __init__(self) -> None:
        self._records: dict[Flight, Record] = {}
        self._condemned: set[Flight] = set()

    def died(self, flights: Iterable[Flight], marked: Mapping[int, int], *, crash: bool) -> list[Flight]:
        """A process that served is dead. `marked` are the counters of the requests carried out alone, by queue; `crash`
        is False for a SIGKILL from outside. Returns those that are condemned now."""
        flights = list(flights)
        alone = [flight for flight in flights if marked.get(flight.queue) == flight.counter]
        records = {}
        for flight in flights:
            record = self._records.get(flight, Record())
            record = replace(record, deaths=record.deaths + 1, crashes=record.crashes + crash)
            records[flight] = replace(record, alone=record.alone + 1) if alone == [flight] else record
        self._records = records
        self._condemned.intersection_update(flights)
        guilty = [flight for flight in alone if alone == [flight] and _is_poison(records[flight], crash)]
        self._condemned.update(guilty)
        return guilty

    def forget(self) -> None:
        """Nothing is known any more: another device, another guest, or an order to try anew."""
        self._records.clear()
        self._condemned.clear()

    @property
    def careful(self) -> bool:
        """Is the next process to be careful?"""
        return bool(self._condemned) or any(record.deaths >= SUSPICIOUS for record in self._records.values())

    @property
    def condemned(self) -> list[Flight]:
        """Requests that the next process is not to carry out."""
        return sorted(self._condemned)

    def record(self, flight: Flight) -> Record:
        """What is known of a request."""
        return self._records.get(flight, Record())


def _is_poison(record: Record, crash: bool) -> bool:
    """Of a request that was the one carried out when a process died just now: by a crash, or killed from outside."""
    return (crash and record.crashes >= POISONOUS) or record.alone >= KILLED_ALONE
