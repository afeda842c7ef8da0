"""A disk on another host: between two network namespaces, over a network that loses, delays and reorders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from card import MAC, OTHER, Card, frame, header
from ring_disk import Disk
from wire import Wire

from launcher.keeper.windows import memory_of
from launcher.replay.frontend import GPA, FrontEnd
from launcher.trace.keys import client_keys, create
from proto.errors import DeadlineMissed
from proto.virtio import BlkStatus, BlkType

HERE, THERE, PORT = "10.213.8.1", "10.213.8.2", 5757
FIRST_WAIT = 60.0


@pytest.fixture
def cable() -> Iterator[Wire]:
    if os.geteuid() or not shutil.which("ip") or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root, iproute2 and /dev/net/tun")
    wire = Wire(f"bulkhead-{os.getpid()}", (HERE, THERE))
    yield wire
    wire.close()


class Server:
    """`bulkhead serve` in the other namespace."""

    def __init__(self, cable: Wire, keys: Path, *what: str) -> None:
        words = [*what, "--listen", f"tcp://{THERE}:{PORT}", "--keys", str(keys)]
        command = [sys.executable, "-P", "-m", "launcher", "serve", *words]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", cable.there, *command], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "is served at" in line, line + self.process.stderr.read()

    def device(self) -> int:
        """The pid of the device's process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (child,) = (pid for pid in children if b"devproc.relay" in Path(f"/proc/{pid}/cmdline").read_bytes())
        return int(child)

    def close(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.wait(60)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def serve(cable: Wire, keys: Path) -> Iterator[Callable[..., Server]]:
    """Serves something in the other namespace."""
    made: list[Server] = []

    def begin(*what: str) -> Server:
        made.append(Server(cable, keys, *what))
        return made[-1]

    yield begin
    for server in made:
        assert server.close() == 0


@pytest.fixture
def server(serve: Callable[..., Server], tmp_path: Path) -> Server:
    (tmp_path / "far.img").write_bytes(bytes(1 << 20))
    return serve(str(tmp_path / "far.img"))


def call(cable: Wire, kept: int, keys: Path) -> FrontEnd:
    """A relay in this namespace; not started."""
    curve = memory_of("curve", list(client_keys(keys)))
    front = FrontEnd("relay", {"endpoint": f"tcp://{THERE}:{PORT}"}, lent={"relay": kept, "curve": curve})
    front.command = ["ip", "netns", "exec", cable.here, *front.command]
    front.deadline = FIRST_WAIT
    return front


def begin(front: FrontEnd) -> Disk:
    front.start()
    front.negotiate()
    layout = front.add_queue(0, 256)
    front.driver_ok()
    return Disk(front, layout)


def write_all(served: Disk, first: int, blocks: list[bytes]) -> None:
    """All at once, and wait for the last."""
    for slot, block in enumerate(blocks):
        served.submit(slot, BlkType.OUT, first + slot * 8, block)
    served.front.notify(served.layout)
    for _ in blocks:
        served.front.wait_used(served.layout, FIRST_WAIT)
    assert [served.result(slot)[0] for slot in range(len(blocks))] == [BlkStatus.OK] * len(blocks)


@pytest.mark.slow
def test_a_disk_over_a_bad_network(cable: Wire, server: Server, kept: int, keys: Path, tmp_path: Path) -> None:
    cable.loss, cable.delay, cable.jitter = 0.02, 0.002, 0.004
    with call(cable, kept, keys) as front:
        served = begin(front)
        written: dict[int, list[bytes]] = {}
        for turn in range(3):
            written[turn * 64] = [os.urandom(4096) for _ in range(8)]
            write_all(served, turn * 64, written[turn * 64])
        for turn, who in enumerate(("device", "cable", "relay"), 3):
            written[turn * 64] = blocks = [os.urandom(4096) for _ in range(8)]
            if who == "device":
                os.kill(server.device(), signal.SIGKILL)
            elif who == "cable":
                cable.severed = True
            for slot, block in enumerate(blocks):
                served.submit(slot, BlkType.OUT, turn * 64 + slot * 8, block)
            front.notify(served.layout)
            if who == "relay":
                front.kill()
                front.start()
                front.replay()
            elif who == "cable":
                with pytest.raises(DeadlineMissed):
                    front.wait_used(served.layout, 12)  # longer than the relay waits for a word
                cable.severed = False
            for _ in blocks:
                front.wait_used(served.layout, FIRST_WAIT)
            assert [served.result(slot)[0] for slot in range(8)] == [BlkStatus.OK] * 8, who
        assert cable.lost and cable.late
        image = (tmp_path / "far.img").read_bytes()
        for first, blocks in written.items():
            assert image[first * 512 : first * 512 + 8 * 4096] == b"".join(blocks)
            assert served.request(BlkType.IN, first, room=4096) == (BlkStatus.OK, blocks[0])


class FarCard(Card):
    """A card whose relay is `front`; what it sends comes out of a socket."""

    def __init__(self, front: FrontEnd) -> None:
        super().__init__("user")
        self.front.close()
        self.front = front


class Plug:
    """The other end of `--net stream:unix:…,server`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(FIRST_WAIT)
        self._socket.connect(str(path))
        self._read = self._socket.makefile("rb")

    def receive(self) -> bytes:
        return self._read.read(int.from_bytes(self._read.read(4), "big"))

    def send(self, data: bytes) -> None:
        self._socket.sendall(len(data).to_bytes(4, "big") + data)

    def close(self) -> None:
        self._read.close()
        self._socket.close()


@pytest.mark.slow
def test_a_card_over_a_bad_network(
    cable: Wire, serve: Callable[..., Server], kept: int, keys: Path, tmp_path: Path
) -> None:
    """Frames that were taken from the driver come out, in order, whatever dies or is cut; afterwards they come in."""
    server = serve("--net", f"stream:unix:{tmp_path}/plug,server,mac={MAC.hex(':')}")
    cable.loss, cable.delay, cable.jitter = 0.02, 0.002, 0.004
    card = FarCard(call(cable, kept, keys))
    plug = Plug(tmp_path / "plug")
    front = card.front
    try:
        card.start()
        card.offer(*[1500] * 8)
        number = 0
        for turn, who in enumerate(("nobody", "device", "cable", "relay")):
            wanted = [frame(b"%d" % (number + count), to=OTHER, source=MAC) for count in range(4)]
            number += 4
            if who == "device":
                os.kill(server.device(), signal.SIGKILL)
            elif who == "cable":
                cable.severed = True
            for one in wanted:
                card.begin_send(header(), one)
            if who == "relay":
                front.kill()
                front.start()
                front.replay()
            elif who == "cable":
                with pytest.raises(DeadlineMissed):
                    front.wait_used(card.queues[1], 12)
                cable.severed = False
            for _ in wanted:
                front.wait_used(card.queues[1], FIRST_WAIT)
            came: list[bytes] = []
            while wanted[-1] not in came:
                came.append(plug.receive())
            assert [one for one in dict.fromkeys(came) if one in wanted] == wanted, who
            answer = frame(b"answer %d" % turn)
            plug.send(answer)
            assert card.receive()[1] == answer, who
            card.offer(1500)
        assert cable.lost and cable.late
    finally:
        card.close()
        plug.close()


class Attached:
    """A 9P session at the ring, one message at a time: as much as it takes to write a file and to read it."""

    def __init__(self, front: FrontEnd) -> None:
        front.start()
        front.negotiate()
        self.front, self.layout = front, front.add_queue(0, 64)
        front.driver_ok()
        self.call(100, struct.pack("<I", 8192) + text("9P2000.L"))
        self.call(104, struct.pack("<II", 0, 0xFFFFFFFF) + text("root") + text("") + struct.pack("<I", 0))

    def begin(self, kind: int, body: bytes) -> None:
        """Make a message available."""
        data = struct.pack("<IBH", 7 + len(body), kind, 1) + body
        ram, at = self.front.ram.view, 0x400000
        ram[at : at + len(data)] = data
        struct.pack_into("<QIHH", ram, self.layout.desc, GPA + at, len(data), 1, 1)
        struct.pack_into("<QIHH", ram, self.layout.desc + 16, GPA + at + 0x4000, 8192, 2, 0)
        self.front.native.publish(self.layout.driver, 0)
        self.front.notify(self.layout)

    def end(self) -> bytes:
        """Its answer, which is no error."""
        _, size = self.front.wait_used(self.layout, FIRST_WAIT)
        answer = bytes(self.front.ram.view[0x404000 : 0x404000 + size])
        assert answer[4] != 7, int.from_bytes(answer[7:11], "little")  # Rlerror
        return answer[7:]

    def call(self, kind: int, body: bytes) -> bytes:
        self.begin(kind, body)
        return self.end()


def text(value: str) -> bytes:
    return struct.pack("<H", len(value)) + value.encode()


@pytest.mark.slow
def test_a_share_over_a_bad_network(
    cable: Wire, serve: Callable[..., Server], kept: int, keys: Path, tmp_path: Path
) -> None:
    """A file stays open through deaths and a cut: what is written to it is there once, and read back."""
    (tmp_path / "share").mkdir()
    server = serve("--share", f"{tmp_path}/share,tag=t")
    cable.loss, cable.delay, cable.jitter = 0.02, 0.002, 0.004
    with call(cable, kept, keys) as front:
        guest = Attached(front)
        guest.call(110, struct.pack("<IIH", 0, 1, 0))  # Twalk: fid 1 is the root
        guest.call(14, struct.pack("<I", 1) + text("f") + struct.pack("<III", os.O_RDWR, 0o644, 0))  # Tlcreate
        written = b""
        for who in ("nobody", "device", "cable", "relay"):
            piece = os.urandom(4000)
            if who == "device":
                os.kill(server.device(), signal.SIGKILL)
            elif who == "cable":
                cable.severed = True
            guest.begin(118, struct.pack("<IQI", 1, len(written), len(piece)) + piece)  # Twrite
            if who == "relay":
                front.kill()
                front.start()
                front.replay()
            elif who == "cable":
                with pytest.raises(DeadlineMissed):
                    front.wait_used(guest.layout, 3)
                cable.severed = False
            assert guest.end() == struct.pack("<I", len(piece)), who
            written += piece
            read = guest.call(116, struct.pack("<IQI", 1, len(written) - 4000, 4000))  # Tread
            assert read[4:] == piece, who
        assert cable.lost
    assert (tmp_path / "share" / "f").read_bytes() == written


@pytest.mark.slow
def test_strangers_are_refused(cable: Wire, server: Server, kept: int, keys: Path, tmp_path: Path) -> None:
    create(tmp_path / "strange")
    shutil.copy(keys / "server.public", tmp_path / "strange" / "server.public")
    viewer = tmp_path / "viewer"
    viewer.mkdir()
    for name in ("viewer.secret", "server.public"):  # who may look at traces may not have the disk
        shutil.copy(keys / name, viewer / name)
    for stranger in (tmp_path / "strange", viewer):
        with call(cable, kept, stranger) as front, pytest.raises(RuntimeError, match="nobody answers"):
            front.start()


def test_no_keys_no_connection(relay: Callable[..., FrontEnd]) -> None:
    with pytest.raises(RuntimeError, match="needs keys"):
        relay("tcp://127.0.0.1:1")
