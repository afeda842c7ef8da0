"""Raw memory: areas that are mapped and registered, and the accesses of the Python run.

The Python run reaches real memory at real addresses. Every access must lie wholly inside one registered area, or it
raises WildAccess; memory with a live peer raises LivePeer, because Python has no fences. Machine code is not checked:
areas are how Python stays safe, not a sandbox.

An `Area` owns its mapping: `close` unmaps it, and views and records made of it must not be used afterwards. Files are
mapped through libc, not `mmap.mmap`, which would keep a duplicate of the descriptor.
"""

from __future__ import annotations

import ctypes
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from native.errors import LivePeer, MisalignedAccess, WildAccess
from native.types import IntType

__all__ = ["CTYPES", "PAGE", "Area", "atomically", "check_access", "load", "load_bytes", "move", "set_bytes", "store"]

PAGE = os.sysconf("SC_PAGE_SIZE")

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x20, 0x4000
MADV_DONTNEED = 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_memory(size: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """mmap(2); the address, or OSError."""
    address = libc.mmap(None, size, protection, flags, fd, offset)
    if address is None or address == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size} bytes: {os.strerror(error)}")
    return int(address)


def protect_memory(address: int, size: int, protection: int) -> None:
    """mprotect(2), or OSError."""
    if libc.mprotect(address, size, protection):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot protect {size} bytes at {address:#x}: {os.strerror(error)}")


def unmap_memory(address: int, size: int) -> None:
    """munmap(2), or OSError."""
    if libc.munmap(address, size):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot unmap {size} bytes at {address:#x}: {os.strerror(error)}")


class Area:
    """A range of memory the Python run may touch: `[address, address + size)`.

    Make one with `allocate`, `map_fd` or (memory somebody else owns) `adopt`. It is a context manager.
    """

    def __init__(self, address: int, size: int, *, writable: bool, live_peer: bool, mapped: int) -> None:
        self.address = address
        self.size = size
        self.writable = writable
        self.live_peer = live_peer
        self._mapped = mapped  # bytes to unmap at the end; 0 = not ours
        _registry.add(self)

    @classmethod
    def allocate(cls, size: int, *, live_peer: bool = False) -> Area:
        """Zeroed private memory, page aligned."""
        mapped = _whole_pages(size)
        address = map_memory(mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        return cls(address, size, writable=True, live_peer=live_peer, mapped=mapped)

    @classmethod
    def map_fd(
        cls,
        fd: int,
        size: int,
        *,
        writable: bool = True,
        shared: bool = True,
        offset: int = 0,
        live_peer: bool = False,
    ) -> Area:
        """Map a file or a shared memory segment; `fd` may be closed afterwards."""
        mapped = _whole_pages(size)
        protection = PROT_READ | (PROT_WRITE if writable else 0)
        address = map_memory(mapped, protection, MAP_SHARED if shared else MAP_PRIVATE, fd, offset)
        return cls(address, size, writable=writable, live_peer=live_peer, mapped=mapped)

    @classmethod
    def adopt(cls, address: int, size: int, *, writable: bool = True, live_peer: bool = False) -> Area:
        """Register memory that somebody else owns and unmaps; `close` only forgets it."""
        return cls(address, size, writable=writable, live_peer=live_peer, mapped=0)

    def view(self) -> memoryview:
        """The bytes, without a copy; read-only when the area is. Not to be used after `close`."""
        view = memoryview((ctypes.c_ubyte * self.size).from_address(self.address)).cast("B")
        return view if self.writable else view.toreadonly()

    def clear(self) -> None:
        """All of an area that was allocated is zero again, and its memory is the host's."""
        if libc.madvise(self.address, self._mapped, MADV_DONTNEED):
            error = ctypes.get_errno()
            raise OSError(error, f"cannot clear {self.size} bytes at {self.address:#x}: {os.strerror(error)}")

    def close(self) -> None:
        """Forget the area and unmap it; a second call does nothing."""
        _registry.remove(self)
        if self._mapped:
            mapped, self._mapped = self._mapped, 0
            unmap_memory(self.address, mapped)

    def __enter__(self) -> Area:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Area {self.address:#x}+{self.size:#x}>"


def _whole_pages(size: int) -> int:
    if size <= 0:
        raise ValueError(f"an area of {size} bytes")
    return -(-size // PAGE) * PAGE


class _Registry:
    """The areas, sorted by address. Readers take a snapshot; writers replace it under a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: tuple[list[int], list[Area]] = ([], [])

    def add(self, area: Area) -> None:
        with self._lock:
            starts, areas = self._snapshot
            at = bisect_right(starts, area.address)
            self._snapshot = ([*starts[:at], area.address, *starts[at:]], [*areas[:at], area, *areas[at:]])

    def remove(self, area: Area) -> None:
        with self._lock:
            areas = [a for a in self._snapshot[1] if a is not area]
            self._snapshot = ([a.address for a in areas], areas)

    def find(self, address: int, size: int) -> Area | None:
        starts, areas = self._snapshot
        for area in reversed(areas[: bisect_right(starts, address)]):
            if address + size <= area.address + area.size:
                return area
        return None


_registry = _Registry()


def check_access(address: int, size: int, *, write: bool, align: int = 1) -> None:
    """Raise unless the Python run may touch these bytes."""
    if address & (align - 1):
        raise MisalignedAccess(f"{size} bytes at {address:#x} must be aligned to {align}")
    area = _registry.find(address, size)
    if area is None:
        raise WildAccess(f"{size} bytes at {address:#x} are in no registered area")
    if area.live_peer:
        raise LivePeer(f"{area} has a live peer: only machine code may touch it")
    if write and not area.writable:
        raise WildAccess(f"{area} is read-only: store of {size} bytes at {address:#x}")


CTYPES: dict[tuple[int, bool], Any] = {  # by bits and sign: integers as C has them
    (8, False): ctypes.c_uint8,
    (16, False): ctypes.c_uint16,
    (32, False): ctypes.c_uint32,
    (64, False): ctypes.c_uint64,
    (8, True): ctypes.c_int8,
    (16, True): ctypes.c_int16,
    (32, True): ctypes.c_int32,
    (64, True): ctypes.c_int64,
}


def load(address: int, kind: IntType, *, aligned: bool = True) -> int:
    """One load of the Python run."""
    check_access(address, kind.size, write=False, align=kind.size if aligned else 1)
    return int(CTYPES[kind.bits, kind.signed].from_address(address).value)


def store(address: int, kind: IntType, value: int, *, aligned: bool = True) -> None:
    """One store of the Python run."""
    check_access(address, kind.size, write=True, align=kind.size if aligned else 1)
    CTYPES[kind.bits, kind.signed].from_address(address).value = kind(value)


def load_bytes(address: int, size: int) -> bytes:
    """Copy bytes out of a registered area."""
    if size == 0:
        return b""
    check_access(address, size, write=False)
    return ctypes.string_at(address, size)


def move(destination: int, source: int, size: int) -> None:
    """memmove between registered areas."""
    if size:
        check_access(source, size, write=False)
        check_access(destination, size, write=True)
        ctypes.memmove(destination, source, size)


def set_bytes(destination: int, byte: int, size: int) -> None:
    """memset inside a registered area."""
    if size:
        check_access(destination, size, write=True)
        ctypes.memset(destination, byte, size)


_atomic = threading.Lock()


@contextmanager
def atomically() -> Iterator[None]:
    """Read-modify-write of the Python run: atomic among Python threads, nothing more."""
    with _atomic:
        yield
