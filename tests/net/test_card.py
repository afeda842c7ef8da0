"""A card between a driver and a cable: frames, offloads, filters, the link, a full cable, and kills."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from card import BROADCAST, MAC, OTHER, Card, frame, header, ones_sum, tcp_frame

from devproc.net.backend import Word
from devproc.net.device import NetConfig
from devproc.net.offload import HEADER
from proto.virtio import NET_ERR, NET_OK, Feature, NetControl, NetFeature, NetGso, NetHeaderFlag, bit

NEEDS_CSUM, DATA_VALID = NetHeaderFlag.NEEDS_CSUM, NetHeaderFlag.DATA_VALID
BASIC = bit(NetFeature.MAC) | bit(NetFeature.CTRL_VQ) | bit(NetFeature.CTRL_RX) | bit(Feature.RING_EVENT_IDX)
GROUP = bytes.fromhex("01005e000001")

Start = Callable[..., Card]


@pytest.fixture
def start() -> Iterator[Start]:
    cards = []

    def begin(
        backend: str = "user",
        properties: dict[str, object] | None = None,
        features: int | None = None,
        capture: str = "",
    ) -> Card:
        cards.append(Card(backend, properties, capture))
        return cards[-1].start(features)

    yield begin
    for card in cards:
        card.close()


def check_tcp(data: bytes) -> tuple[int, int, bytes]:
    """Sequence number, flags and payload of a frame whose lengths and checksums are right."""
    ip, tcp = data[14:34], data[34:]
    assert struct.unpack(">H", ip[2:4])[0] == len(data) - 14
    assert ones_sum(ip) == 0xFFFF
    assert ones_sum(ip[12:20] + struct.pack(">HH", 6, len(tcp)) + tcp) == 0xFFFF
    return struct.unpack(">I", tcp[4:8])[0], tcp[13], tcp[20:]


def test_it_says_what_it_is(start: Start) -> None:
    card = start("user", {"speed": 2500})
    config = card.front.hello["config"]
    assert card.front.hello["device_id"] == 1
    assert card.front.hello["queues"] == [256, 256, 64]
    assert config[:6] == MAC
    assert struct.unpack_from("<H", config, NetConfig.offset("status"))[0] == 1
    assert struct.unpack_from("<H", config, NetConfig.offset("mtu"))[0] == 32768
    assert struct.unpack_from("<I", config, NetConfig.offset("speed"))[0] == 2500


def test_a_frame_is_sent_as_it_is(start: Start) -> None:
    card = start()
    card.send(header(), frame(b"hello", to=OTHER, source=MAC))
    assert card.wire.recv(70000) == header() + frame(b"hello", to=OTHER, source=MAC)


def test_a_checksum_is_finished_for_a_backend_that_does_not(start: Start) -> None:
    card = start("user")
    data, at = tcp_frame(b"x" * 1001)
    card.send(header(NEEDS_CSUM, start=at, offset=16), data)
    message = card.wire.recv(70000)
    assert message[:2] == b"\0\0"
    assert check_tcp(message[HEADER:]) == (7, 0x18, b"x" * 1001)


def test_a_checksum_is_left_to_a_backend_that_finishes_it(start: Start) -> None:
    card = start("hub:/x")
    data, at = tcp_frame(b"x" * 100)
    card.send(header(NEEDS_CSUM, start=at, offset=16), data)
    assert card.wire.recv(70000) == header(NEEDS_CSUM, start=at, offset=16) + data


def test_a_large_frame_is_cut_for_a_backend_that_takes_small_ones(start: Start) -> None:
    card = start("stream:unix:/x")
    payload = bytes(range(256)) * 20
    data, at = tcp_frame(payload, flags=0x99)  # CWR ACK PSH FIN
    card.send(header(NEEDS_CSUM, NetGso.TCPV4, 54, 1000, at, 16), data)
    pieces = [check_tcp(card.wire.recv(70000)[HEADER:]) for _ in range(6)]
    assert [piece[0] for piece in pieces] == [7 + 1000 * number for number in range(6)]
    assert [piece[1] for piece in pieces] == [0x90, 0x10, 0x10, 0x10, 0x10, 0x19]
    assert b"".join(piece[2] for piece in pieces) == payload


def test_libslirp_gets_large_frames_whole(start: Start) -> None:
    card = start("user")
    data, at = tcp_frame(b"y" * 60000)
    card.send(header(NEEDS_CSUM, NetGso.TCPV4, 54, 1448, at, 16), data)
    message = card.wire.recv(70000)
    assert message[:HEADER][:4] == b"\0\0" + (54).to_bytes(2, "little")
    assert len(check_tcp(message[HEADER:])[2]) == 60000


def test_a_frame_is_received_with_the_number_of_its_buffers(start: Start) -> None:
    card = start()
    card.offer(2000, 2000)
    card.wire.send(header(DATA_VALID) + frame(b"hello"))
    fields, data = card.receive()
    assert (fields[0], fields[6]) == (DATA_VALID, 1)
    assert data == frame(b"hello")


def test_a_checksum_that_is_right_is_vouched_for(start: Start) -> None:
    data, at = tcp_frame(b"payload")
    whole = data[: at + 16] + (0xFFFF ^ ones_sum(data[at:])).to_bytes(2, "big") + data[at + 18 :]
    wrong = whole[:-1] + b"?"
    card = start("stream:unix:/nowhere")
    card.wire.send(int(Word.UP).to_bytes(4, "little"))
    card.offer(2000, 2000, 2000)
    for sent in (whole, wrong, frame(b"of neither")):
        card.wire.send(header() + sent)
    received = [card.receive() for _ in range(3)]
    assert [(fields[0], data) for fields, data in received] == [
        (DATA_VALID, whole),
        (0, wrong),
        (0, frame(b"of neither")),
    ]
    unaware = start(features=BASIC)
    unaware.offer(2000)
    unaware.wire.send(header() + whole)
    fields, data = unaware.receive()
    assert (fields[0], data) == (0, whole)


def test_a_large_frame_takes_several_buffers(start: Start) -> None:
    card = start()
    card.offer(*[1500] * 8)
    card.wire.send(header() + frame(bytes(range(250)) * 40))
    fields, data = card.receive()
    assert fields[6] == 7
    assert data == frame(bytes(range(250)) * 40)


def test_without_mergeable_buffers_one_must_be_large_enough(start: Start) -> None:
    card = start(features=BASIC)
    card.offer(100, 2000)
    card.wire.send(header() + frame(b"too large" * 20))
    card.wire.send(header() + frame(b"fits"))
    assert card.front.wait_used(card.queues[0]) == (0, 0)
    assert card.receive()[1] == frame(b"fits")


def test_a_frame_waits_until_there_are_buffers_enough(start: Start) -> None:
    card = start()
    payload = bytes(range(200)) * 20
    card.wire.send(header() + frame(payload))
    card.wire.send(header() + frame(b"second"))
    card.offer(1500)
    card.offer(1500)
    card.offer(1500)
    assert card.receive()[1] == frame(payload)
    card.offer(1500)
    assert card.receive()[1] == frame(b"second")


def test_what_the_driver_does_not_take_is_done_for_it(start: Start) -> None:
    """A hub's members need not agree: a large frame and a partial checksum reach a plain driver finished."""
    card = start("hub:/x", features=BASIC)
    card.wire.send(int(Word.UP).to_bytes(4, "little"))
    card.offer(*[1600] * 6)
    data, at = tcp_frame(b"z" * 3000)
    card.order(NetControl.RX, 0, b"\1")
    card.wire.send(header(NEEDS_CSUM, NetGso.TCPV4, 54, 1400, at, 16) + data)
    pieces = [check_tcp(card.receive()[1]) for _ in range(3)]
    assert b"".join(piece[2] for piece in pieces) == b"z" * 3000


