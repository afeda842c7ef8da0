"""Replays: a device that answers as it did, one that does not, one that dies; disks, entropy, cards, devices of one's
own, and the request that a crash bundle saved."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tapping import Tapped, disk, request

from launcher.inspect.bundles import saved_request
from launcher.replay.compare import hexdump
from launcher.replay.frontend import FrontEnd
from launcher.replay.place import scratch_pieces
from launcher.replay.player import replay
from launcher.replay.source import load
from proto.errors import ConfigError
from proto.virtio import BlkType

COMMAND = [sys.executable, "-P", "-m", "launcher"]
BLK = {"id": "blk0", "device": "blk", "kind": "virtio", "backend": "file:/nowhere", "properties": {}}
BUGGY = '''
from devproc.blk.device import BlockDevice

class Buggy(BlockDevice):
    """Forgets every write of sector {sector}, or dies of it."""

    def native_loop(self, engine, queues):
        return None

    def handle(self, request):
        head = b"".join(request.views_readable(0, 16))
        if head[0] == 1 and head[8] == {sector}:
            {deed}
        super().handle(request)
'''


@pytest.fixture
def recorded(tapped: Any, tmp_path: Path) -> Path:
    """A disk that had something on it, was written, read, and asked for too much."""
    tap: Tapped = tapped()
    path = tmp_path / "disk.img"
    with disk(tap, path) as front:
        with open(path, "r+b") as image:
            image.seek(512 * 100)
            image.write(b"before" * 200)
        request(front, BlkType.IN, 100, room=1024)
        for sector in (7, 8, 9):
            request(front, BlkType.OUT, sector, bytes([sector]) * 512)
            request(front, BlkType.IN, sector, room=512)
        request(front, BlkType.IN, 1 << 40, room=512)
        request(front, BlkType.FLUSH, 0)
        request(front, BlkType.GET_ID, 0, room=20)
        return tap.save(tmp_path / "disk.rec", BLK)


def test_a_disk_answers_as_it_did(recorded: Path) -> None:
    script = load(recorded)
    assert [sector for sector, _ in scratch_pieces(script)] == [100, 101]
    result = replay(recorded)
    assert result.same, result.text
    assert (result.requests, result.compared, result.skipped) == (10, 10, 0)


def test_another_image_answers_otherwise(recorded: Path, tmp_path: Path) -> None:
    image = tmp_path / "empty.img"
    image.write_bytes(bytes(1 << 20))
    result = replay(recorded, str(image))
    assert [each.request["number"] for each in result.differences] == [0]
    assert "it differs from byte 0 on" in result.text and "62 65 66 6f 72 65" in result.text
    assert replay(recorded, str(image), compare="status").same


@pytest.mark.parametrize("speed", ["max", "real"])
def test_a_bug_of_the_device_is_found(recorded: Path, tmp_path: Path, speed: str) -> None:
    device = tmp_path / "buggy.py"
    deed = "request.write(bytes(1)); return"
    device.write_text(BUGGY.format(sector=8, deed=deed))
    result = replay(recorded, f"{device}:Buggy", speed=speed)
    (difference,) = result.differences
    assert difference.request["op"] == "READ" and difference.request["sector"] == 8
    assert "08 08 08" in difference.text and not result.died


def test_a_device_that_dies_is_told_with_its_request(recorded: Path, tmp_path: Path) -> None:
    device = tmp_path / "deadly.py"
    device.write_text(BUGGY.format(sector=9, deed='raise RuntimeError("nine!")'))
    result = replay(recorded, f"{device}:Buggy")
    assert not result.same and "RuntimeError: nine!" in result.died and "WRITE  sector 9" in result.died
    number = next(each.number for each in load(recorded).requests if each.readable[8] == 9)
    assert replay(recorded, f"{device}:Buggy", request=number).died
    assert replay(recorded, f"{device}:Buggy", request=number - 1).same


def test_one_request_can_be_replayed(recorded: Path) -> None:
    result = replay(recorded, request=0)
    assert result.same and result.requests == 1
    with pytest.raises(ConfigError, match="there is no request 10"):
        replay(recorded, request=10)


def test_a_request_that_a_crash_bundle_saved(tmp_path: Path) -> None:
    device = tmp_path / "deadly.py"
    device.write_text(BUGGY.format(sector=9, deed='raise RuntimeError("nine!")'))
    readable = (1).to_bytes(8, "little") + (9).to_bytes(8, "little") + bytes(512)
    path = tmp_path / "request.msgpack"
    body = {
        "queue": 0,
        "head": 3,
        "counter": 7,
        "buffers": [(0x80000000, 16, False), (0x80001000, 512, False), (0x80002000, 1, True)],
        "readable": readable,
        "device": {"device": "blk", "backend": "file:gone", "properties": {}},
    }
    path.write_bytes(saved_request(body))
    assert replay(tmp_path).same
    result = replay(path, f"{device}:Buggy")
    assert "ended with status 1" in result.died


def test_entropy_is_compared_by_its_length(tapped: Any, tmp_path: Path) -> None:
    tap = tapped()
    front = FrontEnd("rng", lent={"tap": tap.fd})
    with front:
        front.start()
        front.negotiate()
        layout = front.add_queue(0, 8)
        front.driver_ok()
        entry = (0x80100000).to_bytes(8, "little") + (64).to_bytes(4, "little") + b"\2\0\0\0"
        front.ram.view[layout.desc : layout.desc + 16] = entry
        front.native.publish(layout.driver, 0)
        front.notify(layout)
        assert front.wait_used(layout)[1] == 64
        path = tap.save(tmp_path / "rng.rec", {"id": "rng0", "device": "rng", "backend": "", "properties": {}})
    assert replay(path).same
    assert not replay(path, compare="exact").same


def test_what_cannot_be_replayed_says_why(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no device blk1"):
        replay(recorded, id="blk1")
    with pytest.raises(ConfigError, match="cannot read"):
        replay(tmp_path / "none")
    with pytest.raises(ConfigError, match="does not start"):
        replay(recorded, "none.img")
    other = tmp_path / "other"
    other.write_text("hello")
    with pytest.raises(ConfigError):
        replay(other)


def test_a_hexdump_shows_the_first_difference() -> None:
    recorded, replayed = bytes(100), bytes(50) + b"\1" + bytes(49)
    lines = hexdump(recorded, replayed)
    assert [line[:6] for line in lines[1:]] == ["000020", "000030", "000040", "000050"]
    assert [line[7] for line in lines[1:]] == [" ", "*", " ", " "]


def bulkhead(*words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, input=input)


def test_the_command_says_it_with_its_exit_code(recorded: Path, tmp_path: Path) -> None:
    done = bulkhead("replay", str(recorded))
    assert (done.returncode, "10 of 10 answers are the same" in done.stdout) == (0, True), done.stderr
    image = tmp_path / "empty.img"
    image.write_bytes(bytes(1 << 20))
    done = bulkhead("replay", str(recorded), str(image), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["differences"][0]["request"]["sector"] == 100
    done = bulkhead("replay", str(recorded), "--request", "99")
    assert done.returncode == 125 and "there is no request 99" in done.stderr


def test_a_request_under_the_debugger(recorded: Path, tmp_path: Path) -> None:
    device = tmp_path / "deadly.py"
    device.write_text(BUGGY.format(sector=9, deed='raise RuntimeError("nine!")'))
    done = bulkhead(
        "replay", str(recorded), f"{device}:Buggy", "--request", "5", "--pdb", input="p 'head', request.head\nc\nq\n"
    )
    assert "('head', " in done.stdout, done.stdout + done.stderr
    assert "nine!" in done.stdout + done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(("backend", "pieces"), [("user", 1), ("stream:unix:/x", 6)])
def test_a_card_gets_and_sends_the_frames_of_then(tapped: Any, tmp_path: Path, backend: str, pieces: int) -> None:
    """`pieces`: into how many frames the card cuts a large one for this backend."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "net"))
    from card import Card, frame, header, tcp_frame

    tap = tapped()
    card = Card(backend, {"pairs": 1})
    card.front._lent = {**card.front._lent, "tap": tap.fd}
    try:
        card.start()
        card.wire.send((1).to_bytes(4, "little"))  # the link is up
        card.offer(2048, 2048, 2048)
        for number in range(2):
            card.wire.send(header() + frame(bytes([number + 1]) * 60))
            assert card.receive()[1] == frame(bytes([number + 1]) * 60)
            card.send(header(), frame(bytes([number + 9]) * 60))
            while len(card.wire.recv(4096, socket.MSG_PEEK)) == 4:
                card.wire.recv(8)
            card.wire.recv(4096)
        # a frame in two buffers: both must be there before the device fills the first
        card.offer(2048, 2048)
        card.wire.send(header() + frame(bytes(3000)))
        assert card.receive()[1] == frame(bytes(3000))
        data, at = tcp_frame(bytes(range(256)) * 20)
        card.send(header(1, 1, 54, 1000, at, 16), data)
        for _ in range(pieces):
            card.wire.recv(1 << 17)
        card.send(header(), frame(b"behind it"))
        card.wire.recv(4096)
        device = {
            "id": "net0",
            "device": "net",
            "backend": backend,
            "properties": {"pairs": 1, "mac": "52:54:00:12:34:56"},
        }
        path = tap.save(tmp_path / "net.rec", device)
    finally:
        card.close()
    result = replay(path)
    assert result.same, result.text
    assert result.compared == 8


