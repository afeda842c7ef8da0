"""A network card's driver, as the tests play it: a real device process, and the far end of its cable."""

from __future__ import annotations

import os
import socket
import struct

from devproc.kept import KEPT_SIZE
from devproc.net.offload import HEADER
from launcher.replay.frontend import GPA, FrontEnd, QueueLayout
from proto.virtio import NetFeature, bit

NEXT, WRITE = 1, 2
BUFFERS = 0x400000  # where the queues' buffers begin in RAM
ROOM = 0x20000  # bytes of one request
SLOTS = 16  # requests a queue
HEADER_FORMAT = struct.Struct("<BBHHHHH")
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400000001")
BROADCAST = b"\xff" * 6


def header(flags: int = 0, gso: int = 0, length: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    """struct virtio_net_hdr, num_buffers 0."""
    return HEADER_FORMAT.pack(flags, gso, length, size, start, offset, 0)


def frame(payload: bytes = b"", *, to: bytes = MAC, source: bytes = OTHER, kind: int = 0x88B5) -> bytes:
    """An Ethernet frame, by default of the local experimental type."""
    return to + source + kind.to_bytes(2, "big") + payload.ljust(46, b"\0")


def ones_sum(data: bytes) -> int:
    """RFC 1071, one word after the other."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_frame(payload: bytes, flags: int = 0x18) -> tuple[bytes, int]:
    """A TCP segment in IPv4 with the pseudo header's sum for a checksum, and where its TCP header begins."""
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 7, 9, 5 << 4, flags, 500, 0, 0)
    source, target = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
    pseudo = ones_sum(source + target + struct.pack(">HH", 6, len(tcp) + len(payload)))
    tcp = tcp[:16] + struct.pack(">H", pseudo) + tcp[18:]
    total = 20 + len(tcp) + len(payload)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, total, 77, 0x4000, 64, 6, 0) + source + target
    ip = ip[:10] + struct.pack(">H", 0xFFFF ^ ones_sum(ip)) + ip[12:]
    return OTHER + MAC + b"\x08\x00" + ip + tcp + payload, 34


class Card:
    """A device process behind a backend's name, and its cable: `wire` is the peer's end."""

    def __init__(self, backend: str, properties: dict[str, object] | None = None, capture: str = "") -> None:
        ours, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.settimeout(60)
        self._lent = {"frames": ours.detach(), "kept": os.memfd_create("kept")}
        os.truncate(self._lent["kept"], KEPT_SIZE)
        if capture:
            self._lent["capture"] = os.open(capture, os.O_RDWR | os.O_CREAT, 0o600)
        given = {"mac": MAC.hex(":"), **(properties or {})}
        self.front = FrontEnd("net", given, backend=backend, lent=self._lent)
        self.pairs = int(str(given.get("pairs", 1)))
        self.queues: list[QueueLayout] = []
        self._turn: dict[int, int] = {}

    def start(self, features: int | None = None) -> Card:
        """Start the process and its driver; `features` are those accepted (default: all)."""
        hello = self.front.start()
        if self.wire.gettimeout() and hello["features"] & bit(NetFeature.MAC):
            self.skip_words()
        self.front.negotiate(features)
        accepted = self.front.features
        pairs = self.pairs if accepted & bit(NetFeature.MQ) else 1
        for index in range(2 * pairs + 1):
            self.queues.append(self.front.add_queue(index, 64, index * 0x10000))
        self.front.driver_ok()
        return self

    def skip_words(self) -> None:
        """What the device asked of its peer."""
        self.wire.settimeout(0.2)
        try:
            while len(self.wire.recv(8, socket.MSG_PEEK)) == 4:
                self.wire.recv(8)
        except TimeoutError:
            pass
        self.wire.settimeout(60)

    @property
    def control(self) -> QueueLayout:
        return self.queues[-1]

    def put(self, queue: int, readable: list[bytes], writable: list[int]) -> int:
        """Put a chain of such buffers into a queue's ring, at its next slot. Returns the slot."""
        layout, ram = self.queues[queue], self.front.ram.view
        slot = self._turn.get(queue, 0)
        self._turn[queue] = (slot + 1) % SLOTS
        at = BUFFERS + (queue * SLOTS + slot) * ROOM
        pieces = [(len(data), 0) for data in readable] + [(size, WRITE) for size in writable]
        for number, (size, flags) in enumerate(pieces):
            if number < len(readable):
                ram[at : at + size] = readable[number]
            last = number == len(pieces) - 1
            index = slot * 4 + number
            entry = (GPA + at, size, flags | (0 if last else NEXT), 0 if last else index + 1)
            struct.pack_into("<QIHH", ram, layout.desc + 16 * index, *entry)
            at += size
        self.front.native.publish(layout.driver, slot * 4)
        return slot

    def send(self, head: bytes, data: bytes, queue: int = 1) -> None:
        """Send a frame, and wait until it was taken."""
        self.begin_send(head, data, queue)
        self.front.wait_used(self.queues[queue])

    def begin_send(self, head: bytes, data: bytes, queue: int = 1) -> None:
        self.put(queue, [head, data], [])
        self.front.notify(self.queues[queue])

    def offer(self, *sizes: int, queue: int = 0) -> None:
        """Post receive buffers."""
        for size in sizes:
            self.put(queue, [], [size])
        self.front.notify(self.queues[queue])

    def receive(self, queue: int = 0) -> tuple[tuple[int, ...], bytes]:
        """The next frame: its header's fields and its bytes."""
        data = self._used(queue)
        fields = HEADER_FORMAT.unpack(data[:HEADER])
        for _ in range(fields[6] - 1):
            data += self._used(queue)
        return fields, data[HEADER:]

    def _used(self, queue: int) -> bytes:
        head, length = self.front.wait_used(self.queues[queue])
        at = BUFFERS + (queue * SLOTS + head // 4) * ROOM
        return bytes(self.front.ram.view[at : at + length])

    def order(self, kind: int, command: int, data: bytes) -> int:
        """A control command. Returns `ack`."""
        body = bytes([kind, command]) + data
        slot = self.put(self.control.index, [body], [1])
        self.front.notify(self.control)
        self.front.wait_used(self.control)
        return self.front.ram.view[BUFFERS + (self.control.index * SLOTS + slot) * ROOM + len(body)]

    def kill(self) -> None:
        """kill -9, and a successor that goes on."""
        self.front.kill()
        self.front.start()
        self.skip_words()
        self.front.replay()

    def close(self) -> None:
        self.front.close()
        self.wire.close()
        for fd in self._lent.values():
            os.close(fd)
