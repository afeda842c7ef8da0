"""The serial line's far ends: bytes arrive whole in both directions, whoever is slow."""

import os
import select
import socket
import stat
import tty

import pytest

from core.console import open_console
from proto.errors import ConfigError


class Port:
    """A UART seen from outside, with a receive side of limited room."""

    def __init__(self, room=1 << 20):
        self.sent = b""
        self.received = b""
        self.room = room

    def take(self, limit):
        data, self.sent = self.sent[:limit], self.sent[limit:]
        return data

    def give(self, data):
        accepted = data[: max(0, self.room - len(self.received))]
        self.received += accepted
        return len(accepted)


def pump(console, timeout=0.0):
    """One round of the link thread's loop. False when nothing was ready."""
    interests = dict(console.interests())
    poll = select.poll()
    for descriptor, events in interests.items():
        poll.register(descriptor, events)
    ready = poll.poll(timeout * 1000)
    for descriptor, events in ready:
        console.ready(descriptor, events)
    return bool(ready)


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    port = Port()
    console = open_console(port, {"kind": "fd"}, theirs.detach())
    yield ours, port, console
    console.close()
    ours.close()


def test_output_reaches_the_descriptor(line):
    ours, port, console = line
    port.sent = b"hello\r\n"
    console.transmit()
    assert ours.recv(100) == b"hello\r\n"


def test_a_reader_that_stops_stops_the_guest_and_loses_nothing(line):
    ours, port, console = line
    text = os.urandom(1 << 20)
    port.sent = text
    console.transmit()
    assert port.sent, "the sink took a megabyte without being read"
    received = b""
    while len(received) < len(text):
        received += ours.recv(1 << 16)
        pump(console)
    assert received == text


def test_pasting_more_than_the_uart_takes_waits_in_the_sender(line):
    ours, port, console = line
    text = os.urandom(10_000)
    port.room = 100
    ours.sendall(text)
    while pump(console):
        pass
    assert port.received == text[:100]
    while len(port.received) < len(text):
        port.room += 500
        console.receive()
        pump(console)
    assert port.received == text


def test_after_the_client_has_gone_output_is_discarded(line):
    ours, port, console = line
    ours.close()
    pump(console)
    port.sent = b"x" * 100_000
    console.transmit()
    assert port.sent == b"" and list(console.interests()) == []


def test_a_file_takes_what_the_guest_says(tmp_path):
    port = Port()
    console = open_console(port, {"kind": "file", "path": str(tmp_path / "log")}, None)
    port.sent = b"line\n"
    console.transmit()
    console.close()
    assert (tmp_path / "log").read_bytes() == b"line\n"


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--serial file:.*/none/log: No such file or directory"):
        open_console(Port(), {"kind": "file", "path": str(tmp_path / "none" / "log")}, None)


def test_a_pty_speaks_both_ways_and_survives_readers():
    port = Port()
    console = open_console(port, {"kind": "pty"}, None)
    for _ in range(2):
        terminal = os.open(console.location, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(terminal)
        port.sent = b"login: "
        console.transmit()
        assert os.read(terminal, 100) == b"login: "
        os.write(terminal, b"root\n")
        pump(console, 1.0)
        os.close(terminal)
    assert port.received == b"root\nroot\n"
    console.close()


def test_a_socket_takes_one_client_after_another(tmp_path):
    path = str(tmp_path / "serial")
    port = Port()
    console = open_console(port, {"kind": "socket", "path": path}, None)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            pump(console, 1.0)
            port.sent = b"hello"
            console.transmit()
            assert client.recv(10) == b"hello"
        pump(console, 1.0)
    console.close()
    assert not os.path.exists(path)


def test_a_socket_that_somebody_listens_on_is_refused(tmp_path):
    path = str(tmp_path / "serial")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(ConfigError, match="already in use"):
            open_console(Port(), {"kind": "socket", "path": path}, None)


def test_a_stale_socket_is_replaced(tmp_path):
    path = str(tmp_path / "serial")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    open_console(Port(), {"kind": "socket", "path": path}, None).close()


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigError, match="'tape'"):
        open_console(Port(), {"kind": "tape"}, None)
