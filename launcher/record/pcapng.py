"""The frames of recorded network cards as pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tshark open.

Each card is an interface with its name and times in nanoseconds; each frame is an Enhanced Packet Block that says
whether the guest sent or received it. The virtio header before a frame is left away, and a frame that was received in
several buffers (5.1.6.4) is put together again.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from proto.recording import Request

__all__ = ["Frame", "cards_of", "frames_of", "received_frames", "write_pcapng"]

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
            yield Frame(request.pop.time + wall, interface, True, request.readable[HEADER:])
    for _, frame in received_frames(requests):
        yield frame._replace(time=frame.time + wall, interface=interface)


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
