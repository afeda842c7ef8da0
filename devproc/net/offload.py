"""What a network card does to frames: finish or check a checksum, cut a large TCP frame, tell flows apart.

Restricted Python on private memory: the caller has copied what it looks at, and a guest can no longer change it. A
*message* is a `NetHeader` and the frame it speaks of, one after the other. Everything in it may be wrong: what does
not fit the frame is refused (`header_fits`, or 0 from `segment`), and nothing is read or written outside `size`.
"""

from __future__ import annotations

from enum import IntEnum

from native import (
    Record,
    bswap16,
    bswap32,
    copy,
    fn,
    load8,
    load16_unaligned,
    load32_unaligned,
    load64_unaligned,
    relaxed,
    store8,
    store16_unaligned,
    store32_unaligned,
    u8,
    u16,
    u32,
    u64,
    wrap16,
    wrap32,
    wrap64,
)
from proto.virtio import NetGso, NetHeaderFlag

__all__ = [
    "CSUM",
    "ETHERNET",
    "FRAME_MAX",
    "HEADER",
    "TSO4",
    "TSO6",
    "NetHeader",
    "Protocol",
    "checksum_right",
    "finish_checksum",
    "flow_hash",
    "gso_offload",
    "header_fits",
    "segment",
]

ETHERNET = 14
HEADER = 12  # 5.1.6.1: num_buffers is always there with VERSION_1
FRAME_MAX = 65550  # Ethernet header, the largest IP packet, and a VLAN tag less one byte: 5.1.6.3.1's 65550

CSUM, TSO4, TSO6 = 1, 2, 4  # offloads, as bits: who takes what
UNKNOWN = 0xFFFFFFFF

IPV4, IPV6, VLAN = 0x0800, 0x86DD, 0x8100
NOT_NEEDS_CSUM = 0xFE
NOT_FIN_PSH, NOT_CWR = 0xF6, 0x7F  # masks of TCP flags


class Protocol(IntEnum):
    """IP's numbers of what has ports."""

    TCP = 6
    UDP = 17


class NetHeader(Record):
    """5.1.6: struct virtio_net_hdr, little-endian."""

    flags: u8 = relaxed()
    gso_type: u8 = relaxed()
    hdr_len: u16 = relaxed()
    gso_size: u16 = relaxed()
    csum_start: u16 = relaxed()
    csum_offset: u16 = relaxed()
    num_buffers: u16 = relaxed()


@fn
def gso_offload(header: NetHeader) -> u32:
    """The offload that a header asks for with its gso_type: TSO4, TSO6, 0 for none, or UNKNOWN."""
    kind: u8 = header.gso_type & 0x7F
    if kind == NetGso.NONE:
        return 0
    if kind == NetGso.TCPV4:
        return TSO4
    if kind == NetGso.TCPV6:
        return TSO6
    return UNKNOWN


@fn
def header_fits(header: NetHeader, frame: u64, size: u64, allowed: u32) -> bool:
    """Does the header ask only for what is allowed, and of this frame? `size` counts the frame alone."""
    gso: u32 = gso_offload(header)
    if gso == UNKNOWN or (gso & ~allowed) != 0:
        return False
    if (header.flags & NetHeaderFlag.NEEDS_CSUM) == 0:
        return gso == 0
    if (allowed & CSUM) == 0:
        return False
    if u64(header.csum_start) < ETHERNET or u64(header.csum_start) + u64(header.csum_offset) + 2 > size:
        return False
    return gso == 0 or _tcp_headers(header, frame, size) != 0


@fn
def _network_layer(frame: u64, size: u64) -> u64:
    """Where the packet in the frame begins; 0 when it does not."""
    if size < ETHERNET + 4:
        return 0
    return ETHERNET + 4 if bswap16(load16_unaligned(frame + 12)) == VLAN else ETHERNET


