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
from devproc.net.offload import CSUM, HEADER, TSO4, TSO6, NetHeader, finish_checksum, flow_hash, header_fits, segment
from native import Unit
from native.memory import Area
from proto.virtio import NetGso, NetHeaderFlag

SIZE = 4096
GUARD = 0xA5
FUNCTIONS = [finish_checksum, flow_hash, header_fits, segment]


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
