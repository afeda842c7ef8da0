"""How long the guest waited: the longest of the requests that were under way while a device was away.

Taken from the trace rings of the core and the device, which outlive the device's process: from the driver's
notification (or from the first time that a process took the request, if the driver had no need to notify) to the
interrupt (or to being given back, if it wanted none). A fault that no request met cost the guest nothing, and is
counted as unnoticed; where the rings have gone round before they were read, the keeper's own figure counts, from the
process's death to its successor's readiness.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from typing import Any

from launcher.trace.requests import Follower
from launcher.trace.rings import ask
from proto.channel import Channel
from proto.trace import RECORDS, TRACE_SIZE, last_records

__all__ = ["Rings", "percentile"]

LONG = 60.0  # seconds: what lies further back belongs to something else


class Rings:
    """The rings of a machine, mapped for reading."""

    def __init__(self, channel: Channel) -> None:
        answer, fds = ask(channel, generation=0)
        self._described = answer["rings"]
        self._maps: dict[str, tuple[mmap.mmap, memoryview]] = {}
        for id, fd in fds.items():
            area = mmap.mmap(fd, TRACE_SIZE, prot=mmap.PROT_READ)
            self._maps[id] = (area, memoryview(area))
            os.close(fd)

    def longest(self, id: str, began: float, ended: float) -> float | None:
        """Seconds that the slowest request waited of those that were under way between two times of CLOCK_MONOTONIC;
        None when there was none."""
        follower = Follower("", self._described, lambda monotonic: monotonic / 1e9)
        for name in ("core", id):
            follower.feed(name, last_records(self._maps[name][1], RECORDS))
        waits = [told["latency"] for told in follower.settle() if told.get("device") == id and _met(told, began, ended)]
        return max(waits, default=None)

    def close(self) -> None:
        """Let the mappings go."""
        for area, view in self._maps.values():
            view.release()
            area.close()
        self._maps.clear()


def _met(told: dict[str, Any], began: float, ended: float) -> bool:
    if told.get("type") != "request" or told.get("latency") is None:
        return False
    return bool(told["time"] <= ended and told["time"] + told["latency"] >= began and told["latency"] < LONG)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, at least one."""
    return values[min(len(values) - 1, int(share * len(values)))]


def now() -> float:
    """CLOCK_MONOTONIC, in seconds."""
    return time.monotonic_ns() / 1e9