@fn
def _tcp_headers(header: NetHeader, frame: u64, size: u64) -> u64:
    """The length of all headers of a TCP frame that is to be segmented; 0 when it is none."""
    start: u64 = u64(header.csum_start)
    packet: u64 = _network_layer(frame, size)
    if packet == 0 or start + 20 > size or header.csum_offset != 16 or header.gso_size == 0:
        return 0
    version: u8 = load8(frame + packet) >> 4
    if gso_offload(header) == TSO4:
        if version != 4 or packet + 20 > start or packet + u64(load8(frame + packet) & 15) * 4 != start:
            return 0
    elif version != 6 or packet + 40 > start:
        return 0
    length: u64 = u64(load8(frame + start + 12) >> 4) * 4
    if length < 20 or start + length >= size:
        return 0
    return start + length


# Checksums: one's complement sums of 16-bit words do not depend on the byte order they are read in (RFC 1071).


@fn
def _sum(address: u64, size: u64, begun: u64) -> u64:
    """The sum of 16-bit words, not yet folded; an odd last byte counts as if a zero followed."""
    total: u64 = begun
    at: u64 = address
    end: u64 = address + size
    while at + 8 <= end:
        word: u64 = load64_unaligned(at)
        total = wrap64(total + (word & 0xFFFFFFFF) + (word >> 32))
        at = at + 8
    while at + 2 <= end:
        total = wrap64(total + u64(load16_unaligned(at)))
        at = at + 2
    if at < end:
        total = wrap64(total + u64(load8(at)))
    return total


@fn
def _folded(total: u64) -> u16:
    left: u64 = total
    while left >> 16 != 0:
        left = (left & 0xFFFF) + (left >> 16)
    return u16(left)


@fn
def finish_checksum(header: NetHeader, frame: u64, size: u64) -> None:
    """5.1.6.2: NEEDS_CSUM: sum from csum_start to the end, over the pseudo header's sum that is there already. The
    header must fit."""
    start: u64 = u64(header.csum_start)
    place: u64 = frame + start + u64(header.csum_offset)
    value: u16 = wrap16(~_folded(_sum(frame + start, size - start, 0)))
    if value == 0:
        value = 0xFFFF  # zero means "none" to UDP, and the two are the same number
    store16_unaligned(place, value)
    header.flags = header.flags & NOT_NEEDS_CSUM


@fn
def checksum_right(frame: u64, size: u64) -> bool:
    """Is the frame a TCP or UDP packet, whole and with a checksum that is right? False says nothing: of fragments, IPv6
    extension headers and everything else nobody has looked at it."""
    offset: u64 = _network_layer(frame, size)
    if offset == 0 or offset + 28 > size:
        return False
    packet: u64 = frame + offset
    kind: u16 = bswap16(load16_unaligned(packet - 2))
    start: u64 = 40
    end: u64 = 0
    protocol: u8 = 0
    total: u64 = 0
    if kind == IPV4 and load8(packet) >> 4 == 4:
        if (load16_unaligned(packet + 6) & bswap16(0x3FFF)) != 0:
            return False
        start = u64(load8(packet) & 15) * 4
        end = u64(bswap16(load16_unaligned(packet + 2)))
        protocol = load8(packet + 9)
        total = _sum(packet + 12, 8, 0)
    elif kind == IPV6 and load8(packet) >> 4 == 6 and offset + 40 <= size:
        end = 40 + u64(bswap16(load16_unaligned(packet + 4)))
        protocol = load8(packet + 6)
        total = _sum(packet + 8, 32, 0)
    if start < 20 or offset + end > size or start + 8 > end:
        return False
    length: u64 = end - start
    if protocol == Protocol.UDP:
        if load16_unaligned(packet + start + 6) == 0 or u64(bswap16(load16_unaligned(packet + start + 4))) != length:
            return False
    elif protocol != Protocol.TCP or length < 20:
        return False
    total = total + u64(bswap16(u16(protocol))) + u64(bswap16(u16(length)))
    return _folded(_sum(packet + start, length, total)) == 0xFFFF


