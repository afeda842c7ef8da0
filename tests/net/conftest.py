"""A server on the host's loopback, and guests that have a network."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from available import missing

from bench.iperf import initramfs
from launcher.images import Images, ImagesError, ensure

COMMAND = [sys.executable, "-P", "-m", "launcher"]
DEADLINE = 240.0


@pytest.fixture(scope="session")
def images() -> Images:
    """The Debian guest's."""
    try:
        return ensure()
    except ImagesError as error:
        missing(f"the Debian images: {error}")
        raise


@pytest.fixture
def iperf3_initrd(images: Images, tmp_path: Path) -> Path:
    """The Debian guest's initramfs, with iperf3."""
    path = tmp_path / "iperf3.cpio"
    try:
        path.write_bytes(initramfs(images))
    except ImagesError as error:
        missing(f"iperf3 for the Debian guest: {error}")
    return path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


class Server:
    """Files of a directory over HTTP on 127.0.0.1, and one large file in it."""

    def __init__(self, directory: Path, size: int) -> None:
        data = random.Random(size).randbytes(size)
        (directory / "big").write_bytes(data)
        self.hash = hashlib.sha256(data).hexdigest()
        self._http = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *rest: _Quiet(*rest, directory=str(directory))
        )
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[int], Server]]:
    """Start a server with a file of so many bytes."""
    servers = []

    def start(size: int) -> Server:
        servers.append(Server(tmp_path, size))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Guest:
    """`bulkhead run … -- sh -c SCRIPT` in the background; without a script the guest does what its initramfs says."""

    def __init__(self, name: str, *options: str, script: str | None) -> None:
        self.name = name
        command = [] if script is None else ["--", "sh", "-c", script]
        words = ["run", "--guest", "debian", "--name", name, *options, *command]
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def row(self, id: str) -> dict[str, Any] | None:
        """A process of the machine, as `ps` shows it; None while there is none."""
        words = [*COMMAND, "ps", "--json", "--machine", self.name]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode:
            return None
        rows: list[dict[str, Any]] = json.loads(answer.stdout)["processes"]
        return next((row for row in rows if row["id"] == id), None)

    def finish(self, timeout: float = DEADLINE) -> str:
        """What it printed, once it has ended; it must have ended well."""
        printed, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, (printed[-2000:], errors[-2000:])
        return printed

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=60)


@pytest.fixture
def guest(images: Images) -> Iterator[Callable[..., Guest]]:
    """Start a Debian guest that runs a script, if there is one; it is ended with the test."""
    guests: list[Guest] = []

    def start(*options: str, script: str | None = None, name: str = "net") -> Guest:
        guests.append(Guest(name, *options, script=script))
        return guests[-1]

    yield start
    for one in guests:
        one.close()


def wait_until(condition: Callable[[], Any], what: str, timeout: float = DEADLINE) -> Any:
    """Poll for something that another process does; its first true value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.05)
    return value


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until
