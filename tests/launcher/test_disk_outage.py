"""A disk whose server is away, and whose process dies meanwhile, comes back when the server does."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROMPT = b"> "


class Nbdkit:
    """A server that can be taken away."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self.image = folder / "served.img"
        self.image.write_bytes(b"bulkhead" * (1 << 17))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait_until: Callable[..., Any]) -> None:
        words = ["nbdkit", "-f", "--exit-with-parent", "-U", str(self.socket), "file", str(self.image)]
        self._process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "nbdkit's start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


@pytest.fixture
def server(tmp_path: Path, wait_until: Callable[..., Any]) -> Iterator[Nbdkit]:
    if shutil.which("nbdkit") is None:
        pytest.skip("needs nbdkit")
    made = Nbdkit(tmp_path)
    made.start(wait_until)
    yield made
    made.kill()


@pytest.mark.slow
def test_a_disk_killed_while_its_server_is_away_comes_back_with_it(
    start: Callable[..., Any], server: Nbdkit, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", f"nbd+unix:patience=1:///?socket={server.socket}", "--name", "outage")
    machine.expect(PROMPT)
    machine.type("read 0 8\n")
    before = machine.expect(PROMPT)
    server.kill()
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.row("blk0")["restarts"] >= 3, "successors that find no server", 30)
    machine.type("read 0 8\n")  # waits for the disk
    server.start(wait_until)
    after = machine.expect(PROMPT)
    assert b"bulkhead" in before and after == before
    wait_until(lambda: machine.row("blk0")["state"] == "running", "the disk's return", 30)
