"""The frames of recorded network cards as pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tshark open.

Each card is an interface with its name and times in nanoseconds; each frame is an Enhanced Packet Block that says
whether the guest sent or received it. The virtio header before a frame is left away, a frame that was received in
several buffers (5.1.6.4) is put together again, and a checksum that was left to the other side (5.1.6.2) is finished,
as it is before the frame is on any wire. What was handed over large is one large frame.
"""

from __future__ import annotations

import heapq
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from proto.recording import Request
from proto.virtio import NetHeaderFlag

__all__ = ["Frame", "cards_of", "finished", "frames_of", "received_frames", "write_pcapng"]

HEADER = 12  # struct virtio_net_hdr
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
ETHERNET = 1
SNAPLEN = 0
IF_NAME, IF_DESCRIPTION, IF_TSRESOL = 2, 3, 9
USERAPPL = 4
EPB_FLAGS = 2
INBOUND, OUTBOUND = 1, 2


class Frame(NamedTuple):
    """One frame of a card."""

    time: int  # ns since 1970
    interface: int
    sent: bool  # by the guest
    data: bytes


def write_pcapng(output: BinaryIO, cards: list[tuple[str, list[Request]]], wall: int, program: str) -> int:
    """Write the frames of these cards, in the order of their times. Returns how many there were. Raises OSError."""
    output.write(_block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options([(USERAPPL, program.encode())])))
    for name, _ in cards:
        options = [(IF_NAME, name.encode()), (IF_DESCRIPTION, b"virtio-net of the guest"), (IF_TSRESOL, b"\x09")]
        output.write(_block(INTERFACE, struct.pack("<HHI", ETHERNET, 0, SNAPLEN) + _options(options)))
    count = 0
    for frame in heapq.merge(
        *(sorted(frames_of(requests, number, wall)) for number, (_, requests) in enumerate(cards))
    ):
        flags = struct.pack("<I", OUTBOUND if frame.sent else INBOUND)
        head = struct.pack(
            "<IIIII", frame.interface, frame.time >> 32, frame.time & 0xFFFFFFFF, len(frame.data), len(frame.data)
        )
        output.write(_block(PACKET, head + _padded(frame.data) + _options([(EPB_FLAGS, flags)])))
        count += 1
    return count


def frames_of(requests: list[Request], interface: int = 0, wall: int = 0) -> Iterator[Frame]:
    """The frames in the requests of a card. Queues are receive, transmit, …, control."""
    for request in requests:
        if request.pop.queue % 2 and len(request.readable) > HEADER:
            data = finished(request.readable[:HEADER], request.readable[HEADER:])
            yield Frame(request.pop.time + wall, interface, True, data)
    for request, frame in received_frames(requests):
        data = finished(request.written[:HEADER], frame.data)
        yield frame._replace(time=frame.time + wall, interface=interface, data=data)


def finished(header: bytes, frame: bytes) -> bytes:
    """The frame with its checksum, if the header says that there is only the pseudo-header's sum in its place."""
    if len(header) < HEADER or not header[0] & NetHeaderFlag.NEEDS_CSUM:
        return frame
    start, offset = struct.unpack_from("<HH", header, 6)
    if start + offset + 2 > len(frame):
        return frame
    summed = frame[start:] + bytes((len(frame) - start) % 2)
    total = sum(array("H", summed))  # one's complement: the byte order is that of the sum (RFC 1071)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = ~total & 0xFFFF or 0xFFFF  # UDP has another meaning for 0
    return frame[: start + offset] + checksum.to_bytes(2, sys.byteorder) + frame[start + offset + 2 :]


def received_frames(requests: list[Request]) -> Iterator[tuple[Request, Frame]]:
    """The frames that the driver was given, each with the request that has its beginning. The buffers of one frame are
    given back at one time (`num_buffers` is written only afterwards)."""
    frames: dict[tuple[int, int], tuple[Request, list[bytes]]] = {}
    for request in requests:
        if request.pop.queue % 2 or request.readable or request.done is None or not request.written:
            continue
        frames.setdefault((request.pop.queue, request.done.time), (request, []))[1].append(request.written)
    for (_, time), (first, parts) in frames.items():
        data = b"".join(parts)
        if len(data) > HEADER:
            yield first, Frame(time, 0, False, data[HEADER:])


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    found = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
    return found + bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def cards_of(devices: list[dict[str, Any]], requests: Mapping[str, list[Request]]) -> list[tuple[str, list[Request]]]:
    """The network cards among recorded devices."""
    return [(device["id"], requests[device["id"]]) for device in devices if device.get("device") == "net"]
