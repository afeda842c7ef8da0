"""Fuzz targets of traces: a ring that a process gone wrong has written, and the language of filters."""

from __future__ import annotations

import struct
from functools import cache

from proto.errors import ConfigError
from proto.filters import parse
from proto.trace import (
    HEADER_BYTES,
    TRACE_SIZE,
    TraceHeader,
    TracePoint,
    TraceReader,
    format_trace,
    last_records,
    trace_text,
    unpack_records,
    write_trace,
)
from tests.fuzz.harness import Source, Target, allowed

SLOT = 64
MOST = 64  # slots of an input
RECORD = {"op": "WRITE", "latency": 0.001, "sector": 88, "device": "blk0", "bytes": 4096, "status": ""}


@cache
def _ring() -> bytearray:
    ring = bytearray(TRACE_SIZE)
    format_trace(memoryview(ring))
    return ring


def _ring_seeds() -> list[bytes]:
    ring = bytearray(_ring())
    for number, point in enumerate(TracePoint):
        write_trace(memoryview(ring), point, number, 1, 2, "text")
    slots = bytes(ring[HEADER_BYTES : HEADER_BYTES + MOST * SLOT])
    return [struct.pack("<QQ", count, 0) + slots for count in (len(TracePoint), 3, (1 << 64) - 1)]


def _trace(data: bytes) -> None:
    """The first slots, and how many were ever claimed, are anything."""
    source, ring = Source(data), bytearray(_ring())
    struct.pack_into("<Q", ring, TraceHeader.offset("next"), source.number(8))
    from_start = bool(source.number(8) & 1)
    slots = source.bytes(MOST * SLOT)
    ring[HEADER_BYTES : HEADER_BYTES + len(slots)] = slots
    view = memoryview(ring)
    reader = TraceReader(view, from_start=from_start)
    found = [*reader.read(MOST), *reader.read(MOST), *last_records(view, MOST)]
    with allowed(ValueError):
        found += unpack_records(slots)
    for record in found:
        assert isinstance(trace_text(record), str)
    reader.close()


def _filter_seeds() -> list[bytes]:
    return [
        b"latency > 1ms and op == WRITE and sector < 2048",
        b"not (device == 'blk0' or bytes >= 4KiB) and status",
        b'op in (READ, "WRITE") and device =~ "blk[0-9]"',
        b"sector != 0x58",
    ]


def _filter(data: bytes) -> None:
    with allowed(ConfigError):
        assert parse(data.decode("utf-8", "replace")[:200]).matches(RECORD) in (True, False)


TARGETS = (
    Target("trace", "trace rings of processes that went wrong (proto.trace)", _trace, _ring_seeds),
    Target("filter", "filters of traces (proto.filters)", _filter, _filter_seeds),
)
