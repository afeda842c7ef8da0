"""The rings of a machine of this host, mapped for reading only: what `bulkhead trace` follows.

The keeper hands out descriptors; from then on nobody is asked anything, and nobody notices. When the guest is reset
the machine's memory is made anew, and its rings with it: `poll` asks now and then whether that has happened.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Any

from launcher.control import connect, exchange
from proto.errors import BulkheadError
from proto.trace import RECORDS, TRACE_SIZE, TraceReader, TraceRecord, last_records

__all__ = ["LocalRings", "RingSet"]

ASK_PERIOD = 1.0  # seconds between two questions whether the rings are still those
BATCH = 2048  # records of one ring at a time


class RingSet:
    """Readers of the rings that some descriptors are."""

    def __init__(self) -> None:
        self._maps: dict[str, tuple[mmap.mmap, memoryview, TraceReader]] = {}
        self.missed: dict[str, int] = {}  # by ring, since the beginning

    def take(self, fds: dict[str, int], *, from_start: bool) -> None:
        """Follow these rings from now on, and close the descriptors."""
        self.close()
        for id, fd in fds.items():
            try:
                area = mmap.mmap(fd, TRACE_SIZE, prot=mmap.PROT_READ)
                view = memoryview(area)
                self._maps[id] = (area, view, TraceReader(view, from_start=from_start))
                self.missed.setdefault(id, 0)
            finally:
                os.close(fd)

    def read(self) -> list[tuple[str, list[TraceRecord]]]:
        """What is new, up to BATCH records of each ring."""
        found = []
        for id, (_, _, reader) in self._maps.items():
            records = reader.read(BATCH)
            if reader.missed:
                self.missed[id] += reader.missed
                reader.missed = 0
            if records:
                found.append((id, records))
        return found

    def skip(self) -> None:
        """Go on with what is written from now on; what was not read counts as not asked for."""
        for _, _, reader in self._maps.values():
            reader.skip()

    def history(self) -> list[tuple[str, list[TraceRecord]]]:
        """All that the rings still have, whatever was read."""
        return [(id, last_records(view, RECORDS)) for id, (_, view, _) in self._maps.items()]

    def close(self) -> None:
        """Let the mappings go."""
        for area, view, reader in self._maps.values():
            reader.close()
            view.release()
            area.close()
        self._maps.clear()


class LocalRings:
    """A machine of this host. Raises ConfigError when it does not answer."""

    def __init__(self, name: str, *, from_start: bool = False) -> None:
        self._channel = connect(name)
        self._set = RingSet()
        self._asked = 0.0
        self._generation = 0
        self.machine = name
        self.rings: list[dict[str, Any]] = []
        self.ended = False
        self._ask(from_start)

    @property
    def missed(self) -> dict[str, int]:
        """Records that were overwritten before they were read, by ring."""
        return self._set.missed

    def now(self) -> int:
        """The machine's CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall(self, monotonic: int) -> float:
        """The wall clock at some time of CLOCK_MONOTONIC."""
        return (monotonic - time.monotonic_ns() + time.time_ns()) / 1e9

    def poll(self) -> list[tuple[str, list[TraceRecord]]]:
        """What is new. After the machine's end: what was left, then nothing, and `ended`."""
        if not self.ended and time.monotonic() - self._asked > ASK_PERIOD:
            try:
                self._ask(from_start=True)
            except (BulkheadError, OSError):
                self.ended = True
        return self._set.read()

    def _ask(self, from_start: bool) -> None:
        self._asked = time.monotonic()
        packet = exchange(self._channel, "TRACE", generation=self._generation)
        answer, fds = packet.body, packet.fds
        self.rings = answer["rings"]
        if answer["generation"] != self._generation:
            self._generation = answer["generation"]
            self._set.take(fds, from_start=from_start)

    def close(self) -> None:
        """Look no longer."""
        self._set.close()
        self._channel.close()
