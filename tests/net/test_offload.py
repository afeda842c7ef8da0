"""Checksums, segments and flows: machine code against a few lines of Python, and on bytes that make no sense."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.net import offload
from devproc.net.offload import (
    CSUM,
    HEADER,
    TSO4,
    TSO6,
    NetHeader,
    checksum_right,
    finish_checksum,
    flow_hash,
    header_fits,
    segment,
)
from native import Unit
from native.memory import Area
from proto.virtio import NetGso, NetHeaderFlag

SIZE = 4096
GUARD = 0xA5
FUNCTIONS = [checksum_right, finish_checksum, flow_hash, header_fits, segment]


class Bench:
    """A message between two guards, and room for a segment between two more."""

    def __init__(self, functions: Any) -> None:
        self.run = functions
        self.area = Area.allocate(4 * SIZE)
        self.header = NetHeader(self.area.address + SIZE)
        self.frame = self.header.address + HEADER
        self.target = self.area.address + 3 * SIZE

    def put(self, head: bytes, data: bytes) -> None:
        view = self.area.view()
        view[:] = bytes([GUARD]) * len(view)
        view[SIZE : SIZE + HEADER + len(data)] = head + data

    def message(self, length: int) -> bytes:
        return bytes(self.area.view()[3 * SIZE : 3 * SIZE + length])

    def guarded(self, size: int) -> bool:
        """Nothing was written before or behind message and segment."""
        view = bytes(self.area.view())
        around = view[:SIZE] + view[SIZE + HEADER + size : 3 * SIZE] + view[3 * SIZE + HEADER + size :]
        return set(around) == {GUARD}


@pytest.fixture(params=["python", "native"], scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    functions = offload if request.param == "python" else Unit("test-offload", exports=FUNCTIONS).load()
    made = Bench(functions)
    yield made
    made.area.close()


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp6(payload: bytes, vlan: bool) -> tuple[bytes, int]:
    """A TCP segment in IPv6, with or without a VLAN tag, and where its TCP header begins."""
    addresses = bytes(range(32))
    tcp = struct.pack(">HHIIBBHHH", 5, 6, 100, 0, 5 << 4, 0x18, 1, 0, 0)
    ip = struct.pack(">IHBB", 6 << 28, len(tcp) + len(payload), 6, 64) + addresses
    kind = b"\x81\x00\x00\x05\x86\xdd" if vlan else b"\x86\xdd"
    return bytes(12) + kind + ip + tcp + payload, 14 + 4 * vlan + 40


def gso(kind: int, size: int, start: int, offset: int = 16) -> bytes:
    return struct.pack("<BBHHHHH", NetHeaderFlag.NEEDS_CSUM, kind, start + 20, size, start, offset, 0)


@given(st.binary(min_size=20, max_size=400), st.integers(14, 60), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_checksum_makes_the_sum_all_ones(bench: Bench, tail: bytes, start: int, offset: int) -> None:
    data = bytes(start) + tail
    bench.put(struct.pack("<BBHHHHH", NetHeaderFlag.NEEDS_CSUM, 0, 0, 0, start, offset, 0), data)
    if not bench.run.header_fits(bench.header, bench.frame, len(data), CSUM):
        assert start + offset + 2 > len(data)
        return
    bench.run.finish_checksum(bench.header, bench.frame, len(data))
    view = bytes(bench.area.view()[SIZE + HEADER : SIZE + HEADER + len(data)])
    at = start + offset
    old, new = data[at : at + 2], view[at : at + 2]
    expected = 0xFFFF ^ ones_sum(data[start:]) or 0xFFFF
    assert new == (expected.to_bytes(2, "big") if offset % 2 == 0 else new)
    assert view == data[:at] + new + data[at + 2 :], old
    assert bench.header.flags & NetHeaderFlag.NEEDS_CSUM == 0
    assert bench.guarded(len(data))


@pytest.mark.parametrize("vlan", [False, True])
def test_segments_of_ipv6_put_together_are_the_payload(bench: Bench, vlan: bool) -> None:
    payload = random.Random(1).randbytes(1000)
    data, start = tcp6(payload, vlan)
    bench.put(gso(NetGso.TCPV6, 300, start), data)
    assert bench.run.header_fits(bench.header, bench.frame, len(data), CSUM | TSO6)
    back = b""
    for number in range(4):
        length = bench.run.segment(bench.header, bench.frame, len(data), number, bench.target)
        packet = bench.message(length)[HEADER + start - 40 :]
        assert struct.unpack(">H", packet[4:6])[0] == len(packet) - 40
        assert ones_sum(packet[8:40] + struct.pack(">II", len(packet) - 40, 6) + packet[40:]) == 0xFFFF
        assert struct.unpack(">I", packet[44:48])[0] == 100 + 300 * number
        back += packet[60:]
    assert back == payload
    assert bench.run.segment(bench.header, bench.frame, len(data), 4, bench.target) == 0


def with_checksum(version: int, protocol: int, payload: bytes, vlan: bool, options: bytes = b"") -> bytes:
    """A TCP or UDP packet in IPv4 or IPv6 whose checksum is right."""
    addresses = bytes(range(1, 9)) if version == 4 else bytes(range(32))
    if protocol == 6:
        head = struct.pack(">HHIIBBH", 5, 6, 100, 0, 5 << 4, 0x18, 1) + b"\0\0\0\0"
    else:
        head = struct.pack(">HHHH", 5, 6, 8 + len(payload), 0)
    at = 16 if protocol == 6 else 6
    length = len(head) + len(payload)
    total = ones_sum(addresses + struct.pack(">HH", protocol, length) + head + payload)
    segment = head[:at] + (0xFFFF ^ total or 0xFFFF).to_bytes(2, "big") + head[at + 2 :] + payload
    if version == 4:
        words = 5 + len(options) // 4
        ip = struct.pack(">BBHHHBBH", 0x40 | words, 0, 4 * words + length, 7, 0x4000, 64, protocol, 0)
        ip += addresses + options
    else:
        ip = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + addresses
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return bytes(12) + (b"\x81\x00\x00\x05" if vlan else b"") + kind + ip + segment


@given(
    version=st.sampled_from([4, 6]),
    protocol=st.sampled_from([6, 17]),
    payload=st.binary(max_size=200),
    vlan=st.booleans(),
    padding=st.integers(0, 20),
    place=st.integers(0, 1000),
    change=st.integers(1, 255),
)
@settings(max_examples=150, deadline=None)
def test_a_checksum_is_right_until_a_byte_is_changed(
    bench: Bench, version: int, protocol: int, payload: bytes, vlan: bool, padding: int, place: int, change: int
) -> None:
    data = with_checksum(version, protocol, payload, vlan)
    bench.put(bytes(HEADER), data + bytes(padding))
    assert bench.run.checksum_right(bench.frame, len(data) + padding)
    assert not bench.run.checksum_right(bench.frame, len(data) - 1)
    first = 14 + 4 * vlan + (20 if version == 4 else 40)
    at = first + place % (len(data) - first)
    bench.put(bytes(HEADER), data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
    assert not bench.run.checksum_right(bench.frame, len(data))
    assert bench.guarded(len(data))


def test_nobody_vouches_for_what_was_not_summed(bench: Bench) -> None:
    def right(data: bytes) -> bool:
        bench.put(bytes(HEADER), data)
        return bool(bench.run.checksum_right(bench.frame, len(data)))

    tcp, udp = with_checksum(4, 6, b"data", False), with_checksum(4, 17, b"data", False)
    assert right(tcp) and right(udp) and right(with_checksum(4, 6, b"data", False, options=b"\1\1\1\0"))
    assert not right(tcp[:20] + b"\x20\x00" + tcp[22:])  # more fragments
    assert not right(tcp[:20] + b"\x00\x01" + tcp[22:])  # a later fragment
    assert not right(tcp[:23] + b"\x2f" + tcp[24:])  # neither TCP nor UDP
    assert not right(udp[:40] + b"\0\0" + udp[42:])  # UDP without
    assert not right(tcp[:14] + b"\x41" + tcp[15:])  # a header of four bytes
    assert not right(tcp[:12] + b"\x86\xdd" + tcp[14:])  # IPv4 in what says that it is IPv6
    assert not right(udp[:34] + b"\0\7" + udp[36:38] + b"\0\12" + udp[40:])  # UDP's length is not the packet's


def test_what_was_not_offered_is_refused(bench: Bench) -> None:
    data, start = tcp6(b"x" * 500, False)
    bench.put(gso(NetGso.TCPV6, 300, start), data)
    assert not bench.run.header_fits(bench.header, bench.frame, len(data), CSUM | TSO4)
    assert not bench.run.header_fits(bench.header, bench.frame, len(data), 0)
    bench.put(gso(NetGso.UDP, 300, start), data)
    assert not bench.run.header_fits(bench.header, bench.frame, len(data), 0xFFFFFFFF)
    bench.put(gso(NetGso.TCPV6, 0, start), data)
    assert not bench.run.header_fits(bench.header, bench.frame, len(data), CSUM | TSO6)


@given(
    head=st.binary(min_size=HEADER, max_size=HEADER),
    data=st.binary(min_size=14, max_size=300),
    kind=st.sampled_from([None, NetGso.TCPV4, NetGso.TCPV6]),
    number=st.integers(0, 5),
)
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_it_write_elsewhere(
    bench: Bench, head: bytes, data: bytes, kind: NetGso | None, number: int
) -> None:
    if kind is not None:  # something nearly right gets further
        whole, start = tcp6(data, False)
        at = data[0] % len(whole)
        data = whole[:at] + data[:2] + whole[at + 2 :]
        head = gso(kind, 1 + data[-1], start + (data[1] % 3 == 0))
    bench.put(head, data)
    bench.run.flow_hash(bench.frame, len(data))
    bench.run.checksum_right(bench.frame, len(data))
    if bench.run.header_fits(bench.header, bench.frame, len(data), 0xFFFFFFFF):
        length = bench.run.segment(bench.header, bench.frame, len(data), number, bench.target)
        assert length <= HEADER + len(data)
        if bench.header.flags & NetHeaderFlag.NEEDS_CSUM:
            bench.run.finish_checksum(bench.header, bench.frame, len(data))
    assert bench.guarded(len(data))


def test_both_directions_of_a_flow_are_one(bench: Bench) -> None:
    rng = random.Random(2)
    seen = set()
    for _ in range(50):
        one, two = rng.randbytes(4), rng.randbytes(4)
        ports = rng.randbytes(2), rng.randbytes(2)
        head = bytes(12) + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 60, 0, 0, 64, 17, 0)
        there = head + one + two + ports[0] + ports[1] + bytes(20)
        back = head + two + one + ports[1] + ports[0] + bytes(20)
        hashes = set()
        for data in (there, back):
            bench.put(bytes(HEADER), data)
            hashes.add(bench.run.flow_hash(bench.frame, len(data)))
        assert len(hashes) == 1
        seen |= hashes
    assert len(seen) > 30
