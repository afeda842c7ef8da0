"""What stands behind a card: URIs, framing, the hub's switch, libslirp, and what is said when something is missing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from card import BROADCAST, MAC, frame, header, ones_sum
from hypothesis import given
from hypothesis import strategies as st

from devproc.net import user
from devproc.net.backend import BACKENDS, Word, parse_uri
from devproc.net.offload import HEADER
from devproc.net.stream import Deframer
from devproc.net.user import parse_forward
from proto.channel import ENVIRONMENT, Channel
from proto.errors import ConfigError


class Process:
    """A real peer process, and the device's end of its cable."""

    def __init__(self, backend: str, log: Path) -> None:
        self.wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.settimeout(60)
        self.channel, channel = Channel.pair()
        environment = {**os.environ, ENVIRONMENT: str(channel.fileno())}
        with channel, open(log, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devproc.net.peer"],
                env=environment,
                pass_fds=[channel.fileno()],
                stderr=output,
            )
        self.channel.send("START", {"id": "peer", "backend": backend}, {"frames": theirs.fileno()})
        theirs.close()
        self.answer = self.channel.recv(60)

    def word(self) -> Word:
        """The next message, which is about the link."""
        return Word(int.from_bytes(self.wire.recv(70000), "little"))

    def frame(self) -> bytes:
        """The next frame."""
        while len(message := self.wire.recv(70000)) == 4:
            pass
        return message[HEADER:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self.wire.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    processes = []

    def start(backend: str) -> Process:
        processes.append(Process(backend, tmp_path / "log"))
        assert processes[-1].answer.kind == "READY", processes[-1].answer.body
        return processes[-1]

    yield start
    for process in processes:
        if process.wire.fileno() >= 0:
            process.close()


# -- URIs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("usr", "there is no network 'usr'"),
        ("user:x", "is not complete"),
        ("tap", "is not complete"),
        ("hub", "is not complete"),
        ("user,hostfw=tcp:1-2", "no option 'hostfw'"),
        ("stream:unix:/x,hostfwd=tcp:1-2", "no option 'hostfwd'"),
    ],
)
def test_a_wrong_uri_is_explained(uri: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        parse_uri(uri)
    assert error.value.hint


@pytest.mark.parametrize("text", ["tcp:80", "tcp:0-80", "tcp:80-70000", "sctp:1-2", "tcp:1.2.3.999:1-2", ""])
def test_a_wrong_forward_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match="hostfwd="):
        parse_forward(text)


def test_forwards_are_for_this_host_unless_said() -> None:
    assert parse_forward("tcp:8080-80").address == "127.0.0.1"
    assert parse_forward("udp:0.0.0.0:53-53").address == "0.0.0.0"


@pytest.mark.parametrize("uri", ["stream:unix:", "stream:tcp:host", "stream:tcp:host:0", "stream:/path"])
def test_a_wrong_stream_address_is_explained(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected unix:PATH or tcp:HOST:PORT"):
        parse_uri(uri).open()


def test_without_libslirp_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(ConfigError, match="needs libslirp") as error:
        user.load_libslirp()
    assert "apt-get install libslirp0" in error.value.hint


# -- stream ------------------------------------------------------------------------------------------------------------


@given(frames=st.lists(st.binary(max_size=300), max_size=8), cuts=st.lists(st.integers(1, 200)))
def test_frames_come_out_of_a_stream_however_it_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(data).to_bytes(4, "big") + data for data in frames)
    deframer = Deframer()
    found = []
    for cut in cuts:
        found += deframer.feed(stream[:cut])
        stream = stream[cut:]
    assert found + deframer.feed(stream) == frames


@given(st.binary(max_size=500))
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert sum(map(len, Deframer().feed(data))) <= len(data)