def test_a_full_cable_makes_the_driver_wait_and_loses_nothing(start: Start) -> None:
    card = start()
    sent = received = 0
    while True:  # until nothing more is taken
        card.begin_send(header(), frame(sent.to_bytes(4, "big"), to=OTHER, source=MAC) + bytes(9000))
        sent += 1
        try:
            card.front.wait_used(card.queues[1], timeout=2)
        except Exception:
            break
    assert sent > 5
    while received < sent:
        message = card.wire.recv(70000)
        assert message[HEADER + 14 : HEADER + 18] == received.to_bytes(4, "big")
        received += 1
    card.front.wait_used(card.queues[1])
    card.send(header(), frame(b"more", to=OTHER, source=MAC))


def test_filters(start: Start) -> None:
    card = start()
    card.offer(*[300] * 12)
    assert card.order(NetControl.RX, 0, b"\0") == NET_OK  # not promiscuous
    listed, unlisted = bytes.fromhex("020000000005"), bytes.fromhex("020000000006")
    table = struct.pack("<I", 1) + listed + struct.pack("<I", 1) + GROUP
    assert card.order(NetControl.MAC, 0, table) == NET_OK
    for target in (unlisted, GROUP[:5] + b"\2", listed, GROUP, BROADCAST, MAC):
        card.wire.send(header() + frame(to=target))
    assert [card.receive()[1][:6] for _ in range(4)] == [listed, GROUP, BROADCAST, MAC]
    assert card.order(NetControl.RX, 1, b"\1") == NET_OK  # all multicast
    assert card.order(NetControl.RX, 5, b"\1") == NET_OK  # no broadcast
    assert card.order(NetControl.MAC, 1, unlisted) == NET_OK  # another address
    for target in (BROADCAST, MAC, GROUP[:5] + b"\2", unlisted):
        card.wire.send(header() + frame(to=target))
    assert [card.receive()[1][:6] for _ in range(2)] == [GROUP[:5] + b"\2", unlisted]


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (NetControl.RX, 6, b"\1"),
        (NetControl.RX, 0, b""),
        (NetControl.MAC, 0, struct.pack("<I", 2) + MAC),
        (NetControl.MAC, 0, struct.pack("<I", 0xFFFFFFFF)),
        (NetControl.MAC, 1, b"short"),
        (NetControl.ANNOUNCE, 0, b""),
        (NetControl.MQ, 0, b"\2\0"),
        (NetControl.GUEST_OFFLOADS, 0, b"\xff" * 8),
        (NetControl.VLAN, 0, b"\1\0"),
        (77, 0, b""),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(start: Start, kind: int, command: int, data: bytes) -> None:
    assert start().order(kind, command, data) == NET_ERR


