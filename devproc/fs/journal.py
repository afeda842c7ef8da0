"""A table that outlives its process: numbers with plain values, in memory that the supervisor holds.

The memory has two halves; the first word says which one counts. A half is a run of records, each a change: length,
CRC-32, and (key, value) as msgpack, value None for "gone", or a list of several, which count together. A record counts
when its length is written, which is done last, so a kill in between leaves the table as it was before. When a half is
full, the table is written out to the other, and that becomes the one. A change costs a few microseconds.

Machine code of the same process may write records too, where `share` tells it; `news` is what it has written.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import msgpack

from devproc.device import Device
from proto.errors import BackendError

__all__ = ["Journal", "Log", "kept_journal", "kept_memory", "make_memory"]

SIZE = 32 << 20  # sparse: what is not written is not there
_WORD = struct.Struct("<I")
_RECORD = struct.Struct("<II")  # length, checksum
_END = _WORD.pack(0)
_pack = msgpack.Packer().pack
START = 64
Change = tuple[int, Any]  # key and value


def make_memory(name: str, size: int = SIZE) -> int:
    """The descriptor of an empty journal's memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def kept_memory(device: Device, name: str, size: int = SIZE) -> int:
    """The descriptor of memory that the supervisor holds for a device under this name; new memory, all zero, when there
    is none."""
    fd = device.descriptors.pop(name, None)
    if fd is None:
        fd = make_memory(name, size)
        device.store(name, fd)
    return fd


def kept_journal(device: Device, name: str) -> Journal:
    """The journal that the supervisor holds for a device under this name, a new one when there is none."""
    fd = kept_memory(device, name)
    try:
        return Journal(fd)
    finally:
        os.close(fd)


class Log(Protocol):
    """Where machine code is told of the journal's memory. Its records are lists of changes."""

    log_at: int  # the address at which the next record begins: 8 bytes of length and checksum, which are 0
    log_end: int  # and that which none may reach


class Journal:
    """The table in the memory behind a descriptor, which may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        self._size = os.fstat(fd).st_size
        if self._size < SIZE:
            raise BackendError(f"a journal needs {SIZE} bytes")
        self._memory = mmap.mmap(fd, self._size)
        self._log: Log | None = None
        self._address = 0
        self._half = self._word(0) & 1
        self.table: dict[int, Any] = {}
        self._at = self._start(self._half)
        self._held: list[Change] | None = None
        self._behind = False  # the memory lacks changes, which had no room: it gets the whole table or nothing
        for changes in self._records():
            for key, value in changes:
                self._apply(key, value)

    def put(self, key: int, value: Any) -> None:
        """From now on the key has this value. Raises BackendError when the table has grown too large."""
        self._apply(key, value)
        if self._held is not None:
            self._held.append((key, value))
        else:
            self._write((key, value))

    def __enter__(self) -> Journal:
        """For `with`: the changes made inside outlive the process together, at the end or at the next `flush`."""
        self._held = []
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._held = None

    def flush(self) -> None:
        """What was changed so far outlives the process from now on."""
        held = self._held
        if held:
            self._held = []
            self._write(held[0] if len(held) == 1 else held)

    def drop(self, key: int) -> None:
        """The key is gone."""
        if key in self.table:
            self.put(key, None)

    def clear(self) -> None:
        """All keys are gone."""
        self.table.clear()
        self._compact()

    def share(self, log: Log) -> None:
        """Machine code writes records, too, from now on."""
        self._log = log
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._moved()

    def news(self) -> dict[int, Any]:
        """The keys that machine code has changed since this was last asked, and what they have become. This process
        has written it, so it is whole."""
        found: dict[int, Any] = {}
        memory, at = self._memory, self._at
        while length := _WORD.unpack_from(memory, at)[0]:
            begin = at + _RECORD.size
            at = begin + length
            found.update(msgpack.unpackb(memory[begin:at]))
        self._at = at
        for key, value in found.items():
            self._apply(key, value)
        return found

    def close(self) -> None:
        self._memory.close()

    def _apply(self, key: int, value: Any) -> None:
        if value is None:
            self.table.pop(key, None)
        else:
            self.table[key] = value

    def _write(self, changes: Change | list[Change]) -> None:
        if self._behind or not self._append(changes):
            self._compact()

    def _append(self, changes: Change | list[Change]) -> bool:
        """Write one record; False when there is no room."""
        data: bytes = _pack(changes)
        at = self._at
        begin = at + _RECORD.size
        after = begin + len(data)
        if after + _WORD.size > self._start(self._half) + self._size // 2 - START:
            return False
        self._memory[begin : after + _WORD.size] = data + _END
        _WORD.pack_into(self._memory, at + 4, zlib.crc32(data))
        _WORD.pack_into(self._memory, at, len(data))
        self._at = after
        self._moved()
        return True

    def _compact(self) -> None:
        """Write the table to the other half, then have that count; when it does not fit, this one goes on."""
        before = self._at
        self._half ^= 1
        self._at = self._start(self._half)
        _WORD.pack_into(self._memory, self._at, 0)
        for key, value in self.table.items():
            if not self._append((key, value)):
                self._half ^= 1
                self._at = before
                self._behind = True
                self._moved()
                raise BackendError("the guest has more open than the journal can hold")
        _WORD.pack_into(self._memory, 0, self._half)
        self._behind = False
        self._moved()

    def _moved(self) -> None:
        """The next record begins elsewhere."""
        if self._log is not None:
            self._log.log_at = self._address + self._at
            end = self._start(self._half) + self._size // 2 - START
            self._log.log_end = self._address + (self._at if self._behind else end)

    def _records(self) -> Iterator[list[Change]]:
        end = self._start(self._half) + self._size // 2 - START
        while self._at + _RECORD.size <= end:
            length, checksum = _RECORD.unpack_from(self._memory, self._at)
            after = self._at + _RECORD.size + length
            if length == 0 or after > end:
                return
            data = self._memory[self._at + _RECORD.size : after]
            record = _record(data) if zlib.crc32(data) == checksum else None
            if record is None:
                return
            self._at = after
            yield record

    def _word(self, at: int) -> int:
        return int(_WORD.unpack_from(self._memory, at)[0])

    def _start(self, half: int) -> int:
        return START + half * (self._size // 2 - START // 2)


def _record(data: bytes) -> list[Change] | None:
    """What a record says; None for what no `put` has written: a predecessor that went wrong may have."""
    try:
        said = msgpack.unpackb(data)
        changes = [(key, value) for key, value in ([said] if isinstance(said[0], int) else said)]
    except Exception:  # msgpack raises a family of its own, ValueError, TypeError and IndexError
        return None
    return changes if all(isinstance(key, int) for key, _ in changes) else None
