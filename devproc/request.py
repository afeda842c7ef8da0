"""One request as a device's `handle` sees it: a chain of readable and writable buffers of guest RAM.

The buffers are memory the guest shares: `views` gives them without a copy, for `os.preadv` and the like. A guest may
change readable bytes while they are read, so what matters is read once (`read` copies).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Buffer", "Request"]

COPY = -1  # the region of bytes that are none of the guest's


class Buffer(NamedTuple):
    """A piece of guest memory by name, as it may travel to others."""

    region: int
    offset: int
    length: int


class Request:
    """A popped chain. `readable` and `writable` count its bytes; `error` is 0 or a `proto.ring.ChainError`."""

    arrived = False  # it is no chain yet but something that has come for the driver: `written` bytes, to be read by it

    __slots__ = (
        "_read",
        "_readable",
        "_slice",
        "_writable",
        "again",
        "bytes_read",
        "bytes_written",
        "deferred",
        "error",
        "failed",
        "finish",
        "head",
        "number",
        "parked",
        "queue",
        "readable",
        "writable",
        "written",
    )

    def __init__(
        self,
        queue: int,
        head: int,
        readable: list[Buffer],
        writable: list[Buffer],
        slice: Callable[[int, int, int], memoryview],
        *,
        error: int = 0,
        again: bool = False,
        number: int = 0,
    ) -> None:
        self.number = number  # of its pop, in the trace
        self.queue = queue
        self.head = head
        self.error = error
        self.again = again  # a predecessor of this process had taken it before: it may have been carried out already
        self.bytes_read = self.bytes_written = (
            0  # for the statistics: what the guest read and wrote, as the device sees it
        )
        self.failed = False
        self.readable = sum(buffer.length for buffer in readable)
        self.writable = sum(buffer.length for buffer in writable)
        self.written = 0
        self.deferred = False
        self.parked = False
        self.finish: Callable[[], None] = lambda: None
        self._readable = readable
        self._writable = writable
        self._slice = slice
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        """Copy the next `size` readable bytes (all that are left by default; fewer at the end)."""
        left = self.readable - self._read
        size = left if size < 0 else min(size, left)
        data = b"".join(self.views_readable(self._read, size))
        self._read += size
        return data

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Copy `data` to the next writable bytes. Returns how many of its bytes fitted."""
        size = min(len(data), self.writable - self.written)
        self.write_at(self.written, memoryview(data)[:size])
        return size

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to the writable bytes from `offset` on; it must fit."""
        if offset + len(data) > self.writable:
            raise ValueError(f"{len(data)} bytes at {offset} of a request with {self.writable} writable bytes")
        done = 0
        for view in self.views(offset, len(data)):
            view[:] = data[done : done + len(view)]
            done += len(view)
        self.written = max(self.written, offset + len(data))

    def views(self, offset: int, size: int) -> list[memoryview]:
        """`size` writable bytes from `offset` on, without a copy. Whoever fills them sets `written`."""
        return self._views(self._writable, offset, size)

    def views_readable(self, offset: int, size: int) -> list[memoryview]:
        """`size` readable bytes from `offset` on, without a copy."""
        return self._views(self._readable, offset, size)

    def defer(self) -> None:
        """Do not give the request back when `handle` returns: `finish()` is called later, on the device's thread."""
        self.deferred = True

    def park(self) -> None:
        """Like `defer`, for a request that waits for somebody else and may wait for ever: nothing waits for it. When
        the process is replaced meanwhile its successor is handed the request again; when the driver resets the device
        it is forgotten, and `finish` does nothing."""
        self.deferred = self.parked = True

    @property
    def replaced(self) -> bool:
        """Were other readable bytes put in the place of the guest's?"""
        return any(buffer.region == COPY for buffer in self._readable)

    def replace_readable(self, data: bytes) -> None:
        """From now on the readable bytes are these; the guest's memory stays as it is."""
        slice = self._slice
        copy = memoryview(data)

        def look(region: int, offset: int, size: int) -> memoryview:
            return copy[offset : offset + size] if region == COPY else slice(region, offset, size)

        self._slice, self._readable, self.readable, self._read = look, [Buffer(COPY, 0, len(data))], len(data), 0

    def _views(self, buffers: list[Buffer], offset: int, size: int) -> list[memoryview]:
        found = []
        for region, start, length in buffers:
            if offset < length and size > 0:
                part = min(length - offset, size)
                found.append(self._slice(region, start + offset, part))
                size -= part
                offset = 0
            else:
                offset -= min(length, offset)
        return found