def test_the_link_goes_down_and_up(start: Start) -> None:
    card = start("hub:/x")
    status = NetConfig.offset("status")

    def heard() -> int:
        card.front.posted.clear()
        while not card.front.posted:
            card.front.sleep()
        return int(struct.unpack_from("<H", card.front.posted[-1].body["config"], status)[0])

    assert struct.unpack_from("<H", card.front.hello["config"], status)[0] == 0
    card.wire.send(int(Word.UP).to_bytes(4, "little"))
    assert heard() == 3  # up, and the driver is to announce itself
    assert card.order(NetControl.ANNOUNCE, 0, b"") == NET_OK
    card.wire.send(int(Word.DOWN).to_bytes(4, "little"))
    assert heard() == 0


def test_a_flow_is_received_where_it_was_sent(start: Start) -> None:
    card = start("user", {"pairs": 2})
    assert card.order(NetControl.MQ, 0, b"\2\0") == NET_OK
    data, _ = tcp_frame(b"first")
    card.offer(2000)
    card.offer(2000, queue=2)
    card.send(header(), data, queue=3)
    card.wire.recv(70000)
    back = data[6:12] + data[:6] + data[12:26] + data[30:34] + data[26:30] + data[36:38] + data[34:36] + data[38:]
    card.wire.send(header() + back)
    assert card.receive(queue=2)[1] == back


