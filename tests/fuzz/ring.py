"""Fuzz target of the virtqueue: the readable run of proto.ring, on guest memory that an input filled.

The Python run refuses every access outside the areas it was given, so a wild read or write is an exception. Beyond
that: every segment of a popped chain lies in guest memory, and a writable one in memory that may be written.
"""

from __future__ import annotations

import struct
import sys
from functools import cache
from pathlib import Path

from native.memory import Area
from proto.ring import (
    MAX_SEGMENTS,
    Pop,
    chain_read,
    chain_write,
    ring_arm,
    ring_flush,
    ring_forget,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_recover,
    ring_rewind,
    ring_should_call,
)
from tests.fuzz.harness import Source, Target

sys.path.append(str(Path(__file__).parents[1] / "proto"))
from guest_ring import AVAIL, BASE, DATA, DESC, INDIRECT, NEXT, READ_ONLY, REGION, USED, WRITE, GuestRing

NUM = 16
TABLES = ((DESC, 16 * NUM), (AVAIL, 6 + 2 * NUM), (USED, 6 + 8 * NUM))
FILLING = b"\x5a" * REGION


@cache
def _guest() -> GuestRing:
    return GuestRing(NUM)


@cache
def _scratch() -> Area:
    return Area.allocate(32)


def describe(*descriptors: tuple[int, int, int, int]) -> bytes:
    """A descriptor table."""
    return b"".join(struct.pack("<QIHH", *each) for each in descriptors)


def offer(*heads: int, idx: int | None = None) -> bytes:
    """An available ring."""
    return struct.pack(f"<HH{len(heads)}H", 0, len(heads) if idx is None else idx, *heads)


def shape(
    event_idx: bool, indirect: bool, inflight: bytes, table: bytes, avail: bytes, used: bytes, data: bytes
) -> bytes:
    """An input: what the driver and a predecessor left in memory, and the indirect tables."""
    parts = (table, avail, used, inflight, data)
    return bytes([event_idx | indirect << 1]) + b"".join(struct.pack("<H", len(part)) + part for part in parts)


def seeds() -> list[bytes]:
    buffer = BASE + DATA
    simple = describe((buffer, 16, NEXT, 1), (buffer + 4096, 64, WRITE, 0))
    across = describe((BASE + REGION - 100, 200, 0, 0))
    indirect = describe((buffer, 32, INDIRECT, 0))
    loop = describe((buffer, 16, NEXT, 1), (buffer, 16, NEXT, 0))
    wrong = describe((READ_ONLY, 16, WRITE, 0), (0, 1, NEXT, 2), (buffer, 0, 0, 0))
    inner = describe((buffer + 512, 16, NEXT, 1), (buffer + 1024, 16, WRITE, 0))
    inflight = _inflight()
    return [
        shape(True, True, b"", simple, offer(0), b"", b""),
        shape(False, True, b"", across, offer(0, 0), b"", b""),
        shape(True, True, b"", indirect, offer(0), b"", inner),
        shape(True, False, b"", indirect, offer(0), b"", inner),
        shape(True, True, b"", loop, offer(0), b"", b""),
        shape(True, True, b"", wrong, offer(0, 1, 2, 0), b"", b""),
        shape(True, True, b"", simple, offer(0, idx=500), b"", b""),
        shape(True, True, inflight, simple, offer(0, 0), b"\0\0\1\0", b""),
    ]


def _inflight() -> bytes:
    """A predecessor's table, two requests taken and one of them given back."""
    guest = _guest()
    _clear(guest)
    guest.chain_of((BASE + DATA, 16, 0))
    guest.offer(0)
    ring_recover(guest.ring)
    assert ring_pop(guest.ring, guest.chain) == Pop.CHAIN
    return bytes(guest.inflight.view())


def _clear(guest: GuestRing) -> None:
    for area in guest.areas:
        area.view()[:] = FILLING
    for start, size in TABLES:
        guest.areas[0].view()[start : start + size] = bytes(size)
    guest.inflight.view()[:] = bytes(len(guest.inflight.view()))
    guest.start()


def run(data: bytes) -> None:
    source, guest = Source(data), _guest()
    flags = source.number(1)
    guest.event_idx, guest.indirect = bool(flags & 1), bool(flags & 2)
    _clear(guest)
    ram, table = guest.areas[0].view(), guest.inflight.view()
    for start, most in (*TABLES, (None, len(table)), (DATA, 0x4000)):
        part = source.block()[:most]
        into, at = (table, 0) if start is None else (ram, start)
        into[at : at + len(part)] = part
    again = ring_recover(guest.ring)
    assert again <= NUM
    for _ in range(2 * NUM + 2):
        if not ring_has_work(guest.ring):
            break
        found = ring_pop(guest.ring, guest.chain)
        if found != Pop.CHAIN:
            assert found == Pop.EMPTY or guest.ring.error
            break
        _use(guest)
    ring_flush(guest.ring)
    ring_should_call(guest.ring)
    ring_arm(guest.ring)
    ring_rewind(guest.ring)
    assert bytes(guest.areas[2].view()) == FILLING, "memory was written that is read-only to devices"
    ring_forget(guest.header)


def _use(guest: GuestRing) -> None:
    """Check the chain, fill what may be filled, give it back."""
    chain = guest.chain
    assert chain.readable + chain.writable <= MAX_SEGMENTS
    for number, (region, start, length) in enumerate(guest.segments()):
        assert 0 < length <= REGION and start + length <= REGION and region in (10, 11, 12)
        assert number < chain.readable or region != 12
    small = min(chain.writable_bytes, 32)
    scratch = _scratch().address
    assert chain_read(chain, 0, scratch, 32) == min(chain.readable_bytes, 32)
    assert chain_write(chain, 0, scratch, small) == small
    ring_put(guest.ring, chain, small)
    if chain.counter & 1:
        ring_flush(guest.ring)


TARGETS = (Target("ring", "virtqueues: descriptors, rings and in-flight tables (proto.ring)", run, seeds),)
