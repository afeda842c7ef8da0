"""`kill -9` of each process of a machine: what is left, what is said, and that acknowledged data is there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.cli.exitcodes import ExitCode
from launcher.control import connect, request

PROMPT = b"> "
Start = Callable[..., Any]


def run_directory(name: str) -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "bulkhead" / name


def processes(name: str) -> dict[str, int]:
    """Pids of a machine's processes."""
    with connect(name) as channel:
        return {row["id"]: row["pid"] for row in request(channel, "PS")["processes"] if row["pid"]}


def keeper_of(pid: int) -> int:
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent.pid


@pytest.mark.parametrize("victim", ["core", "keeper", "blk0", "client"])
def test_what_was_flushed_is_on_disk(start: Start, disk: str, victim: str, wait_until: Any) -> None:
    machine = start("--disk", disk, "--name", "data")
    machine.expect(PROMPT)
    machine.type("write 9 flushed\nflush\n")
    machine.expect(b"> flush")
    machine.expect(PROMPT)
    pids = processes("data")
    os.kill({**pids, "keeper": keeper_of(pids["core"]), "client": machine.client.pid}[victim], signal.SIGKILL)
    if victim == "blk0":  # the only one whose death is not the end
        machine.type("read 9\n")
        machine.expect(b"flushed")
        machine.type("exit 3\n")
        assert machine.wait() == 3
    else:
        machine.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids.values()), "the end", 5)
    with open(disk, "rb") as image:
        image.seek(9 * 512)
        assert image.read(512).startswith(b"flushed")


def test_the_command_says_what_became_of_the_core(start: Start, disk: str) -> None:
    machine = start("--disk", disk, "--name", "words")
    machine.expect(PROMPT)
    os.kill(processes("words")["core"], signal.SIGSEGV)
    assert machine.wait() == ExitCode.ERROR
    assert "the core was killed by SIGSEGV" in machine.errors()


@pytest.mark.parametrize("victim", ["core", "keeper"])
def test_nothing_is_left_of_a_detached_machine(bulkhead: Any, disk: str, victim: str, wait_until: Any) -> None:
    assert bulkhead("run", "--guest", "bundled", "--detach", "--name", "far", "--disk", disk).returncode == 0
    pids = processes("far")
    began = time.monotonic()
    os.kill(keeper_of(pids["core"]) if victim == "keeper" else pids["core"], signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids.values()), "the end")
    assert time.monotonic() - began < 3.0
    assert bulkhead("ps").returncode == ExitCode.ERROR  # and sweeps
    assert not run_directory("far").exists()


def test_a_detached_machine_outlives_whoever_looks_at_it(bulkhead: Any, disk: str, wait_until: Any) -> None:
    assert bulkhead("run", "--guest", "bundled", "--detach", "--name", "far", "--disk", disk).returncode == 0
    pids = processes("far")
    os.kill(pids["blk0"], signal.SIGKILL)
    wait_until(lambda: processes("far").get("blk0") not in (None, pids["blk0"]), "the restart")
    assert processes("far")["core"] == pids["core"]
    assert bulkhead("stop", "--machine", "far").returncode == 0
