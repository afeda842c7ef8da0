"""A bounded cache of numbered chunks that come from far away: each is fetched once, whoever needs it meanwhile waits.

A chunk is not present, on its way, or present. A fetch that fails is the error of those who waited for it; the next
who needs the chunk fetches again. `ahead` fetches in the background; what nobody waits for and fails is forgotten.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

__all__ = ["ChunkCache"]

Fetch = Callable[[int], dict[int, bytes]]  # a chunk, and whatever came along with it


class _Coming:
    """A chunk on its way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.data = b""
        self.error: Exception | None = None


class ChunkCache:
    """Chunks by number. Any thread may call anything."""

    def __init__(self, fetch: Fetch, members: Callable[[int], list[int]], most: int, helpers: int) -> None:
        """`members(n)`: the chunks that a fetch of n brings, n among them; at most `most` chunks are kept."""
        self._fetch = fetch
        self._members = members
        self._most = max(1, most)
        self._present: OrderedDict[int, bytes] = OrderedDict()
        self._coming: dict[int, _Coming] = {}
        self._lock = threading.Lock()
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked: set[int] = set()  # in the queue already
        self._helpers = helpers
        self._started = 0

    def get(self, number: int) -> bytes:
        """One chunk. Raises what its fetch raised."""
        with self._lock:
            data = self._present.get(number)
            if data is not None:
                self._present.move_to_end(number)
                return data
            coming = self._coming.get(number)
            mine = self._begin(number) if coming is None else {}
        if coming is None:
            coming = mine[number]
            self._finish(number, mine)
        coming.done.wait()  # its fetch has deadlines of its own
        if coming.error is not None:
            raise coming.error
        return coming.data

    def ahead(self, numbers: Iterable[int]) -> None:
        """These will be needed soon."""
        with self._lock:
            for number in numbers:
                if number in self._present or number in self._coming or number in self._asked:
                    continue
                self._asked.add(number)
                self._wanted.put(number)
                if self._started < min(self._helpers, len(self._asked)):
                    self._started += 1
                    threading.Thread(target=self._help, name="read-ahead", daemon=True).start()

    def count(self) -> int:
        """Chunks that are present."""
        return len(self._present)

    def _begin(self, number: int) -> dict[int, _Coming]:
        """Announce a chunk, and what comes along with it."""
        mine = {n: _Coming() for n in self._members(number) if n not in self._present and n not in self._coming}
        self._coming.update(mine)
        return mine

    def _finish(self, number: int, mine: dict[int, _Coming]) -> None:
        found: dict[int, bytes] = {}
        error: Exception | None = None
        try:
            found = self._fetch(number)
        except Exception as caught:
            error = caught
        with self._lock:
            for n, coming in mine.items():
                if n in found:
                    coming.data = self._present[n] = found[n]
                else:
                    coming.error = error or KeyError(n)
                del self._coming[n]
                coming.done.set()
            while len(self._present) > self._most:
                self._present.popitem(last=False)

    def _help(self) -> None:
        while True:
            number = self._wanted.get()
            with self._lock:
                self._asked.discard(number)
                known = number in self._present or number in self._coming
                mine = {} if known else self._begin(number)
            if mine:
                self._finish(number, mine)