@fn
def segment(header: NetHeader, frame: u64, size: u64, number: u32, target: u64) -> u64:
    """Make segment `number` (from 0) of a TCP frame as a message of its own at `target`, where there is room for `size`
    and a header; its checksums are complete. Returns the message's length, 0 when there is no such segment."""
    headers: u64 = _tcp_headers(header, frame, size)
    if headers == 0:
        return 0
    payload: u64 = size - headers
    part: u64 = u64(header.gso_size)
    offset: u64 = u64(number) * part
    if offset >= payload:
        return 0
    last: bool = offset + part >= payload
    if last:
        part = payload - offset
    fresh = NetHeader(target)
    fresh.flags = 0
    fresh.gso_type = NetGso.NONE
    fresh.hdr_len = 0
    fresh.gso_size = 0
    fresh.csum_start = header.csum_start
    fresh.csum_offset = header.csum_offset
    fresh.num_buffers = 0
    made: u64 = target + HEADER
    copy(made, frame, headers)
    copy(made + headers, frame + headers + offset, part)
    _mend_tcp(made + u64(header.csum_start), u32(offset), number == 0, last)
    _mend_packet(fresh, made, headers + part, number)
    fresh.csum_start = 0
    fresh.csum_offset = 0
    return HEADER + headers + part


@fn
def _mend_tcp(tcp: u64, offset: u32, first: bool, last: bool) -> None:
    """Sequence number and flags: FIN and PSH belong to the last segment, CWR to the first."""
    sequence: u32 = bswap32(load32_unaligned(tcp + 4))
    store32_unaligned(tcp + 4, bswap32(wrap32(sequence + offset)))
    flags: u8 = load8(tcp + 13)
    if not last:
        flags = flags & NOT_FIN_PSH
    if not first:
        flags = flags & NOT_CWR
    store8(tcp + 13, flags)


@fn
def _mend_packet(header: NetHeader, frame: u64, size: u64, number: u32) -> None:
    """Lengths, identification and checksums of the IP packet in a segment."""
    packet: u64 = frame + _network_layer(frame, size)
    start: u64 = u64(header.csum_start)
    length: u64 = size - start
    total: u64 = u64(bswap16(Protocol.TCP)) + u64(bswap16(wrap16(length)))
    if load8(packet) >> 4 == 4:
        store16_unaligned(packet + 2, bswap16(wrap16(frame + size - packet)))
        identification: u16 = bswap16(load16_unaligned(packet + 4))
        store16_unaligned(packet + 4, bswap16(wrap16(u32(identification) + number)))
        store16_unaligned(packet + 10, 0)
        store16_unaligned(packet + 10, wrap16(~_folded(_sum(packet, frame + start - packet, 0))))
        total = _sum(packet + 12, 8, total)
    else:
        store16_unaligned(packet + 4, bswap16(wrap16(frame + size - packet - 40)))
        total = _sum(packet + 8, 32, total)
    store16_unaligned(frame + start + 16, 0)
    value: u16 = wrap16(~_folded(_sum(frame + start, length, total)))
    store16_unaligned(frame + start + 16, value)


@fn
def flow_hash(frame: u64, size: u64) -> u32:
    """A byte that is the same for both directions of a TCP or UDP flow."""
    packet: u64 = _network_layer(frame, size)
    if packet == 0 or packet + 40 > size:
        return 0
    at: u64 = frame + packet
    mixed: u32 = 0
    ports: u64 = 0
    if load8(at) >> 4 == 4:
        mixed = load32_unaligned(at + 12) ^ load32_unaligned(at + 16)
        protocol: u8 = load8(at + 9)
        if (protocol == Protocol.TCP or protocol == Protocol.UDP) and (load16_unaligned(at + 6) & bswap16(0x3FFF)) == 0:
            ports = packet + u64(load8(at) & 15) * 4
    elif load8(at) >> 4 == 6:
        for word in range(u64(8)):
            mixed = mixed ^ load32_unaligned(at + 8 + 4 * word)
        if load8(at + 6) == Protocol.TCP or load8(at + 6) == Protocol.UDP:
            ports = packet + 40
    if ports != 0 and ports + 4 <= size:
        mixed = mixed ^ u32(load16_unaligned(frame + ports) ^ load16_unaligned(frame + ports + 2))
    mixed = mixed ^ (mixed >> 16)
    return (mixed ^ (mixed >> 8)) & 0xFF
