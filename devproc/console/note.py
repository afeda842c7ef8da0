"""What a port has done with bytes, where the next process finds it: memory that the keeper holds (`devproc.kept`).

Requests of a queue are numbered, and the numbers outlive the process. So a note says up to which request, and how far
into it, the guest's bytes were written, and which requests got which of the bytes that were read: the last one, and
some before it, for behind a relay an answer that was given may still be lost with the process. Files have positions,
which are noted too: writing the same bytes at the same place again is no second time.
"""

from __future__ import annotations

import msgpack

from devproc.kept import Kept

__all__ = ["INCOMING_MAX", "Note"]

INCOMING_MAX = 4096  # bytes read and not yet surely given to the guest: what a page of Linux's takes at once
EARLIER_MAX = 24 << 10  # bytes kept of what was given before, with ENTRY for each request
ENTRY = 16


class Note:
    """One port's. Fields are changed, then `store` is called; before the effect or after it, as each says."""

    def __init__(self, fd: int) -> None:
        self._kept = Kept(fd)
        kept = self._kept.load()
        fields = msgpack.unpackb(kept, strict_map_key=False) if kept else (-1, 0, b"", 0, -1, 0, 0, {})
        self.given: int = fields[0]
        self.count: int = fields[1]
        self.data: bytes = fields[2]
        self.read_at: int = fields[3]
        self.sent: int = fields[4]
        self.done: int = fields[5]
        self.written_at: int = fields[6]
        self.earlier: dict[int, bytes] = fields[7]
        # given, count: this request got the first so many bytes of `data`; noted before it is given back
        # read_at: the file position after `data`
        # sent, done: of this request so many bytes are written, of those before it all; noted after each write
        # written_at: the file position after them
        # earlier: what requests got before `given`, by number, the oldest first, as far as there is room

    def store(self) -> None:
        """Keep it."""
        fields = (self.given, self.count, self.data, self.read_at, self.sent, self.done, self.written_at, self.earlier)
        self._kept.store(msgpack.packb(fields))

    def begin_anew(self) -> None:
        """The queues are others now, and number from 0. What the guest had been given is gone with them."""
        self.data, self.given, self.count = self.data[self.count :], -1, 0
        self.sent, self.done = -1, 0
        self.earlier.clear()
        self.store()

    def settle(self, number: int) -> None:
        """Request `number` was taken: so what an earlier one got was given back, as far as this process knows."""
        if number > self.given >= 0:
            self.earlier[self.given] = self.data[: self.count]
            self.data, self.given, self.count = self.data[self.count :], -1, 0
            while sum(len(data) + ENTRY for data in self.earlier.values()) > EARLIER_MAX:
                del self.earlier[next(iter(self.earlier))]

    def give(self, number: int, room: int) -> bytes:
        """What the request gets of the bytes at hand."""
        self.given, self.count = number, min(room, len(self.data))
        self.store()
        return self.data[: self.count]

    def start_of(self, number: int, *, again: bool) -> int | None:
        """How much of a request's bytes is written already; None: all."""
        if again and number < self.sent:
            return None
        if again and number == self.sent:
            return self.done
        self.sent, self.done = number, 0
        return 0
