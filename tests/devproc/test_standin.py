"""The stand-in of a device in quarantine says "I/O error" in each device's own words, and needs nothing to do so."""

from __future__ import annotations

import errno
import struct

import pytest

from devproc.session import RING_FEATURES
from launcher.replay.frontend import GPA, FrontEnd
from proto.virtio import DESC_F_NEXT, DESC_F_WRITE, BlkStatus, BlkType, DeviceId, NetFeature, NetStatus, bit

READABLE, WRITABLE = 0x200000, 0x210000


@pytest.fixture
def stand_in(start):
    """Starts the stand-in of a device: what its guest has seen. Returns the front end and the queues' layouts."""

    def begin(device_id: int, queues: list[int], config: bytes = b"", features: int = 0, passive=()):
        seen = {
            "device_id": device_id,
            "queues": queues,
            "features": features | RING_FEATURES,
            "config": config,
            "config_generation": 3,
            "mmio_size": 0,
            "passive": list(passive),
        }
        front = start("standin", standin=seen)
        front.negotiate()
        layouts = [front.add_queue(index, 64, index * 0x10000) for index in range(len(queues))]
        front.driver_ok()
        return front, layouts

    return begin


@pytest.fixture
def start():
    fronts = []

    def begin(device: str, **start_body) -> FrontEnd:
        fronts.append(FrontEnd(device))
        fronts[-1].start(**start_body)
        return fronts[-1]

    yield begin
    for front in fronts:
        front.close()


def ask(front: FrontEnd, layout, readable: bytes, room: int, *, head: int = 0) -> bytes:
    """One request of one readable and one writable buffer (or either); what came back."""
    put(front, layout, readable, room, head=head)
    front.notify(layout)
    used, length = front.wait_used(layout)
    assert used == head
    return bytes(front.ram.view[WRITABLE : WRITABLE + room][:length])


def put(front: FrontEnd, layout, readable: bytes, room: int, *, head: int = 0) -> None:
    front.ram.view[READABLE : READABLE + len(readable)] = readable
    front.ram.view[WRITABLE : WRITABLE + room] = bytes(room)
    pieces = [(READABLE, len(readable), 0)] if readable else []
    pieces += [(WRITABLE, room, DESC_F_WRITE)] if room else []
    for number, (at, size, flags) in enumerate(pieces):
        more = DESC_F_NEXT if number + 1 < len(pieces) else 0
        entry = struct.pack("<QIHH", GPA + at, size, flags | more, head + number + 1)
        front.ram.view[layout.desc + 16 * (head + number) :][:16] = entry
    front.native.publish(layout.driver, head)


def test_a_disk(stand_in) -> None:
    config = bytes(range(60))
    front, (layout,) = stand_in(DeviceId.BLOCK, [256], config)
    assert (front.hello["config"], front.hello["config_generation"], front.hello["device_id"]) == (config, 3, 2)
    for kind in (BlkType.IN, BlkType.OUT, BlkType.FLUSH, BlkType.GET_ID):
        answer = ask(front, layout, struct.pack("<IIQ", kind, 0, 8), 513)
        assert answer[-1] == BlkStatus.IOERR
    assert front.stop() == 0


def test_a_9p_share(stand_in) -> None:
    front, (layout,) = stand_in(DeviceId.NINEP, [128])
    answer = ask(front, layout, struct.pack("<IBHI", 11, 120, 77, 5), 64)  # Tclunk
    assert answer == struct.pack("<IBHI", 11, 7, 77, errno.EIO)  # Rlerror


def test_a_virtio_fs_share(stand_in) -> None:
    front, (_, layout) = stand_in(DeviceId.FS, [128, 1024])
    lookup = struct.pack("<IIQQIIIHH", 45, 1, 99, 1, 0, 0, 0, 0, 0) + b"name\0"
    assert ask(front, layout, lookup, 200) == struct.pack("<IiQ", 16, -errno.EIO, 99)
    forget = struct.pack("<IIQQIIIHHQ", 48, 2, 100, 1, 0, 0, 0, 0, 0, 1)
    assert ask(front, layout, forget, 0) == b""


def test_a_v86fs_share(stand_in) -> None:
    front, (layout, _, notices) = stand_in(DeviceId.V86FS, [128, 128, 128], passive=[2])
    answer = ask(front, layout, struct.pack("<IBHQ", 15, 2, 9, 1), 200)  # GETATTR
    size, kind, tag, status = struct.unpack_from("<IBHI", answer)
    assert (size, kind, tag, status) == (len(answer), 0x82, 9, errno.EIO)
    put(front, notices, b"", 64)
    front.notify(notices)
    assert ask(front, layout, struct.pack("<IBHQ", 15, 2, 10, 1), 200)[5:7] == b"\x0a\0"
    assert front.native.take_used(notices.driver) == 0xFFFFFFFFFFFFFFFF  # it stays the driver's


def test_a_network_card(stand_in) -> None:
    up = bytes(6) + struct.pack("<H", NetStatus.LINK_UP) + bytes(4)
    features = bit(NetFeature.STATUS) | bit(NetFeature.CTRL_VQ)
    front, (receive, send, control) = stand_in(DeviceId.NET, [256, 256, 64], up, features)
    assert front.hello["config"] == bytes(12)  # no link
    put(front, receive, b"", 1526)
    front.notify(receive)
    assert ask(front, send, bytes(100), 0, head=4) == b""
    assert ask(front, control, b"\x00\x00\x01", 1, head=8) == b"\x01"
    assert front.native.take_used(receive.driver) == 0xFFFFFFFFFFFFFFFF
    front.request("RESET")
    assert front.stop() == 0


def test_entropy_goes_on(stand_in) -> None:
    front, (layout,) = stand_in(DeviceId.ENTROPY, [64])
    assert len(set(ask(front, layout, b"", 64))) > 8


def test_a_device_of_one_s_own(stand_in) -> None:
    front, (layout,) = stand_in(40, [64])
    assert ask(front, layout, b"x", 16) == b""


def test_what_a_predecessor_had_in_flight_is_answered_too(stand_in) -> None:
    front, (layout,) = stand_in(DeviceId.BLOCK, [256], bytes(60))
    front.kill()
    put(front, layout, struct.pack("<IIQ", BlkType.IN, 0, 8), 513, head=4)
    front.native.notify(layout.driver)
    struct.pack_into("<B7xQ", front.inflight.view, 16 + 16 * 4, 1, 1)
    seen = {"device_id": 2, "queues": [256], "features": RING_FEATURES, "config": bytes(60), "config_generation": 3}
    front.start(standin=seen)
    front.replay()
    assert front.wait_used(layout) == (4, 513)
    assert front.ram.view[WRITABLE + 512] == BlkStatus.IOERR


def test_registers_read_as_all_ones(start) -> None:
    front = start("standin", standin={"device_id": 0, "mmio_size": 0x1000})
    assert front.hello["mmio_size"] == 0x1000
    assert front.request("MMIO_READ", {"offset": 4, "size": 4, "sequence": 1}) == {"value": 0xFFFFFFFF}
    front.post("MMIO_WRITE", {"offset": 4, "size": 4, "sequence": 2, "value": 1})
    assert front.request("MMIO_READ", {"offset": 8, "size": 2, "sequence": 3}) == {"value": 0xFFFF}
    assert front.theirs.irq_level == 0
