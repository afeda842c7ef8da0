"""Recording that waits for something: the last seconds are kept in memory until a request passes a filter.

`Around` holds what came within the last `seconds`, at most `limit` bytes of it, the oldest first to go. What says how
the device was set up is never let go, since nothing can be replayed without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from launcher.record.words import Joiner, telling_of
from proto.filters import Filter
from proto.messages import MESSAGES, message_fields
from proto.tap import Event, EventKind, pack_event, unpack_events

__all__ = ["Around", "Watch"]

SETTLED = frozenset(MESSAGES[name].number for name in ("FEATURES_OK", "RING_SETUP", "RING_ENABLE", "STATUS", "RESET"))
KEPT_SETUP = 256  # such events of one device


class Watch:
    """Does any request that comes pass a filter?"""

    def __init__(self, chosen: Filter, devices: list[dict[str, Any]], wall: int) -> None:
        self._filter = chosen
        self._devices = {device["id"]: device for device in devices}
        self._joiners = {id: Joiner() for id in self._devices}
        self._wall = wall
        self.matched: Mapping[str, Any] | None = None  # the first that did

    def sees(self, device: str, data: bytes) -> bool:
        """Look at whole events of a device; all of them, in their order."""
        found = False
        for request in self._joiners[device].feed(unpack_events(data)):
            telling = telling_of(self._devices[device], request, self._wall)
            if self._filter.matches(telling):
                self.matched = self.matched or telling
                found = True
        return found


class Around:
    """The last seconds of some devices."""

    def __init__(self, seconds: float, limit: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._kept: deque[tuple[float, str, bytes]] = deque()
        self._size = 0
        self._setup: dict[str, deque[Event]] = {}
        self.dropped = 0  # bytes that were not yet old, but too many

    def add(self, device: str, data: bytes) -> None:
        """Whole events that have just come."""
        now = self._clock()
        self._kept.append((now, device, data))
        self._size += len(data)
        while self._kept and (self._size > self._limit or self._kept[0][0] < now - self._seconds):
            if self._kept[0][0] >= now - self._seconds:
                self.dropped += len(self._kept[0][2])
            self._let_go()

    def take(self) -> list[tuple[str, bytes]]:
        """All that is kept, oldest first, behind how each device was set up; nothing is kept any more."""
        begin = [(id, b"".join(map(pack_event, events))) for id, events in self._setup.items()]
        found = [*begin, *((device, data) for _, device, data in self._kept)]
        self._kept.clear()
        self._setup.clear()
        self._size = 0
        return found

    def _let_go(self) -> None:
        _, device, data = self._kept.popleft()
        self._size -= len(data)
        setup = self._setup.setdefault(device, deque(maxlen=KEPT_SETUP))
        for event in unpack_events(data):
            if event.kind == EventKind.SETUP:
                setup.clear()
                setup.append(event)
            elif event.kind == EventKind.MESSAGE and message_fields(event.payload)[0] in SETTLED:
                setup.append(event)
