"""A disk's way to the network: connections come from a process of its own, only to what the disk names."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from devproc.blk import network
from launcher.replay.frontend import Outlet
from proto.channel import Channel

DEADLINE = 60.0


@pytest.fixture
def outlet(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Starts an outlet for targets, and has this process connect through it."""
    outlets: list[Outlet] = []

    def begin(*targets: str) -> Outlet:
        outlets.append(Outlet(list(targets)))
        end = Channel(socket.socket(fileno=os.dup(outlets[-1].device_end.fileno())))
        monkeypatch.setattr(network, "_outlet", end)
        return outlets[-1]

    yield begin
    if network._outlet is not None:
        network._outlet.close()
    for one in outlets:
        one.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Echoes what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener
        listener.shutdown(socket.SHUT_RDWR)


def says(sock: socket.socket) -> bytes:
    with sock:
        sock.sendall(b"hello")
        return sock.recv(100)


def test_it_connects_to_what_the_disk_names(outlet, server):
    port = server.getsockname()[1]
    outlet(f"tcp:127.0.0.1:{port}")
    assert says(network.connect_tcp("127.0.0.1", port, DEADLINE)) == b"hello"


def test_it_connects_to_a_socket_in_the_file_system(outlet, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        outlet(f"unix:{tmp_path}/s")
        with network.connect_unix(str(tmp_path / "s"), DEADLINE) as ours, listener.accept()[0] as theirs:
            ours.sendall(b"hello")
            assert theirs.recv(100) == b"hello"


def test_it_connects_to_nothing_else(outlet, server, tmp_path):
    port = server.getsockname()[1]
    outlet("tcp:127.0.0.1:1", f"unix:{tmp_path}/s")
    with pytest.raises(PermissionError, match="not what this disk names"):
        network.connect_tcp("127.0.0.1", port, DEADLINE)
    with pytest.raises(PermissionError):
        network.connect_tcp("localhost", 1, DEADLINE)
    with pytest.raises(PermissionError):
        network.connect_unix(f"{tmp_path}/other", DEADLINE)


def test_errors_are_the_system_s(outlet, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outlet(f"tcp:127.0.0.1:{port}", "tcp:no-such-host.invalid:80", f"unix:{tmp_path}/s")
    with pytest.raises(ConnectionRefusedError):
        network.connect_tcp("127.0.0.1", port, DEADLINE)
    with pytest.raises(FileNotFoundError):
        network.connect_unix(f"{tmp_path}/s", DEADLINE)
    with pytest.raises(OSError, match=r"(?i)name|resolution"):
        network.connect_tcp("no-such-host.invalid", 80, DEADLINE)


def test_it_may_be_killed(outlet, server):
    """What was asked while it was dead is answered by its successor."""
    port = server.getsockname()[1]
    one = outlet(f"tcp:127.0.0.1:{port}")
    kept = network.connect_tcp("127.0.0.1", port, DEADLINE)
    one.kill()
    answers: list[bytes] = []
    asking = threading.Thread(
        target=lambda: answers.append(says(network.connect_tcp("127.0.0.1", port, DEADLINE))), daemon=True
    )
    asking.start()
    one.start()
    asking.join(DEADLINE)
    assert answers == [b"hello"]
    assert says(kept) == b"hello"  # a connection does not end with who made it


def test_nonsense_does_not_end_it(outlet, server):
    port = server.getsockname()[1]
    one = outlet(f"tcp:127.0.0.1:{port}")
    raw = socket.socket(fileno=os.dup(one.device_end.fileno()))
    with raw:
        for data in (b"garbage", b"\x93\xa7CONNECT\x80\x90", b"\xc1", bytes(1000)):
            raw.send(data)
    one.device_end.send("CONNECT", {"host": 5, "port": "x", "timeout": "y"}, {"answer": one.device_end.fileno()})
    one.device_end.send("CONNECT", {"host": "h" * 5000, "port": 1 << 60}, {"other": 0})
    assert says(network.connect_tcp("127.0.0.1", port, DEADLINE)) == b"hello"


def test_many_at_once(outlet, server):
    port = server.getsockname()[1]
    outlet(f"tcp:127.0.0.1:{port}")
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(says(network.connect_tcp("127.0.0.1", port, DEADLINE))))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert answers == [b"hello"] * 50


def test_a_redirection_is_believed_of_the_server_and_not_of_the_device(outlet, server):
    port = server.getsockname()[1]

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        outlet(f"http://127.0.0.1:{web.server_port}/disk.img")
        assert says(network.connect_tcp("127.0.0.1", port, DEADLINE)) == b"hello"
        with pytest.raises(PermissionError):
            network.connect_tcp("127.0.0.1", port + 1 if port < 65535 else 1, DEADLINE)
        web.shutdown()
