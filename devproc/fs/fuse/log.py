"""The journal's records as machine code writes them: the same bytes that `devproc.fs.journal` would take for them.

A record is put together where it will be, behind eight bytes of zeros, and counts from the moment at which its length
is there; so a kill leaves a whole record or none. Python reads what was written before it does anything itself.
"""

from __future__ import annotations

from devproc.fs.fuse.tables import Known
from native import (
    bswap64,
    copy,
    fence,
    fn,
    load8,
    load32_unaligned,
    store8,
    store32_unaligned,
    store64_unaligned,
    table,
    u8,
    u32,
    u64,
)

__all__ = [
    "checksum",
    "log_fits",
    "put_array",
    "put_bytes",
    "put_nothing",
    "put_number",
    "put_signed",
    "record_begin",
    "record_end",
]

RECORD_MAX = 2048  # bytes of any record that is written here, with room to spare
UNREAD_MAX = 512  # records: Python reads them all at once, in a millisecond or so
NIL, BIN8, UINT64, INT64, ARRAY = 0xC0, 0xC4, 0xCF, 0xD3, 0x90  # msgpack


def _step(number: int, times: int) -> int:
    for _ in range(times):
        number = number >> 1 ^ (0xEDB88320 if number & 1 else 0)
    return number


CRC = table(u32, [_step(number, 8 * times) for times in (1, 2, 3, 4) for number in range(256)])


@fn
def checksum(address: u64, size: u64) -> u32:
    """CRC-32, as zlib has it: by four bytes, and what is left by one."""
    value: u32 = 0xFFFFFFFF
    place: u64 = 0
    while place + 4 <= size:
        value = value ^ load32_unaligned(address + place)
        low: u32 = CRC[768 + (value & 0xFF)] ^ CRC[512 + (value >> 8 & 0xFF)]
        value = low ^ CRC[256 + (value >> 16 & 0xFF)] ^ CRC[value >> 24]
        place = place + 4
    while place < size:
        value = (value >> 8) ^ CRC[(value ^ u32(load8(address + place))) & 0xFF]
        place = place + 1
    return value ^ 0xFFFFFFFF


@fn
def log_fits(known: Known) -> bool:
    """May machine code write two records more? Otherwise Python must come first."""
    return known.log_at + 2 * RECORD_MAX < known.log_end and known.unread < UNREAD_MAX


@fn
def record_begin(known: Known, changes: u32) -> None:
    """A record of so many changes, each an array of key and value."""
    known.cursor = known.log_at + 8
    put_array(known, changes)


@fn
def record_end(known: Known) -> None:
    """The record counts."""
    begin: u64 = known.log_at + 8
    size: u64 = known.cursor - begin
    store32_unaligned(known.cursor, 0)
    store32_unaligned(begin - 4, checksum(begin, size))
    fence()
    store32_unaligned(begin - 8, u32(size))
    known.log_at = known.cursor
    known.unread = known.unread + 1


@fn
def put_array(known: Known, count: u32) -> None:
    store8(known.cursor, u8(ARRAY + count))
    known.cursor = known.cursor + 1


@fn
def put_number(known: Known, value: u64) -> None:
    store8(known.cursor, UINT64)
    store64_unaligned(known.cursor + 1, bswap64(value))
    known.cursor = known.cursor + 9


@fn
def put_signed(known: Known, value: u64) -> None:
    """A number below 0, as its two's complement."""
    store8(known.cursor, INT64)
    store64_unaligned(known.cursor + 1, bswap64(value))
    known.cursor = known.cursor + 9


@fn
def put_bytes(known: Known, address: u64, size: u32) -> None:
    """At most 255."""
    store8(known.cursor, BIN8)
    store8(known.cursor + 1, u8(size))
    copy(known.cursor + 2, address, u64(size))
    known.cursor = known.cursor + 2 + u64(size)


@fn
def put_nothing(known: Known) -> None:
    store8(known.cursor, NIL)
    known.cursor = known.cursor + 1
