"""Fuzz targets of recordings: a file that anybody may have sent, and a tap that a device process has spoilt."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import msgpack

from launcher.record.words import requests_by_device, telling_of
from launcher.replay.place import scratch_pieces
from launcher.replay.source import load
from proto.errors import ConfigError, ProtocolError
from proto.recording import RecordingReader, RecordingWriter
from proto.tap import TAP_HEADER, Event, EventKind, Tap, TapReader, format_tap, pack_event, unpack_events
from tests.fuzz.harness import Source, Target, allowed, workshop

SIZE = 4096  # of the tap's ring
BLOCK = struct.Struct("<4sHHIIQ")
DEVICES = [{"id": "blk0", "device": "blk"}, {"id": "net0", "device": "net"}]


@cache
def _events() -> bytes:
    setup = msgpack.packb({"features": 1, "queues": {0: 16}, "status": 15, "config": b"\1" + bytes(7), "passive": [0]})
    events = [
        Event(EventKind.SETUP, 0, 0, 0, 0, 1, 0, len(setup), 0, setup),
        Event(EventKind.POP, 0, 3, 0, 0, 2, 7, 1 | 1 << 32, 16, struct.pack("<IIIIQ", 16, 513, 0, 0, 0)),
        Event(EventKind.DONE, 0, 3, 0, 0, 3, 7, 513, 0, bytes(513)),
        Event(EventKind.LOST, 0, 0, 0, 0, 4, 0, 5, 6, b""),
        Event(EventKind.MESSAGE, 0, 0, 0, 0, 5, 1, 3, 0, b"abc"),
    ]
    return b"".join(map(pack_event, events))


def _file(events: bytes) -> bytes:
    file = io.BytesIO()
    writer = RecordingWriter(file, {"machine": "m", "wall": 1, "devices": DEVICES})
    writer.events("blk0", events)
    writer.end({"reason": "x"})
    return file.getvalue()


def _seeds() -> list[bytes]:
    whole = _file(_events())
    return [b"\0" + whole, b"\1" + whole, b"\2" + _events()]


def _recording(data: bytes) -> None:
    """As it is, with its checksums mended, or around events that are anything: read, told, and made a script of."""
    how, data = (data[0] % 3 if data else 0), data[1:]
    if how == 2:
        data = _file(data)
    elif how == 1:
        data = _mended(bytearray(data))
    path = Path(workshop()) / "recording"
    path.write_bytes(data)
    with allowed(ProtocolError), RecordingReader(path) as reader:
        for id, requests in requests_by_device(reader).items():
            device = {"id": id, "device": id[:3]}
            assert all(isinstance(telling_of(device, request)["status"], str) for request in requests)
    with allowed(ConfigError):
        list(scratch_pieces(load(path, "blk0")))


def _mended(data: bytearray) -> bytes:
    at, number = 16, 0
    while at + BLOCK.size <= len(data):
        magic, kind, device, length, _, _ = BLOCK.unpack_from(data, at)
        if magic != b"BKBL" or length > len(data) - at - BLOCK.size:
            break
        body = bytes(data[at + BLOCK.size : at + BLOCK.size + length])
        crc = zlib.crc32(body, zlib.crc32(BLOCK.pack(magic, kind, device, length, 0, number)))
        BLOCK.pack_into(data, at, magic, kind, device, length, crc, number)
        at, number = at + BLOCK.size + length, number + 1
    return bytes(data)


def _tap_seeds() -> list[bytes]:
    events = _events()
    return [struct.pack("<QQ", tail + len(events), tail) + bytes(tail) + events for tail in (0, 8, 4000)]


def _tap(data: bytes) -> None:
    """Head, tail and the ring are anything."""
    source, area = Source(data), bytearray(TAP_HEADER + SIZE)
    view = memoryview(area)
    format_tap(view)
    struct.pack_into("<Q", area, Tap.offset("head"), source.number(8))
    struct.pack_into("<Q", area, Tap.offset("tail"), source.number(8))
    ring = source.bytes(SIZE)
    area[TAP_HEADER : TAP_HEADER + len(ring)] = ring
    reader = TapReader(view)
    with allowed(ValueError):
        found = reader.read()
        assert len(found) <= SIZE
        list(unpack_events(found))
    reader.close()


TARGETS = (
    Target("recording", "recordings (proto.recording), their requests and scripts", _recording, _seeds),
    Target("tap", "what a device process writes for its recorder (proto.tap)", _tap, _tap_seeds),
)
