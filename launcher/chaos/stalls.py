"""How long the guest waited: the longest of the requests that were under way while a device was away.

Taken from the trace rings of core and device, which outlive the device's process: from when a process first took
the request, or, of one that came while none was there, from the driver's notification, to when it was given back. A
fault that no request met cost the guest nothing, and is counted as unnoticed; where the rings have gone round before
they were read, the keeper's own figure counts, from the process's death to its successor's readiness.

Buffers that wait for something to come (a card's receive queue, v86fs's news) are not counted: to wait is what they are
there for.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence

from launcher.control import exchange
from proto.channel import Channel
from proto.trace import RECORDS, TRACE_SIZE, TracePoint, TraceRecord, last_records

__all__ = ["Rings", "percentile"]

IDLE: dict[str, Callable[[int], bool]] = {
    "net": lambda queue: queue % 2 == 0,
    "v86fs": lambda queue: queue == 2,
}  # queues whose buffers wait


class Rings:
    """The rings of a machine, mapped for reading."""

    def __init__(self, channel: Channel) -> None:
        packet = exchange(channel, "TRACE", generation=0)
        answer, fds = packet.body, packet.fds
        self._described = answer["rings"]
        self._maps: dict[str, tuple[mmap.mmap, memoryview]] = {}
        for id, fd in fds.items():
            area = mmap.mmap(fd, TRACE_SIZE, prot=mmap.PROT_READ)
            self._maps[id] = (area, memoryview(area))
            os.close(fd)

    def longest(self, id: str, began: float, ended: float) -> float | None:
        """Seconds that the slowest request waited of those that were under way between two times of CLOCK_MONOTONIC;
        None when there was none."""
        ring = next(ring for ring in self._described if ring["id"] == id)
        idle = IDLE.get(ring["device"], _never)
        first, last = int(began * 1e9), int(ended * 1e9)
        notes: dict[int, list[tuple[int, int]]] = {}  # by queue: when, and the driver's avail.idx
        for record in last_records(self._maps["core"][1], RECORDS):
            if record.point == TracePoint.NOTIFY and record.head == ring["slot"] and first <= record.time <= last:
                notes.setdefault(record.queue, []).append((record.time, record.position))
        taken: dict[tuple[int, int], int] = {}  # by queue and id: since when
        waits = []
        for record in last_records(self._maps[id][1], RECORDS):
            key = record.queue, record.id
            if record.point == TracePoint.POP and not idle(record.queue):
                taken.setdefault(key, _since(record, notes.get(record.queue, ())))
            elif record.point == TracePoint.DONE and key in taken:
                since = taken.pop(key)
                if since <= last and record.time >= first:
                    waits.append((record.time - since) / 1e9)
        return max(waits, default=None)

    def close(self) -> None:
        """Let the mappings go."""
        for area, view in self._maps.values():
            view.release()
            area.close()
        self._maps.clear()


def _never(queue: int) -> bool:
    return False


def _since(pop: TraceRecord, notes: Sequence[tuple[int, int]]) -> int:
    """When a request that is taken now began to wait: at the first notification, of those while the device was away,
    that covers it."""
    covering = (time for time, index in notes if (index - pop.position - 1) & 0xFFFF < 0x8000)
    return min(next(covering, pop.time), pop.time)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, at least one."""
    return values[min(len(values) - 1, int(share * len(values)))]


def now() -> float:
    """CLOCK_MONOTONIC, in seconds."""
    return time.monotonic_ns() / 1e9
