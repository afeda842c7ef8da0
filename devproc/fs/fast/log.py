"""The journal's records as machine code writes them: the same bytes that `devproc.fs.journal` would take for them.

A record is put together where it will be, behind eight bytes of zeros, and counts from the moment at which its length
is there; so a kill leaves a whole record or none. Python reads what was written before it does anything itself.
"""

from __future__ import annotations

from devproc.fs.fast.shared import Share
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
    "put_false",
    "put_nothing",
    "put_number",
    "put_signed",
    "record_begin",
    "record_end",
]

RECORD_MAX = 2048  # bytes of any record that is written here, with room to spare
UNREAD_MAX = 512  # records: Python reads them all at once, in a millisecond or so
NIL, FALSE, BIN8, UINT64, INT64, ARRAY = 0xC0, 0xC2, 0xC4, 0xCF, 0xD3, 0x90  # msgpack


def _step(number: int, times: int) -> int:
    for _ in range(times):
        number = number >> 1 ^ (0xEDB88320 if number & 1 else 0)
    return number


CRC = table(u32, [_step(number, 8 * times) for times in (1, 2, 3, 4) for number in range(256)])


@fn
def checksum(address: u64, size: u64, start: u32) -> u32:
    """CRC-32, as zlib has it: by four bytes, and what is left by one. `start` is that of what comes before."""
    value: u32 = start ^ 0xFFFFFFFF
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
def log_fits(share: Share) -> bool:
    """May machine code write two records more? Otherwise Python must come first."""
    return share.log_at + 2 * RECORD_MAX < share.log_end and share.unread < UNREAD_MAX


@fn
def record_begin(share: Share, changes: u32) -> None:
    """A record of so many changes, each an array of key and value."""
    share.cursor = share.log_at + 8
    put_array(share, changes)


@fn
def record_end(share: Share) -> None:
    """The record counts."""
    begin: u64 = share.log_at + 8
    size: u64 = share.cursor - begin
    store32_unaligned(share.cursor, 0)
    store32_unaligned(begin - 4, checksum(begin, size, 0))
    fence()
    store32_unaligned(begin - 8, u32(size))
    share.log_at = share.cursor
    share.unread = share.unread + 1


@fn
def put_array(share: Share, count: u32) -> None:
    store8(share.cursor, u8(ARRAY + count))
    share.cursor = share.cursor + 1


@fn
def put_number(share: Share, value: u64) -> None:
    store8(share.cursor, UINT64)
    store64_unaligned(share.cursor + 1, bswap64(value))
    share.cursor = share.cursor + 9


@fn
def put_signed(share: Share, value: u64) -> None:
    """A number below 0, as its two's complement."""
    store8(share.cursor, INT64)
    store64_unaligned(share.cursor + 1, bswap64(value))
    share.cursor = share.cursor + 9


@fn
def put_bytes(share: Share, address: u64, size: u32) -> None:
    """At most 255."""
    store8(share.cursor, BIN8)
    store8(share.cursor + 1, u8(size))
    copy(share.cursor + 2, address, u64(size))
    share.cursor = share.cursor + 2 + u64(size)


@fn
def put_nothing(share: Share) -> None:
    store8(share.cursor, NIL)
    share.cursor = share.cursor + 1


@fn
def put_false(share: Share) -> None:
    store8(share.cursor, FALSE)
    share.cursor = share.cursor + 1
