"""What a process prints is its log, a file on the host; a host whose disk is full loses lines, and nothing else.

Without this a print raises where the file system has no room, and a supervisor or a device that only wanted to tell
something would die of it, taking a guest along that has nothing to do with that disk.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import Any

__all__ = ["lose_what_does_not_fit"]


class _Log(io.RawIOBase):
    """A file descriptor that takes everything; what the host does not take is lost."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        try:
            return os.write(self._fd, data)
        except OSError:
            return memoryview(data).nbytes


def lose_what_does_not_fit() -> None:
    """From now on standard output and error never fail, if they are files. A terminal, or a pipe, stays as it is."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue
        buffer = io.BufferedWriter(_Log(fd))
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
