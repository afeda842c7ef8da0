"""Fuzz targets of the network card: headers and offloads, the control queue, and what comes over a connection."""

from __future__ import annotations

import struct
from functools import cache

from devproc.net.device import NetDevice
from devproc.net.hub import OURS, HubPeer
from devproc.net.offload import (
    CSUM,
    FRAME_MAX,
    HEADER,
    TSO4,
    TSO6,
    NetHeader,
    finish_checksum,
    flow_hash,
    gso_offload,
    header_fits,
    segment,
)
from devproc.net.stream import Deframer
from native.memory import Area
from proto.virtio import NetControl, NetFeature, bit
from tests.fuzz.disk import chain, request_seed, unchanged_outside
from tests.fuzz.harness import Source, Target, block

SIZE = 4096
GUARD = 0xA5
SEGMENTS = 64  # of a frame are looked at

# -- offload -----------------------------------------------------------------------------------------------------------


@cache
def _area() -> Area:
    return Area.allocate(4 * SIZE)


def tcp4(payload: int = 100) -> bytes:
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 40 + payload, 1, 0, 64, 6, 0, 0x0A000001, 0x0A000002)
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 5, 0, 0) + bytes(payload)


def tcp6(payload: int = 100) -> bytes:
    ip = struct.pack(">IHBB", 0x60000000, 20 + payload, 6, 64) + bytes(32)
    return bytes(12) + b"\x86\xdd" + ip + struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 5, 0, 0) + bytes(payload)


def _offload_seeds() -> list[bytes]:
    def message(flags: int, gso: int, size: int, start: int, offset: int, frame: bytes) -> bytes:
        return b"\x07" + struct.pack("<BBHHHHH", flags, gso, 0, size, start, offset, 0) + frame

    vlan = tcp4()[:12] + b"\x81\0\0\1" + tcp4()[12:]
    return [
        message(0, 0, 0, 0, 0, tcp4()),
        message(1, 0, 0, 34, 16, tcp4()),
        message(1, 1, 30, 34, 16, tcp4()),
        message(1, 4, 30, 54, 16, tcp6()),
        message(1, 0x81, 7, 34, 16, tcp4(1)),
        message(1, 1, 30, 38, 16, vlan),
    ]


