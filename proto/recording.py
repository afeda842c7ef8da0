"""The file of a recording: what driver and devices said, with payload, in blocks that each carry a checksum.

    file    = MAGIC (8 bytes) version (u16) 0 (u16) 0 (u32), then blocks
    block   = "BKBL" kind (u16) device (u16) length (u32) crc (u32) number (u64), then `length` bytes
    kind    META: msgpack, the first block    EVENTS: whole events of one device (`proto.tap`)    END: msgpack, the last

`crc` is CRC-32 of the block's header without it and of its bytes; `number` counts the blocks from 0. Little-endian.
Blocks are only ever appended, so a recorder that is killed, or a full disk, leaves a file that is right up to some
block: `RecordingReader` reads so far, and `cut` says what it left. docs/recording.md has the fields of META and END.

Events of one device are in their order; those of several devices have times on one clock (CLOCK_MONOTONIC, to which
META's `wall` is added for the time of day).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import msgpack

from proto.errors import ProtocolError
from proto.messages import MESSAGES, message_fields
from proto.tap import Event, EventKind, unpack_events

__all__ = ["MAGIC", "VERSION", "BlockKind", "Recorded", "RecordingReader", "RecordingWriter", "Request", "requests_of"]

MAGIC = b"BULKREC\n"
VERSION = 1
_FILE = struct.Struct("<8sHHI")
_BLOCK = struct.Struct("<4sHHIIQ")
BLOCK_MAGIC = b"BKBL"
_RESET = MESSAGES["RESET"].number


class BlockKind(IntEnum):
    """What a block holds."""

    META = 1
    EVENTS = 2
    END = 3


class Recorded(NamedTuple):
    """An event and whose it is."""

    device: str
    event: Event


class Request(NamedTuple):
    """A request as it was taken, with its answer, if there was one."""

    number: int  # in the recording, of its device, from 0
    pop: Event
    done: Event | None
    sizes: tuple[int, ...]  # of the readable buffers
    room: tuple[int, ...]  # of the writable buffers
    readable: bytes

    @property
    def written(self) -> bytes:
        """What was written, as far as it was kept."""
        return self.done.payload if self.done is not None else b""


class RecordingWriter:
    """Writes a recording into a file that is open for writing, and empty. Every block is given to the host at once."""

    def __init__(self, file: BinaryIO, meta: Mapping[str, Any]) -> None:
        """`meta` has `devices`, a list of maps with at least `id`. Raises OSError, as every method."""
        self._file = file
        self._numbers = {device["id"]: number for number, device in enumerate(meta["devices"])}
        self._count = 0
        self.size = file.write(_FILE.pack(MAGIC, VERSION, 0, 0))
        self._block(BlockKind.META, 0, msgpack.packb({"version": VERSION, **meta}))

    def events(self, device: str, data: bytes) -> None:
        """Whole events of one device, as a tap gives them."""
        if data:
            self._block(BlockKind.EVENTS, self._numbers[device], data)

    def end(self, summary: Mapping[str, Any]) -> None:
        """The last block: this recording is whole."""
        self._block(BlockKind.END, 0, msgpack.packb(dict(summary)))

    def _block(self, kind: BlockKind, device: int, data: bytes) -> None:
        head = _BLOCK.pack(BLOCK_MAGIC, kind, device, len(data), 0, self._count)
        crc = zlib.crc32(data, zlib.crc32(head))
        self._file.write(_BLOCK.pack(BLOCK_MAGIC, kind, device, len(data), crc, self._count))
        self._file.write(data)
        self._file.flush()
        self._count += 1
        self.size += _BLOCK.size + len(data)


class RecordingReader:
    """A recording, read from its beginning. `meta` is there at once; `end` and `cut` once all events were read."""

    def __init__(self, path: Path | str) -> None:
        """Raises OSError, and ProtocolError when this is no recording, or one of another version."""
        self.path = Path(path)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        self.end: dict[str, Any] | None = None  # what END says; None: it was not reached
        self.cut = ""  # what is wrong with the end of the file
        self._start = 0  # of the blocks behind META
        self._number = 0  # of the next block
        try:
            self.meta = self._begin()
        except BaseException:
            self._file.close()
            raise
        self.devices: list[dict[str, Any]] = self.meta["devices"]

    def events(self) -> Iterator[Recorded]:
        """All events, device by device in their order. May be called again."""
        self._file.seek(self._start)
        self._number = 1
        self.end, self.cut = None, ""
        while (block := self._next()) is not None:
            kind, device, data = block
            if kind == BlockKind.END:
                self._finish(data)
                return
            if kind != BlockKind.EVENTS:
                continue  # of a later version
            try:
                for event in unpack_events(data):
                    yield Recorded(self.devices[device]["id"], event)
            except (ValueError, IndexError) as error:
                self.cut = f"block {self._number - 1} is damaged: {error}"
                return
        if not self.cut:
            self.cut = "the recorder did not end it"

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> dict[str, Any]:
        head = self._file.read(_FILE.size)
        if len(head) < _FILE.size or head[: len(MAGIC)] != MAGIC:
            raise ProtocolError(f"{self.path} is no recording", field="magic")
        _, version, _, _ = _FILE.unpack(head)
        if version != VERSION:
            raise ProtocolError(f"{self.path} is of version {version}; this reads {VERSION}", field="version")
        self._number, self.cut = 0, ""
        block = self._next()
        if block is None or block[0] != BlockKind.META:
            raise ProtocolError(f"{self.path} does not say what it is: {self.cut or 'it is empty'}", field="meta")
        meta = _map(block[2])
        self._start = self._file.tell()
        devices = meta.get("devices")
        if not isinstance(devices, list) or not all(_is_device(device) for device in devices):
            raise ProtocolError(f"{self.path} does not say whose it is", field="devices")
        return meta

    def _next(self) -> tuple[int, int, bytes] | None:
        """The next whole block, or None: `cut` says whether there is something that is none."""
        at = self._file.tell()
        head = self._file.read(_BLOCK.size)
        if not head:
            return None
        left = os.fstat(self._file.fileno()).st_size - at
        if len(head) < _BLOCK.size:
            self.cut = f"the last {left} bytes are no whole block"
            return None
        magic, kind, device, length, crc, number = _BLOCK.unpack(head)
        if magic == BLOCK_MAGIC and length > left - _BLOCK.size:
            self.cut = f"the last {left} bytes are no whole block"
            return None
        data = self._file.read(length) if magic == BLOCK_MAGIC else b""
        bare = _BLOCK.pack(magic, kind, device, length, 0, number)
        if magic != BLOCK_MAGIC or number != self._number or zlib.crc32(data, zlib.crc32(bare)) != crc:
            self.cut = f"block {self._number} is damaged; it and what follows, {left} bytes, are left out"
            return None
        self._number += 1
        return kind, device, data

    def _finish(self, data: bytes) -> None:
        try:
            self.end = _map(data)
        except ProtocolError as error:
            self.cut = str(error)


def _map(data: bytes) -> dict[str, Any]:
    """Raises ProtocolError."""
    try:
        found = msgpack.unpackb(data, strict_map_key=False)
    except Exception as error:
        raise ProtocolError(f"this is no description: {error}", field="meta") from error
    if not isinstance(found, dict):
        raise ProtocolError("this is no description", field="meta")
    return found


def _is_device(device: Any) -> bool:
    return isinstance(device, dict) and isinstance(device.get("id"), str)


def requests_of(events: Iterator[Event]) -> Iterator[Request]:
    """Requests of one device in the order in which they were taken, each once its answer is known; those without one
    come last. One that was taken again by a successor is one request. Answers to requests from before the recording
    are left out."""
    waiting: dict[tuple[int, int], Request] = {}
    order: list[tuple[int, int]] = []
    finished: dict[tuple[int, int], Request] = {}
    count = 0
    for event in events:
        key = (event.queue, event.id)
        if event.kind == EventKind.POP:
            if key in waiting:  # again: the payload of the first time is what the driver asked
                continue
            waiting[key] = _request(count, event)
            order.append(key)
            count += 1
        elif event.kind == EventKind.DONE and key in waiting:
            finished[key] = waiting.pop(key)._replace(done=event)
        elif event.kind == EventKind.MESSAGE and message_fields(event.payload)[0] == _RESET:
            yield from (finished.get(key) or waiting[key] for key in order)  # ids begin anew
            waiting, order, finished = {}, [], {}
        while order and order[0] in finished:
            yield finished.pop(order.pop(0))
    for key in order:
        yield finished.get(key) or waiting[key]


def _request(number: int, pop: Event) -> Request:
    readable, writable = pop.a & 0xFFFFFFFF, pop.a >> 32
    count = min(readable + writable, len(pop.payload) // 4)
    lengths = struct.unpack_from(f"<{count}I", pop.payload)
    return Request(number, pop, None, lengths[:readable], lengths[readable:], pop.payload[4 * count :])
