"""The NBD client against Debian's servers, and against connections that break."""

from __future__ import annotations

import contextlib
import lzma
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from disk_model import Model, random_requests, read, write
from hostile_server import saying

from devproc.blk.backend import open_backend
from devproc.blk.nbd_replies import Pending, answered
from proto.errors import BackendError, ConfigError

SIZE = 1 << 20
CONTENT = random.Random(6).randbytes(SIZE)


@pytest.fixture
def serve(tmp_path):
    """Starts servers and waits until they listen; ends them after the test."""
    running = []

    def begin(*words, path=None):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is missing: apt install nbdkit qemu-utils")
        process = subprocess.Popen(list(map(str, words)), stderr=subprocess.DEVNULL)
        running.append(process)
        deadline = time.monotonic() + 60
        while path and not can_connect(path):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def can_connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


def nbdkit(tmp_path, *words):
    return ["nbdkit", "-f", "--exit-with-parent", "-U", tmp_path / "s", *words]


def test_nbdkit(serve, image, tmp_path):
    serve(*nbdkit(tmp_path, "file", image), path=tmp_path / "s")
    model = random_requests(f"nbd+unix:///?socket={tmp_path}/s", CONTENT, 1, 120, reopen=True)
    assert image.read_bytes() == model.data


def test_qemu_nbd_with_an_export_name_over_tcp(serve, image, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve("qemu-nbd", "-f", "raw", "-t", "-b", "127.0.0.1", "-p", port, "-x", "my export", image)
    uri = f"nbd://127.0.0.1:{port}/my%20export"
    deadline = time.monotonic() + 60
    while True:
        try:
            open_backend(uri).close()
            break
        except ConfigError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    model = random_requests(uri, CONTENT, 2, 80)
    assert image.read_bytes() == model.data
    with pytest.raises(ConfigError, match="no such export"):
        open_backend(f"nbd://127.0.0.1:{port}/other")


def test_a_read_only_export_is_for_reading(serve, image, tmp_path):
    serve(*nbdkit(tmp_path, "-r", "file", image), path=tmp_path / "s")
    uri = f"nbd+unix:///?socket={tmp_path}/s"
    with pytest.raises(ConfigError, match="read-only"):
        open_backend(uri)
    disk = open_backend(f"snapshot:{uri}")
    write(disk, 0, b"x" * 512)
    assert read(disk, 0, 1024) == b"x" * 512 + CONTENT[512:1024]
    disk.close()
    assert image.read_bytes() == CONTENT


def test_a_server_that_is_killed_and_comes_back_loses_nothing(serve, image, tmp_path):
    words = nbdkit(tmp_path, "file", image)
    process = serve(*words, path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    model, rng = Model(CONTENT), random.Random(3)
    for _ in range(3):
        for _ in range(20):
            model.step(disk, rng)
        process.kill()
        process.wait()
        os.unlink(tmp_path / "s")
        process = serve(*words)  # comes up while the next request already waits
    for _ in range(20):
        model.step(disk, rng)
    model.check(disk)
    disk.close()


def test_requests_on_their_way_are_sent_again(serve, image, tmp_path):
    """The server holds its answers back, and is killed with eight requests open."""
    slow = nbdkit(tmp_path, "--filter=delay", "file", image, "delay-read=30")
    process = serve(*slow, path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    found = {}
    readers = [
        threading.Thread(target=lambda at=at: found.update({at: read(disk, at, 512)})) for at in range(0, 4096, 512)
    ]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 60
    while len(disk._connection._pending) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    os.unlink(tmp_path / "s")
    serve(*nbdkit(tmp_path, "file", image))
    for reader in readers:
        reader.join(60)
    assert found == {at: CONTENT[at : at + 512] for at in range(0, 4096, 512)}
    disk.close()


def test_a_server_that_hangs_is_an_error_of_that_request(serve, image, tmp_path):
    process = serve(*nbdkit(tmp_path, "file", image), path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:timeout=1:patience=1:///?socket={tmp_path}/s")
    process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(BackendError):
        read(disk, 0, 512)
    assert time.monotonic() - begin < 20
    process.send_signal(signal.SIGCONT)
    found, deadline = b"", time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        with contextlib.suppress(BackendError):  # on a busy host an answer may take longer than a second
            found = read(disk, 0, 512)
    assert found == CONTENT[:512]
    disk.close()


def test_a_server_that_is_gone_is_an_error_of_all_who_wait_and_it_may_come_back(serve, image, tmp_path):
    words = nbdkit(tmp_path, "file", image)
    process = serve(*words, path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:timeout=1:patience=0:///?socket={tmp_path}/s")
    process.kill()
    process.wait()
    os.unlink(tmp_path / "s")
    failed = []

    def reader():
        with contextlib.suppress(BackendError):
            read(disk, 0, 512)
            return
        failed.append(1)

    readers = [threading.Thread(target=reader) for _ in range(8)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join(60)
    assert len(failed) == 8
    serve(*words, path=tmp_path / "s")
    assert read(disk, 0, 512) == CONTENT[:512]
    disk.close()


def test_an_error_of_the_server_is_one_of_that_request(serve, image, tmp_path):
    flag = tmp_path / "now"
    serve(*nbdkit(tmp_path, "--filter=error", "file", image, "error=ENOSPC", "error-rate=100%", f"error-file={flag}"),
          path=tmp_path / "s")  # fmt: skip
    disk = open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    flag.touch()
    with pytest.raises(BackendError, match="No space left") as caught:
        write(disk, 0, bytes(512))
    assert caught.value.errno == 28
    flag.unlink()
    assert read(disk, 0, 512) == CONTENT[:512]
    disk.close()


def test_an_export_of_another_size_does_not_come_back(serve, image, tmp_path):
    process = serve(*nbdkit(tmp_path, "file", image), path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    process.kill()
    process.wait()
    os.unlink(tmp_path / "s")
    os.truncate(image, SIZE // 2)
    serve(*nbdkit(tmp_path, "file", image), path=tmp_path / "s")
    with pytest.raises(BackendError, match="is not the export it was"):
        read(disk, 0, 512)
    disk.close()


HELLO = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
REPLY = struct.pack(">QII", 0x3E889045565A9, 7, 3)
HOSTILE = {
    "nothing": b"",
    "noise": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "old style": struct.pack(">QQQ", 0x4E42444D41474943, 0x420281861253, 1 << 20) + bytes(128),
    "endless reply": HELLO + REPLY + struct.pack(">I", 0xFFFFFFFF),
    "wrong magic": HELLO + bytes(20),
    "no size": HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, 1, 0),
    "odd size": HELLO + REPLY + struct.pack(">IHQH", 12, 0, 1000, 1) + struct.pack(">QIII", 0x3E889045565A9, 7, 1, 0),
    "refusal": HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, 0x80000005, 3) + b"\xff\xfe!",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_server_is_refused(tmp_path, what):
    with saying(HOSTILE[what], tmp_path / "s"), pytest.raises(ConfigError):
        open_backend(f"nbd+unix:timeout=2:///?socket={tmp_path}/s")


@pytest.mark.parametrize("format", ["vmdk", "vhdx", "vdi"])
def test_other_formats_are_disks_by_way_of_qemu_nbd(serve, image, tmp_path, format):
    """As docs/disks.md says."""
    other = tmp_path / f"machine.{format}"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, image, other], check=True, timeout=60)
    words = ["--persistent", f"--socket={tmp_path}/s", f"--format={format}"]
    serve("qemu-nbd", *words, other, path=tmp_path / "s")
    model = random_requests(f"nbd+unix:///?socket={tmp_path}/s", CONTENT, 4, 60, reopen=True)
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-f", format, "-O", "raw", other, back], check=True, timeout=60)
    assert back.read_bytes() == model.data


def test_a_compressed_image_is_a_disk_by_way_of_nbdkit(serve, tmp_path):
    """As docs/disks.md says."""
    (tmp_path / "disk.img.xz").write_bytes(lzma.compress(CONTENT))
    serve(*nbdkit(tmp_path, "-r", "--filter=xz", "file", tmp_path / "disk.img.xz"), path=tmp_path / "s")
    disk = open_backend(f"snapshot:nbd+unix:///?socket={tmp_path}/s")
    assert read(disk, 0, SIZE) == CONTENT
    disk.close()


def test_replies_are_structured_where_the_server_can(serve, image, tmp_path):
    """Holes are not sent as zeroes, and an error in a read is one of that read alone."""
    with open(image, "r+b") as file:
        file.truncate(0)
        file.truncate(SIZE)
    serve(*nbdkit(tmp_path, "file", image), path=tmp_path / "s")
    disk = open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    assert disk._connection._structured
    write(disk, 8192, CONTENT[:4096])
    assert read(disk, 0, 65536) == bytes(8192) + CONTENT[:4096] + bytes(65536 - 12288)
    disk.close()


def piece(kind, data, flags=0):
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, 1, len(data)) + data


PIECES = {  # the answer to a read of 1024 bytes at 512: what becomes of it
    "backwards": (piece(1, struct.pack(">Q", 1024) + b"b" * 512) + piece(2, struct.pack(">QI", 512, 512), 1), "read"),
    "an error": (piece(1, struct.pack(">Q", 512) + b"a" * 512) + piece(0x8001, struct.pack(">IH", 5, 0), 1), "error"),
    "a part": (piece(1, struct.pack(">Q", 512) + b"a" * 512, 1), "error"),
    "nothing": (piece(0, b"", 1), "error"),
    "before": (piece(1, struct.pack(">Q", 0) + b"a" * 1024, 1), "lost"),
    "behind": (piece(1, struct.pack(">Q", 1024) + b"a" * 1024, 1), "lost"),
    "too much": (piece(2, struct.pack(">QI", 512, 0xFFFFFFFF), 1), "lost"),
    "unknown": (piece(77, b"x", 1), "lost"),
    "endless": (struct.pack(">IHHQI", 0x668E33EF, 1, 1, 1, 0xFFFFFFFF), "lost"),
    "another's": (struct.pack(">IHHQI", 0x668E33EF, 1, 0, 99, 0), "lost"),
    "an odd error": (struct.pack(">IIQ", 0x67446698, 0xFFFFFFFF, 1), "error"),
}


class Wire:
    """A socket that has only so much to say."""

    def __init__(self, data):
        self.data = data

    def recv_into(self, view):
        part, self.data = self.data[: len(view)], self.data[len(view) :]
        view[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("what", PIECES)
def test_pieces_of_a_reply_are_put_where_they_belong_or_refused(what):
    said, outcome = PIECES[what]
    wire, pending, cookie = Wire(said), Pending(512, 1024), 0
    while cookie == 0:
        cookie = answered(wire, {1: pending}.get, True)
    assert (cookie is None) == (outcome == "lost")
    assert bool(pending.error) == (outcome == "error")
    if outcome == "read":
        assert pending.data == bytes(512) + b"b" * 512