def test_a_successor_knows_what_the_driver_ordered_and_has_its_buffers(start: Start) -> None:
    card = start()
    card.offer(*[300] * 4)
    assert card.order(NetControl.RX, 0, b"\0") == NET_OK
    card.wire.send(header() + frame(b"before"))
    assert card.receive()[1] == frame(b"before")
    card.front.kill()
    card.wire.send(header() + frame(b"nobody", to=OTHER))
    card.wire.send(header() + frame(b"while it is dead"))
    card.front.start()
    card.skip_words()
    card.front.replay()
    assert card.receive()[1] == frame(b"while it is dead")
    card.send(header(), frame(b"after", to=OTHER, source=MAC))
    assert card.wire.recv(70000)[HEADER:] == frame(b"after", to=OTHER, source=MAC)


def test_frames_that_were_waiting_for_the_cable_are_sent_by_the_successor(start: Start) -> None:
    card = start()
    sent = 0
    while sent < 200:
        card.begin_send(header(), frame(sent.to_bytes(4, "big"), to=OTHER, source=MAC) + bytes(60000))
        sent += 1
        try:
            card.front.wait_used(card.queues[1], timeout=2)
        except Exception:
            break
    card.kill()
    numbers = [int.from_bytes(card.wire.recv(70000)[HEADER + 14 : HEADER + 18], "big") for _ in range(sent)]
    assert numbers == list(range(sent))


def test_the_driver_may_reset_and_begin_again(start: Start) -> None:
    card = start()
    card.offer(300, 300)
    assert card.order(NetControl.RX, 0, b"\0") == NET_OK
    card.front.request("RESET")
    card.front.negotiate()
    for queue in card.queues:
        queue.fresh = True
        card.front.ram.view[queue.avail : queue.avail + 0x4000] = bytes(0x4000)
        queue.driver.avail_idx = queue.driver.used_idx = 0
        card.front.enable(queue.index)
    card.front.driver_ok()
    card.offer(300)
    card.wire.send(header() + frame(b"promiscuous again", to=OTHER))
    assert card.receive()[1] == frame(b"promiscuous again", to=OTHER)


def test_a_capture_has_every_frame_and_survives_a_kill(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "net.pcap"
    card = start(capture=str(path))
    card.offer(300, 300)
    card.send(header(), frame(b"out", to=OTHER, source=MAC))
    card.wire.send(header() + frame(b"in"))
    card.receive()
    card.front.kill()
    with open(path, "ab") as file:
        file.write(struct.pack("<IIII", 1, 2, 60, 60) + b"half")
    card.front.start()
    card.skip_words()
    card.front.replay()
    card.send(header(), frame(b"again", to=OTHER, source=MAC))
    assert captured(path.read_bytes()) == [
        frame(b"out", to=OTHER, source=MAC),
        frame(b"in"),
        frame(b"again", to=OTHER, source=MAC),
    ]
    if shutil.which("tshark"):
        seen = subprocess.run(["tshark", "-r", str(path)], capture_output=True, text=True, timeout=60, check=True)
        assert len(seen.stdout.splitlines()) == 3
        assert "cut short" not in seen.stderr and "damaged" not in seen.stderr


def captured(data: bytes) -> list[bytes]:
    """The frames of a capture file."""
    assert data[:8] == struct.pack("<IHH", 0xA1B23C4D, 2, 4)
    frames, at = [], 24
    while at < len(data):
        size, length = struct.unpack_from("<II", data, at + 8)
        assert size == length
        frames.append(data[at + 16 : at + 16 + size])
        at += 16 + size
    return frames
