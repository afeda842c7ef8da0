"""`copy-on-read:[overlay=FILE:]URI`: a snapshot that also keeps what was read, so that a slow source (a web server, a
network block device) is asked for each cluster once. The overlay is the snapshot's; when everything has been read,
what is below is not needed any more. What cannot be kept (a full disk) is read all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from devproc.blk.buffers import cut, length, scatter
from devproc.blk.file import whole
from devproc.blk.snapshot import Snapshot

__all__ = ["CopyOnRead"]


class CopyOnRead(Snapshot):
    """A snapshot whose overlay fills with what is read."""

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for written, start, size in list(self.runs(offset, length(buffers))):
            part = cut(buffers, start - offset, size)
            if written:
                super().preadv(part, start)
            else:
                scatter(part, self._fetch(start, size))

    def _fetch(self, offset: int, size: int) -> memoryview:
        """Read whole clusters from below and keep them, unless somebody has written them meanwhile."""
        cluster = self._cluster
        start = offset // cluster * cluster
        end = min(-(-(offset + size) // cluster) * cluster, self.size)
        data = memoryview(bytearray(end - start))
        self.below.preadv([data], start)
        with self._lock, contextlib.suppress(OSError):  # no room: it stays below
            self._keep(start, data)
        return data[offset - start : offset - start + size]

    def _keep(self, start: int, data: memoryview) -> None:
        for written, at, size in list(self.runs(start, len(data))):
            if not written:
                piece = data[at - start : at - start + size]
                whole([piece], self._data + at, lambda part, where: os.pwritev(self._fd, part, where))
                self._mark(at, size)
