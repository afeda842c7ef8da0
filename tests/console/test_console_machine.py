"""A machine's consoles: where their ends are, that they outlive the device, and what cannot be had."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from console_card import wait_for

COMMAND = [sys.executable, "-P", "-m", "launcher"]


def bulkhead(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)


def row() -> dict[str, object]:
    rows = json.loads(bulkhead("ps", "--json", "--machine", "ends").stdout)["processes"]
    found: dict[str, object] = next(row for row in rows if row["id"] == "console0")
    return found


def test_the_ends_of_ports_are_the_keepers(tmp_path: Path) -> None:
    ports = ["--console", "pty,name=a", "--console", f"socket:{tmp_path}/s", "--console", f"file:{tmp_path}/f"]
    started = bulkhead("run", "--guest", "bundled", "--name", "ends", "--detach", *ports)
    assert started.returncode == 0, started.stderr
    try:
        first = row()
        link = Path(os.environ["XDG_RUNTIME_DIR"]) / "bulkhead" / "ends" / "console0.a"
        assert first["terminals"] == {"a": os.readlink(link)}
        assert stat.S_ISCHR(link.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/s")
            os.kill(int(str(first["pid"])), signal.SIGKILL)
            wait_for(lambda: row()["state"] == "running" and row()["restarts"] == 1, "a successor")
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)  # still connected
    finally:
        bulkhead("stop", "--machine", "ends")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--console", "stdio"], "stdio is the serial line already"),
        (["--console", "ptty"], "there is no console port"),
        (["--console", "stdio", "--detach"], "--detach leaves no terminal"),
        (["--device", "console"], "a console is given with --console"),
        (["--console", "socket:/nowhere/at/all"], "no such file or directory"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], said: str) -> None:
    answer = bulkhead("run", "--guest", "bundled", *words)
    assert answer.returncode != 0
    assert said in answer.stderr
