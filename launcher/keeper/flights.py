"""Requests in flight as people read them: what a dead device had taken, decoded from the guest's memory.

The in-flight table names a queue and a head; where the descriptors are, the core has told (RINGS). The guest goes on
meanwhile and may change its memory: what is read here is bounded, and believed by nobody.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from launcher.keeper.poison import Flight
from proto.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE, BlkType, DeviceId

__all__ = ["DECODED", "SAVED", "decode", "save"]

DECODED = 64  # requests of one crash that are decoded; the others are counted
SAVED = 1 << 20  # bytes of a request's readable buffers that are saved
BUFFERS = 1024  # of one request that are followed
FIRST = 16  # bytes of a request that tell what it is
_DESCRIPTOR = struct.Struct("<QIHH")
_BLOCK = struct.Struct("<IIQ")


class Guest:
    """The guest's memory, read through a descriptor. Nothing is mapped."""

    def __init__(self, fd: int, base: int, size: int) -> None:
        self._fd, self._base, self._size = fd, base, size

    def read(self, gpa: int, size: int) -> bytes:
        """So many bytes, or fewer where memory ends."""
        if not self._base <= gpa < self._base + self._size:
            return b""
        return os.pread(self._fd, min(size, self._base + self._size - gpa), gpa - self._base)

    def has(self, gpa: int, size: int) -> bool:
        """Does all of it lie in guest memory?"""
        return self._base <= gpa and gpa + size <= self._base + self._size


def decode(flights: Iterable[Flight], rings: Mapping[int, Mapping[str, int]], guest: Guest, kind: int) -> list[Any]:
    """The first DECODED requests as plain values: queue, head, counter, bytes readable and writable, and what it asks
    for. `rings` are the queues by index, `kind` the virtio device id."""
    return [_decode(flight, rings, guest, kind) for flight in list(flights)[:DECODED]]


def save(flight: Flight, rings: Mapping[int, Mapping[str, int]], guest: Guest) -> dict[str, Any]:
    """A whole request: its buffers, and the bytes of the readable ones, SAVED at most."""
    buffers = list(_buffers(flight, rings, guest))
    data, left = [], SAVED
    for gpa, length, writable in buffers:
        if not writable:
            data.append(guest.read(gpa, min(length, left)))
            left -= len(data[-1])
    total = sum(length for _, length, writable in buffers if not writable)
    return {
        "queue": flight.queue,
        "head": flight.head,
        "counter": flight.counter,
        "buffers": [[gpa, length, writable] for gpa, length, writable in buffers],
        "readable": b"".join(data),
        "complete": sum(map(len, data)) == total,
    }


def _decode(flight: Flight, rings: Mapping[int, Mapping[str, int]], guest: Guest, kind: int) -> dict[str, Any]:
    buffers = list(_buffers(flight, rings, guest))
    readable = sum(length for _, length, writable in buffers if not writable)
    writable = sum(length for _, length, writable in buffers if writable)
    first = b""
    for gpa, length, is_writable in buffers:
        if not is_writable and len(first) < FIRST:
            first += guest.read(gpa, min(length, FIRST - len(first)))
    return {
        **flight._asdict(),
        "readable": readable,
        "writable": writable,
        "first": first.hex(),
        **_meaning(kind, first, readable, writable),
    }


def _meaning(kind: int, first: bytes, readable: int, writable: int) -> dict[str, Any]:
    """5.2.6, of a disk's request: what it asks for, where, and how much."""
    if kind != DeviceId.BLOCK or len(first) < _BLOCK.size:
        return {}
    number, _, sector = _BLOCK.unpack(first)
    known = {int(value): value.name for value in BlkType}
    length = writable - 1 if number == BlkType.IN else readable - _BLOCK.size
    return {"op": known.get(number, str(number)), "sector": sector, "length": max(0, length)}


def _buffers(flight: Flight, rings: Mapping[int, Mapping[str, int]], guest: Guest) -> Iterator[tuple[int, int, bool]]:
    """(guest address, length, writable) of each, through one indirect table at most."""
    ring = rings.get(flight.queue)
    if ring is None or flight.head >= ring["size"]:
        return
    table, size, index = ring["desc"], ring["size"], flight.head
    for _ in range(BUFFERS):
        data = guest.read(table + DESC_SIZE * index, DESC_SIZE)
        if index >= size or len(data) < DESC_SIZE:
            return
        gpa, length, flags, following = _DESCRIPTOR.unpack(data)
        if flags & DESC_F_INDIRECT:
            if table != ring["desc"]:
                return
            table, size, index = gpa, length // DESC_SIZE, 0
            continue
        yield gpa, length, bool(flags & DESC_F_WRITE)
        if not flags & DESC_F_NEXT:
            return
        index = following
