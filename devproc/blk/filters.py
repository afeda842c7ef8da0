"""Filters: backends that stand on another one and change how it behaves. Faults are injected with them.

    log:[op=…:]URI                                               a line a request, to the device's log
    delay:ms=5:[op=…:]URI                                        each request waits first
    error:[op=…:][percent=…:][start=…:][end=…:][when=FILE:]URI   requests fail
    rate:[bytes=16M:][requests=100:]URI                          at most so much a second
    pause:when=FILE:[op=…:]URI                                   requests wait while FILE exists

`op` names the requests that are meant: read, write, flush, discard, zero, several with + between them, or all. A
filter is one function, `before`, that is called with every request it is meant for.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from devproc.blk.backend import BlockBackend, let_go, open_backend
from devproc.blk.buffers import length
from devproc.properties import FilePath, Property, Size
from proto.errors import BackendError, ConfigError

__all__ = ["Delay", "Error", "Filter", "Log", "OneAtATime", "Pause", "Rate"]

Result = TypeVar("Result")
OPERATIONS = ("read", "write", "flush", "discard", "zero")
WAITERS = 16  # requests that wait at once; more wait for a thread
LOOK = 0.02  # seconds between two looks whether a file is there


class Filter:
    """Passes every call on to the backend below, after `before`."""

    op = Property(str, "all", f"requests it is meant for: {', '.join(OPERATIONS)}, with + between them, or all")
    waits: ClassVar[bool] = False  # requests wait in it: they get threads

    def __init__(self, below: BlockBackend, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self._meant = _operations(self.op)
        self.size = below.size
        self.read_only = below.read_only
        self.block_size = below.block_size
        self.identity = below.identity
        self.stamp = below.stamp
        self.descriptor: int | None = None
        self.workers = max(WAITERS, below.workers) if self.waits else below.workers
        self.below: BlockBackend = OneAtATime(below) if self.workers > 1 and below.workers == 1 else below

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Filter:
        """The filter on what the URI `target` names."""
        _operations(values["op"])
        return cls(open_backend(target, read_only=read_only), values)

    def before(self, op: str, offset: int, size: int) -> None:
        """Called before a request is passed on. What it raises fails the request."""

    def _before(self, op: str, offset: int = 0, size: int = 0) -> None:
        if op in self._meant:
            self.before(op, offset, size)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._before("read", offset, length(buffers))
        self.below.preadv(buffers, offset)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        self._before("write", offset, length(buffers))
        self.below.pwritev(buffers, offset, durable)

    def flush(self) -> None:
        self._before("flush")
        self.below.flush()

    def discard(self, offset: int, length: int) -> None:
        self._before("discard", offset, length)
        self.below.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self._before("zero", offset, length)
        self.below.write_zeroes(offset, length, unmap)

    def close(self) -> None:
        self.below.close()

    def let_go(self) -> None:
        """The successor goes on with what is below."""
        let_go(self.below)


def _operations(text: str) -> frozenset[str]:
    if text == "all":
        return frozenset(OPERATIONS)
    names = frozenset(text.split("+"))
    unknown = sorted(names.difference(OPERATIONS))
    if unknown:
        raise ConfigError(f"op={text}: there is no {unknown[0]!r}", hint=f"There are {', '.join(OPERATIONS)}, and all.")
    return names


class OneAtATime:
    """Lets threads take turns with a backend that can do only one thing at once."""

    def __init__(self, below: BlockBackend) -> None:
        self.size, self.read_only, self.block_size = below.size, below.read_only, below.block_size
        self.identity, self.stamp = below.identity, below.stamp
        self.descriptor: int | None = None
        self.workers = 2
        self._below = below
        self._lock = threading.Lock()

    def alone(self, action: Callable[[], Result]) -> Result:
        """Do something while nobody else does anything here."""
        with self._lock:
            return action()

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        with self._lock:
            self._below.preadv(buffers, offset)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        with self._lock:
            self._below.pwritev(buffers, offset, durable)

    def flush(self) -> None:
        with self._lock:
            self._below.flush()

    def discard(self, offset: int, length: int) -> None:
        with self._lock:
            self._below.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        with self._lock:
            self._below.write_zeroes(offset, length, unmap)

    def close(self) -> None:
        with self._lock:
            self._below.close()

    def let_go(self) -> None:
        """The successor goes on with what is below."""
        with self._lock:
            let_go(self._below)


class Log(Filter):
    """Writes a line a request to standard error: the device's log."""

    def before(self, op: str, offset: int, size: int) -> None:
        where = f" {size} bytes at {offset}" if size else ""
        sys.stderr.write(f"{self.identity}: {op}{where}\n")
        sys.stderr.flush()


class Delay(Filter):
    """Each request waits first."""

    waits = True
    ms = Property(int, 10, "milliseconds", minimum=0, maximum=600_000)

    def before(self, op: str, offset: int, size: int) -> None:
        time.sleep(self.ms / 1000)


class Error(Filter):
    """Requests fail."""

    percent = Property(int, 100, "how many of them", minimum=0, maximum=100)
    start = Property(Size, 0, "first byte of the range that fails", minimum=0)
    end = Property(Size, 1 << 63, "first byte after it", minimum=0)
    when = Property(FilePath, "", "only while this file exists")

    def before(self, op: str, offset: int, size: int) -> None:
        if size and not (offset < self.end and offset + size > self.start):
            return
        if (not self.when or Path(self.when).exists()) and random.randrange(100) < self.percent:
            raise BackendError(f"injected: {op} of {size} bytes at {offset}", errno=5)


class Rate(Filter):
    """At most so many bytes and requests a second; what comes faster waits. A pause is made up for by at most one
    second's worth."""

    waits = True
    bytes = Property(Size, 0, "bytes a second; 0: no limit", minimum=0)
    requests = Property(int, 0, "requests a second; 0: no limit", minimum=0)

    def __init__(self, below: BlockBackend, values: dict[str, Any]) -> None:
        super().__init__(below, values)
        self._free = time.monotonic()  # when everything let through so far will have been worked off
        self._lock = threading.Lock()

    def before(self, op: str, offset: int, size: int) -> None:
        cost = max(size / self.bytes if self.bytes else 0.0, 1 / self.requests if self.requests else 0.0)
        with self._lock:
            now = time.monotonic()
            begin = max(self._free, now - 1)
            self._free = begin + cost
        if begin > now:
            time.sleep(begin - now)


class Pause(Filter):
    """Requests wait while a file exists: hold the disk still with `touch`, let it go with `rm`."""

    waits = True
    when = Property(FilePath, help="requests wait as long as this file exists")

    def before(self, op: str, offset: int, size: int) -> None:
        path = Path(self.when)
        while path.exists():
            time.sleep(LOOK)