def test_a_share_needs_its_directory_and_is_compared_by_status(tapped: Any, tmp_path: Path) -> None:
    directory, empty = tmp_path / "share", tmp_path / "empty"
    directory.mkdir()
    empty.mkdir()
    (directory / "file").write_text("hello")
    tap = tapped()

    def message(kind: int, tag: int, body: bytes) -> bytes:
        return (7 + len(body)).to_bytes(4, "little") + bytes([kind]) + tag.to_bytes(2, "little") + body

    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "little") + value.encode()

    def fid(number: int) -> bytes:
        return number.to_bytes(4, "little")

    asked = [
        message(100, 0xFFFF, fid(8192) + text("9P2000.L")),
        message(104, 1, fid(0) + fid(0xFFFFFFFF) + text("") + text("") + fid(0)),
        message(110, 2, fid(0) + fid(1) + b"\1\0" + text("file")),
    ]
    with FrontEnd("9p", {"tag": "t"}, backend=str(directory), lent={"tap": tap.fd}) as front:
        front.start()
        front.negotiate()
        layout = front.add_queue(0, 8)
        front.driver_ok()
        for data in asked:
            front.ram.view[0x100000 : 0x100000 + len(data)] = data
            for number, (place, size, flags) in enumerate([(0x80100000, len(data), 1), (0x80110000, 8192, 2)]):
                entry = place.to_bytes(8, "little") + size.to_bytes(4, "little") + bytes([flags, 0, 1 - number, 0])
                front.ram.view[layout.desc + 16 * number : layout.desc + 16 * number + 16] = entry
            front.native.publish(layout.driver, 0)
            front.notify(layout)
            front.wait_used(layout)
        row = {"id": "fs0", "device": "9p", "backend": str(directory), "properties": {"tag": "t"}}
        path = tap.save(tmp_path / "share.rec", row)
    with pytest.raises(ConfigError, match="needs a directory"):
        replay(path)
    assert replay(path, str(directory)).same
    (difference,) = replay(path, str(empty)).differences
    assert difference.request["op"] == "WALK" and "its status is ENOENT, and was OK" in difference.why