def _offload(data: bytes) -> None:
    """Whatever a header asks for, nothing is read or written outside message and segment (the area is the limit of
    what the Python run may touch; guards are in it)."""
    source, area = Source(data), _area()
    allowed_bits = source.number(1) & (CSUM | TSO4 | TSO6)
    head, frame = source.bytes(HEADER).ljust(HEADER, b"\0"), source.bytes(SIZE // 2)
    view = area.view()
    view[:] = bytes([GUARD]) * len(view)
    view[SIZE : SIZE + HEADER + len(frame)] = head + frame
    header, at = NetHeader(area.address + SIZE), area.address + SIZE + HEADER
    size, target = len(frame), area.address + 3 * SIZE
    assert 0 <= flow_hash(at, size) < 256
    if header_fits(header, at, size, allowed_bits):
        if gso_offload(header):
            total = 0
            for number in range(SEGMENTS):
                length = segment(header, at, size, number, target)
                if not length:
                    break
                assert HEADER < length <= HEADER + size
                total += length
        elif header.flags & 1:
            finish_checksum(header, at, size)
    view = area.view()
    around = bytes(view[:SIZE]) + bytes(view[SIZE + HEADER + size : 3 * SIZE]) + bytes(view[3 * SIZE + HEADER + size :])
    assert set(around) == {GUARD}, "a write outside the message and the segment"


# -- control queue -----------------------------------------------------------------------------------------------------


@cache
def _card() -> NetDevice:
    card = NetDevice("net0", {"mac": "52:54:00:12:34:56", "pairs": 4}, backend="user")
    from devproc.net.backend import parse_uri

    card._uri = parse_uri("user")
    card._kind = card._uri.backend
    card.frames = 0  # any descriptor: nothing is sent
    card._make_net()
    return card


def _control_seeds() -> list[bytes]:
    def order(kind: int, command: int, data: bytes) -> bytes:
        return request_seed(bytes([kind, command]) + data, 1, (2, 1))

    mac = bytes.fromhex("525400000001")
    return [
        order(NetControl.RX, 0, b"\1"),
        order(NetControl.MAC, 1, mac),
        order(NetControl.MAC, 0, struct.pack("<I", 2) + mac * 2 + struct.pack("<I", 1) + mac),
        order(NetControl.MAC, 0, struct.pack("<I", 80) + mac * 80 + struct.pack("<I", 0)),
        order(NetControl.ANNOUNCE, 0, b""),
        order(NetControl.MQ, 0, b"\2\0"),
        order(NetControl.GUEST_OFFLOADS, 0, bytes(8)),
    ]


def _control(data: bytes) -> None:
    source, card = Source(data), _card()
    card.reset()
    flags = source.number(1)
    card.driver_features = bit(NetFeature.MQ) if flags & 1 else 0
    made, memory, ranges = chain(source)
    before = bytes(memory)
    card.handle(made)
    unchanged_outside(before, memory, ranges)
    assert made.written == min(1, made.writable)
    assert 1 <= card._net.pairs <= 4 and card._net.unicast <= 64 and card._net.multicast <= 64


# -- connections -------------------------------------------------------------------------------------------------------


def _stream_seeds() -> list[bytes]:
    def frame(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    return [b"\5" + frame(tcp4()) + frame(tcp6()), b"\0" + frame(b"") * 3, b"\xff" + frame(b"x" * 60) + b"\xff" * 4]


def _stream(data: bytes) -> None:
    """However a connection's bytes are cut, the same frames come out."""
    step, run = max(1, data[0] if data else 1), data[1:]

    def frames(size: int) -> list[bytes] | None:
        deframer, found = Deframer(), []
        try:
            for at in range(0, len(run), size):
                found += deframer.feed(run[at : at + size])
        except ValueError:
            return None
        return found

    whole = frames(max(1, len(run)))
    cut = frames(step)
    assert whole == cut
    assert whole is None or all(len(frame) <= FRAME_MAX for frame in whole)


class _Port:
    """Somebody on the segment."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def send(self, frame: bytes | memoryview, header: bytes = b"") -> bool:
        self.got.append(bytes(frame))
        return True


def _hub_seeds() -> list[bytes]:
    return [bytes([1]) + block(bytes(HEADER) + tcp4()), bytes([2]) + block(bytes(HEADER) + b"\xff" * 14), bytes([0])]


def _hub(data: bytes) -> None:
    """Messages of members to the switch: none goes back to where it came from."""
    from devproc.net.backend import Target as Uri

    source, peer = Source(data), HubPeer(Uri("hub", "/nowhere"))
    ports = {number: _Port() for number in (3, 4)}
    ours = _Port()
    peer._wire, peer._ports = ours, ports  # type: ignore[assignment]
    everybody = {OURS: ours, **ports}
    while source.left:
        origin = (OURS, 3, 4)[source.number(1) % 3]
        message = source.block()
        if len(message) < HEADER + 14:
            continue
        before = len(everybody[origin].got)
        peer._forward(memoryview(message), origin)
        assert len(everybody[origin].got) == before
    assert len(peer._learned) <= 4096


TARGETS = (
    Target("offload", "headers of frames: checksums and segments (devproc.net.offload)", _offload, _offload_seeds),
    Target("control", "orders of the card's control queue (devproc.net.device)", _control, _control_seeds),
    Target("stream", "the framing of stream: (devproc.net.stream)", _stream, _stream_seeds),
    Target("hub", "messages between machines (devproc.net.hub)", _hub, _hub_seeds),
)
