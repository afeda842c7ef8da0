"""A disk on another host: between two network namespaces, over a network that loses, delays and reorders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring_disk import Disk
from wire import Wire

from launcher.keeper.windows import memory_of
from launcher.replay.frontend import FrontEnd
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

    def __init__(self, cable: Wire, image: Path, keys: Path) -> None:
        words = [str(image), "--listen", f"tcp://{THERE}:{PORT}", "--keys", str(keys)]
        command = [sys.executable, "-P", "-m", "launcher", "serve", *words]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", cable.there, *command], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "is served at" in line, line + self.process.stderr.read()

    def device(self) -> int:
        """The pid of the device's process."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
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
def server(cable: Wire, keys: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "far.img").write_bytes(bytes(1 << 20))
    made = Server(cable, tmp_path / "far.img", keys)
    yield made
    assert made.close() == 0


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
