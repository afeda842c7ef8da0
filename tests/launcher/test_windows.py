"""Devices behind relays in whole machines: window mode and `bulkhead serve`, killed under the bundled guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.trace.keys import create

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
TEXT = b"behind a window!"


@pytest.fixture
def written(disk: str) -> str:
    Path(disk).write_bytes(TEXT * (1 << 16))
    return disk


def reads(machine: Any) -> bytes:
    machine.type("read 0 8\n")
    found: bytes = machine.expect(PROMPT)
    return found


def mapped(pid: int) -> set[int]:
    """Inodes of the memory that a process shares with others."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {int(words[4]) for words in lines if words[1].startswith("rw") and words[1].endswith("s")}


def held(pid: int) -> set[int]:
    """Inodes of what a process has open."""
    return {os.stat(fd).st_ino for fd in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.slow
def test_a_window_and_the_deaths_on_both_sides_of_it(
    start: Callable[..., Any], written: str, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", f"{written},window=on", "--name", "window")
    machine.expect(PROMPT)
    before = reads(machine)
    assert TEXT in before
    core, relay, device = (machine.row(id)["pid"] for id in ("core", "blk0", "blk0.window"))
    assert mapped(relay) & mapped(core)  # guest memory among them
    assert not (mapped(device) | held(device)) & mapped(core)
    for victims in (("blk0",), ("blk0.window",), ("blk0", "blk0.window")):
        for pid in [machine.row(id)["pid"] for id in victims]:
            os.kill(pid, signal.SIGKILL)
        assert reads(machine) == before, victims
    rows = {id: machine.row(id) for id in ("blk0", "blk0.window")}
    assert (rows["blk0"]["restarts"], rows["blk0.window"]["restarts"]) == (2, 2)
    wait_until(lambda: machine.row("blk0")["state"] == "running", "the relay's return")
    words = ["mirror", "blk0", f"{written}.copy", "--machine", "window"]
    refused = subprocess.run([*COMMAND, *words], capture_output=True, timeout=60)
    assert refused.returncode and b"behind a relay" in refused.stderr


@pytest.fixture
def served(written: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The disk under `bulkhead serve`, and what --disk is given for it."""
    keys = tmp_path / "keys"
    create(keys)
    words = ["serve", written, "--keys", str(keys), "--listen", "tcp://127.0.0.1:0"]
    server = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    assert "is served at" in line
    yield server, f"remote:keys={keys}://127.0.0.1:{line.rsplit(':', 1)[1].strip()}"
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    server.stderr.close()


@pytest.mark.slow
def test_a_disk_of_another_host_waits_for_it(
    start: Callable[..., Any], served: tuple[subprocess.Popen[str], str], wait_until: Callable[..., Any]
) -> None:
    server, uri = served
    machine = start("--disk", uri, "--name", "elsewhere")
    machine.expect(PROMPT)
    before = reads(machine)
    assert TEXT in before
    (device,) = psutil.Process(server.pid).children()
    server.send_signal(signal.SIGSTOP)  # so that nobody starts the device again
    device.kill()
    wait_until(lambda: machine.row("blk0")["state"] == "waiting", "it waits", 30)
    machine.type("read 0 8\n")
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)  # the relay, while there is nobody
    wait_until(lambda: machine.row("blk0")["restarts"] == 1 and machine.row("blk0")["state"] == "waiting", "again", 30)
    server.send_signal(signal.SIGCONT)
    assert machine.expect(PROMPT) == before
    wait_until(lambda: machine.row("blk0")["state"] == "running", "it runs")


REFUSED = {
    "no keys": (["--disk", "remote://server"], "needs keys"),
    "keys that are none": (["--disk", "remote:keys=nowhere://server"], "no key to connect with"),
    "something on it": (["--disk", "remote:keys=nowhere://server,ro"], "for the other host"),
    "a card's address": (["--net", "remote:keys=nowhere://server,mac=52:54:00:12:34:56"], "for the other host"),
    "a card's capture": (["--net", "remote:keys=nowhere://server,pcap=x"], "for the other host"),
    "a card without keys": (["--net", "remote://server"], "needs keys"),
    "registers": (["--device", "mailbox,window=on"], "cannot be behind a window"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_command_line_refuses(case: str, tmp_path: Path) -> None:
    words, why = REFUSED[case]
    done = subprocess.run(
        [*COMMAND, "run", "--guest", "bundled", "--dry-run", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 125 and why in done.stderr


def test_serve_wants_one_thing_and_no_more_of_a_card_than_is_here(tmp_path: Path) -> None:
    create(tmp_path / "keys")
    for words, why in (
        (["--net", "user", "disk.img"], "serve one thing"),
        (["--net", "user,ip=dhcp"], "for the host with the guest"),
        (["--net", "nothing"], "there is no network"),
    ):
        done = subprocess.run(
            [*COMMAND, "serve", *words, "--keys", "keys"], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert done.returncode == 125 and why in done.stderr, words
