"""TCP segments that came together, put together: one large frame costs a guest little more than each of them would.

What network cards and Linux call receive offload (LRO, GRO). Only what `devproc.net.offload.segment` would take apart
into the very same frames again is put together: segments of one connection in order, alike in all but length,
identification and sequence number, all of the first one's size but for a last that is shorter or pushed, each whole and
with checksums that are right. Every other frame stays as it is, and frames keep their order.

Does not: wait for more than is there; look behind VLAN tags, IP options or IPv6 extension headers, or at padded frames.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from devproc.net.offload import ETHERNET, HEADER, Protocol
from proto.virtio import NetGso, NetHeaderFlag

__all__ = ["gather"]

PLAIN = bytes(HEADER)  # struct virtio_net_hdr of a frame that asks for nothing
IPV4, IPV6 = b"\x08\x00\x45", b"\x86\xdd\x60"  # EtherType and the first byte behind it: no options; class below 16
PACKET_MAX = 65535
TCP_LEAST = 20
FRAGMENTED = 0x3FFF  # more fragments, or not the first
ACK, PSH = 0x10, 0x08
_HEADER = struct.Struct("<BBHHHHH")


@dataclass(slots=True)
class _Segment:
    """A TCP segment: where things are in its frame, and what it has in common with its like."""

    frame: bytes
    kind: NetGso
    addresses: int  # where the IP addresses begin,
    tcp: int  # the TCP header
    data: int  # and its payload
    alike: bytes
    sequence: int
    identification: int  # IPv4's
    pushed: bool

    @property
    def size(self) -> int:
        return len(self.frame) - self.data


def gather(frames: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The messages for these frames, each a `NetHeader` and a frame."""
    train = _Train()
    for frame in frames:
        segment = _parse(frame)
        if segment is None:
            yield from train.leave()
            yield PLAIN, frame
            continue
        if not train.takes(segment):
            yield from train.leave()
        train.segments.append(segment)
    yield from train.leave()


@dataclass(slots=True)
class _Train:
    """Segments that go together."""

    segments: list[_Segment] = field(default_factory=list)

    def takes(self, segment: _Segment) -> bool:
        """Is it the next one?"""
        if not self.segments:
            return True
        first, last = self.segments[0], self.segments[-1]
        count = len(self.segments)
        return (
            segment.alike == first.alike
            and segment.sequence == (first.sequence + count * first.size) & 0xFFFFFFFF
            and segment.size <= first.size == last.size
            and not last.pushed
            and len(segment.frame) + count * first.size <= ETHERNET + PACKET_MAX
            and (first.kind == NetGso.TCPV6 or segment.identification == (first.identification + count) & 0xFFFF)
        )

    def leave(self) -> Iterator[tuple[bytes, bytes]]:
        """The message that they make; there are none left."""
        segments, self.segments = self.segments, []
        if len(segments) > 1:
            yield _together(segments)
        elif segments:
            yield PLAIN, segments[0].frame


def _parse(frame: bytes) -> _Segment | None:
    """Take a frame apart, if it may be part of a train."""
    if frame[12:15] == IPV4 and len(frame) >= ETHERNET + 20 + TCP_LEAST:
        kind, addresses, tcp = NetGso.TCPV4, 26, ETHERNET + 20
        end, protocol, fragment = ETHERNET + int.from_bytes(frame[16:18]), frame[23], int.from_bytes(frame[20:22])
        alike = frame[:16] + frame[20:24]
        if fragment & FRAGMENTED or int.from_bytes(frame[ETHERNET:tcp]) % 0xFFFF:
            return None
    elif frame[12:15] == IPV6 and len(frame) >= ETHERNET + 40 + TCP_LEAST:
        kind, addresses, tcp = NetGso.TCPV6, 22, ETHERNET + 40
        end, protocol = tcp + int.from_bytes(frame[18:20]), frame[20]
        alike = frame[:18] + frame[20:22]
    else:
        return None
    data = tcp + (frame[tcp + 12] >> 4) * 4
    if protocol != Protocol.TCP or frame[tcp + 13] & ~PSH != ACK or not tcp + TCP_LEAST <= data < end == len(frame):
        return None
    if (_sum(frame[addresses:]) + Protocol.TCP + end - tcp) % 0xFFFF:
        return None
    sequence, identification = int.from_bytes(frame[tcp + 4 : tcp + 8]), int.from_bytes(frame[18:20])
    alike += frame[addresses : tcp + 4] + frame[tcp + 8 : tcp + 13] + frame[tcp + 14 : tcp + 16]
    alike += frame[tcp + 18 : data]
    return _Segment(frame, kind, addresses, tcp, data, alike, sequence, identification, bool(frame[tcp + 13] & PSH))


def _sum(data: bytes | bytearray) -> int:
    """The sum of 16-bit words, big-endian, modulo 65535 (RFC 1071): what a number is modulo that, its words are."""
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0") % 0xFFFF


def _together(segments: list[_Segment]) -> tuple[bytes, bytes]:
    """One large frame: the first one's headers with new lengths and sums, the last one's flags, everybody's payload."""
    first = segments[0]
    tcp, data = first.tcp, first.data
    head = bytearray(first.frame[:data])
    payload = b"".join([each.frame[each.data :] for each in segments])
    length = data - tcp + len(payload)
    if first.kind == NetGso.TCPV4:
        head[16:18] = (20 + length).to_bytes(2)
        head[24:26] = bytes(2)
        head[24:26] = (-int.from_bytes(head[ETHERNET:tcp]) % 0xFFFF).to_bytes(2)
    else:
        head[18:20] = length.to_bytes(2)
    head[tcp + 13] = segments[-1].frame[tcp + 13]
    head[tcp + 16 : tcp + 18] = ((_sum(head[first.addresses : tcp]) + Protocol.TCP + length) % 0xFFFF).to_bytes(2)
    return _HEADER.pack(NetHeaderFlag.NEEDS_CSUM, first.kind, data, first.size, tcp, 16, 0), bytes(head) + payload