def test_a_stream_client_finds_its_server_again(peer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    client = peer(f"stream:unix:{path}")
    assert client.word() is Word.DOWN
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            connection, _ = listener.accept()
        os.unlink(path)
        assert client.word() is Word.UP
        connection.sendall(b"\0\0\0\x3c" + frame(b"in"))
        assert client.frame() == frame(b"in")
        client.wire.send(header() + frame(b"out"))
        assert connection.recv(100) == b"\0\0\0\x3c" + frame(b"out")
        connection.close()
        assert client.word() is Word.DOWN


def test_two_streams_meet_over_tcp(peer: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = peer(f"stream:tcp:127.0.0.1:{port},server")
    client = peer(f"stream:tcp:127.0.0.1:{port}")
    for end in (server, client):
        assert [end.word(), end.word()] == [Word.DOWN, Word.UP]
    for number in range(500):
        client.wire.send(header() + frame(number.to_bytes(4, "big") + bytes(1400)))
    assert [server.frame()[14:18] for _ in range(500)] == [number.to_bytes(4, "big") for number in range(500)]


def test_a_stream_that_makes_no_sense_is_closed(peer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = peer(f"stream:unix:{path},server")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(b"\xff\xff\xff\xff")
        assert client.recv(1) == b""
    assert [server.word() for _ in range(3)] == [Word.DOWN, Word.UP, Word.DOWN]


# -- hub ---------------------------------------------------------------------------------------------------------------

STATIONS = [bytes([2, 0, 0, 0, 0, number]) for number in range(3)]


def hears(process: Process, seconds: float = 0.3) -> bool:
    process.wire.settimeout(seconds)
    try:
        process.frame()
        return True
    except TimeoutError:
        return False
    finally:
        process.wire.settimeout(60)


def meet(processes: list[Process]) -> None:
    """Let everybody be heard by everybody: the switch learns where each is."""
    for number, process in enumerate(processes):
        others = [other for other in processes if other is not process]
        deadline = time.monotonic() + 60
        while not all(hears(other) for other in others):
            assert time.monotonic() < deadline
            process.wire.send(header() + frame(to=BROADCAST, source=STATIONS[number]))
        for other in others:
            while hears(other, 0.05):
                pass


def test_a_hub_brings_a_frame_to_where_it_belongs(peer: Any, tmp_path: Path) -> None:
    members = [peer(f"hub:{tmp_path}/hub") for _ in range(3)]
    meet(members)
    offloads = header(1, 1, 54, 1448, 34, 16)
    members[1].wire.send(offloads + frame(b"to two", to=STATIONS[2], source=STATIONS[1]))
    assert members[2].wire.recv(70000) == offloads + frame(b"to two", to=STATIONS[2], source=STATIONS[1])
    assert not hears(members[0])


def test_when_the_switch_is_killed_another_takes_over(peer: Any, tmp_path: Path) -> None:
    members = [peer(f"hub:{tmp_path}/hub") for _ in range(3)]
    meet(members)
    members[0].close()
    rest = members[1:]
    deadline = time.monotonic() + 60
    heard = False
    while not heard:
        assert time.monotonic() < deadline
        rest[0].wire.send(header() + frame(b"again", to=BROADCAST, source=STATIONS[1]))
        heard = hears(rest[1])


# -- user --------------------------------------------------------------------------------------------------------------


def dhcp_discover(mac: bytes) -> bytes:
    body = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + mac.ljust(16, b"\0") + bytes(192)
    body += b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\xff"
    body = body.ljust(300, b"\0")
    udp = struct.pack(">HHHH", 68, 67, 8 + len(body), 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(body), 1, 0, 64, 17, 0) + bytes(4) + b"\xff" * 4
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack(">H", 0xFFFF ^ total) + ip[12:]
    return frame(ip + udp + body, to=BROADCAST, source=mac, kind=0x0800)


@pytest.mark.parametrize("backend", ["user", "hub:{}/hub"])
def test_its_keeper_hears_that_it_lives(peer: Any, tmp_path: Path, backend: str) -> None:
    process = peer(backend.format(tmp_path))
    for _ in range(2):
        process.channel.send("ASK")
        while (packet := process.channel.recv(60)).kind != "ALIVE":
            assert packet.kind == "LOG"


def test_user_offers_a_lease(peer: Any) -> None:
    process = peer("user")
    process.wire.send(header() + dhcp_discover(MAC))
    while True:
        offer = process.frame()
        if offer[12:14] == b"\x08\x00" and offer[23] == 17:
            break
    assert offer[14 + 20 + 8 + 16 :][:4] == bytes([10, 0, 2, 15])  # yiaddr


class Connection:
    """A guest's TCP connection to a port of the host's loopback, by hand: 10.0.2.15 to 10.0.2.2."""

    guest, host = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])

    def __init__(self, process: Process, port: int) -> None:
        self._process, self._port = process, port
        self._sequence = self._acknowledged = 0
        arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + MAC + self.guest + bytes(6) + self.host
        process.wire.send(header() + frame(arp, to=BROADCAST, source=MAC, kind=0x0806))
        self.send(flags=0x02)
        flags, _ = self.receive()
        assert flags == 0x12
        self._sequence = 1
        self.send()

    def send(self, data: bytes = b"", flags: int = 0x10) -> None:
        fields = (40000, self._port, self._sequence, self._acknowledged, 5 << 4, flags, 65535, 0, 0)
        tcp = struct.pack(">HHIIBBHHH", *fields)
        pseudo = self.guest + self.host + struct.pack(">HH", 6, len(tcp) + len(data))
        tcp = tcp[:16] + struct.pack(">H", 0xFFFF ^ ones_sum(pseudo + tcp + data)) + tcp[18:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 1, 0, 64, 6, 0) + self.guest + self.host
        ip = ip[:10] + struct.pack(">H", 0xFFFF ^ ones_sum(ip)) + ip[12:]
        self._process.wire.send(header() + frame(ip + tcp + data, to=BROADCAST, source=MAC, kind=0x0800))
        self._sequence += len(data)

    def receive(self) -> tuple[int, bytes]:
        """The next segment's flags and data; what libslirp sends again, its timer being short, was had before."""
        while True:
            data = self._process.frame()
            if data[12:14] != b"\x08\x00" or data[23] != 6:
                continue
            size = int.from_bytes(data[16:18], "big")
            sequence, flags = int.from_bytes(data[38:42], "big"), data[47]
            payload = data[34 + (data[46] >> 4) * 4 : 14 + size]
            if sequence == self._acknowledged or flags & 2:
                break
        self._acknowledged = sequence + len(payload) + (flags & 2) // 2
        return flags, payload


def take(end: socket.socket, size: int) -> bytes:
    """So many bytes, however they come."""
    found = b""
    while len(found) < size and (data := end.recv(size - len(found))):
        found += data
    return found


def test_frames_of_every_size_pass_through_user(peer: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        guest = Connection(peer("user"), listener.getsockname()[1])
        server, _ = listener.accept()
        with server:
            server.settimeout(60)
            for size in (1, 1460, 32728, 65000):
                sent = os.urandom(size)
                guest.send(sent)
                assert take(server, size) == sent
                server.sendall(sent[::-1])
                found = b""
                while len(found) < size:
                    _, data = guest.receive()
                    found += data
                    guest.send()
                assert found == sent[::-1]


def test_two_aligned_segments_fill_the_window_of_user() -> None:
    segment = BACKENDS["user"].mtu - 40
    assert segment % 8 == 0
    assert 2 * segment <= 65535 < 3 * segment


def test_events_of_libslirp_are_those_of_poll() -> None:
    assert all(user.FROM_POLL[bits] == flags for flags, bits in enumerate(user.TO_POLL))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = Process(f"user,hostfwd=tcp:{port}-80", tmp_path / "log")
    assert process.answer.kind == "FAILED"
    assert f"tcp port {port} on 127.0.0.1" in process.answer.body["error"]
    process.close()
