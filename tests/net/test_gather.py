"""Segments put together: taken apart by the card's own machine code, they are the frames that came, in their order."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_offload import ones_sum

from devproc.net.gather import gather
from devproc.net.offload import HEADER, NetHeader, gso_offload, header_fits, segment
from native import Unit
from native.memory import Area

ROOM = 1 << 17
ACK, PSH, FIN = 0x10, 0x08, 0x01


@pytest.fixture(scope="module")
def apart() -> Any:
    """Take messages apart as the card does for a driver that takes no large frames."""
    run = Unit("test-gather", exports=[gso_offload, header_fits, segment]).load()
    area = Area.allocate(2 * ROOM)
    view = area.view()
    header, frame, target = NetHeader(area.address), area.address + HEADER, area.address + ROOM

    def messages(found: list[tuple[bytes, bytes]]) -> list[bytes]:
        frames = []
        for head, data in found:
            view[: HEADER + len(data)] = head + data
            assert run.header_fits(header, frame, len(data), 0xFFFFFFFF), "the card would refuse it"
            if not run.gso_offload(header):
                frames.append(data)
                continue
            for number in itertools.count():
                length = run.segment(header, frame, len(data), number, target)
                if not length:
                    break
                frames.append(bytes(view[ROOM + HEADER : ROOM + length]))
        return frames

    yield messages
    view.release()
    area.close()


def tcp(
    sequence: int, payload: bytes, number: int = 0, *, version: int = 4, flags: int = ACK, port: int = 5, **more: Any
) -> bytes:
    """A TCP segment whose checksums are right."""
    options = more.get("options", b"")
    head = struct.pack(
        ">HHIIBBHHH", port, 6, sequence, more.get("ack", 1), 5 + len(options) // 4 << 4, flags, 512, 0, 0
    )
    length = len(head) + len(options) + len(payload)
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, number & 0xFFFF, 0x4000, more.get("ttl", 64), 6, 0)
        ip = ip[:10] + struct.pack(">H", 0xFFFF ^ ones_sum(ip + addresses)) + addresses
    else:
        addresses = bytes(range(32))
        ip = struct.pack(">IHBB", 6 << 28, length, 6, 64) + addresses
    total = ones_sum(addresses + struct.pack(">HH", 6, length) + head + options + payload)
    head = head[:16] + struct.pack(">H", 0xFFFF ^ total) + head[18:]
    return b"\2\0\0\0\0\1\2\0\0\0\0\2" + (b"\x08\0" if version == 4 else b"\x86\xdd") + ip + head + options + payload


def train(sizes: list[int], version: int = 4, begin: int = 100, **more: Any) -> list[bytes]:
    """Segments in order, of so many bytes."""
    choose = random.Random(len(sizes))
    places = itertools.accumulate(sizes, initial=begin)
    return [
        tcp(place & 0xFFFFFFFF, choose.randbytes(size), 7 + number, version=version, **more)
        for number, (place, size) in enumerate(zip(places, sizes, strict=False))
    ]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [b"", bytes([1, 1, 8, 10]) + bytes(range(8))])
def test_a_burst_is_one_frame(apart: Callable[..., list[bytes]], version: int, options: bytes) -> None:
    frames = train([1448] * 20 + [333], version, options=options)
    found = list(gather(frames))
    assert len(found) == 1
    assert apart(found) == frames


def test_no_frame_is_larger_than_a_packet(apart: Callable[..., list[bytes]]) -> None:
    for version in (4, 6):
        frames = train([1448] * 100 + [9000] * 20, version, begin=0xFFFFFF00)  # the numbers come round, too
        found = list(gather(frames))
        assert max(len(data) for _, data in found) <= 65549
        assert len(found) < 8
        assert apart(found) == frames


DIFFERENT: dict[str, Callable[[bytes], bytes]] = {
    "a gap": lambda data: tcp(5000, data, 8),
    "what was there": lambda data: tcp(100, data, 8),
    "another port": lambda data: tcp(300, data, 8, port=9),
    "another acknowledgement": lambda data: tcp(300, data, 8, ack=2),
    "another TTL": lambda data: tcp(300, data, 8, ttl=63),
    "another identification": lambda data: tcp(300, data, 9),
    "options": lambda data: tcp(300, data, 8, options=bytes([1, 1, 1, 0])),
    "the end": lambda data: tcp(300, data, 8, flags=ACK | FIN),
    "longer": lambda data: tcp(300, data + b"more", 8),
    "no payload": lambda _: tcp(300, b"", 8),
    "padded": lambda data: tcp(300, data, 8) + b"\0",
    "a wrong checksum": lambda data: tcp(300, data, 8)[:-1] + b"\xff",
    "a wrong IP checksum": lambda data: (frame := tcp(300, data, 8))[:25] + bytes([frame[25] ^ 1]) + frame[26:],
    "a fragment": lambda data: (frame := tcp(300, data, 8))[:20] + b"\x20\x00" + frame[22:],
    "cut off": lambda data: tcp(300, data, 8)[:50],
    "no frame": lambda _: bytes(14),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_not_the_next_segment_stays_as_it_is(apart: Callable[..., list[bytes]], what: str) -> None:
    data = bytes(200)
    frames = [tcp(100, data, 7), DIFFERENT[what](data), tcp(700, data, 9)]
    found = list(gather(frames))
    assert [frame for _, frame in found] == frames
    assert {head for head, _ in found} == {bytes(HEADER)}


def test_a_pushed_segment_is_the_last_one(apart: Callable[..., list[bytes]]) -> None:
    frames = train([100] * 3)
    frames[1] = tcp(200, frames[1][54:], 8, flags=ACK | PSH)
    found = list(gather(frames))
    assert [len(data) for _, data in found] == [54 + 200, 54 + 100]
    assert apart(found) == frames


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=14, max_size=90),
            st.builds(
                lambda *words: train(*words), st.lists(st.integers(0, 3000), max_size=9), st.sampled_from([4, 6])
            ),
        ),
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_frames_are_what_they_were(apart: Callable[..., list[bytes]], parts: list[Any], choose: random.Random) -> None:
    """Whatever comes, damaged here and there."""
    frames = [frame for part in parts for frame in ([part] if isinstance(part, bytes) else part)]
    for _ in range(choose.randrange(3) if frames else 0):
        place = choose.randrange(len(frames))
        damaged = bytearray(frames[place])
        damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        frames[place] = bytes(damaged)
    assert apart(list(gather(frames))) == frames
