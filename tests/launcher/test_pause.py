"""`bulkhead pause` and `cont`: the guest stands still, its time too, and everything else goes on."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from launcher.cli.exitcodes import ExitCode

PROMPT = b"> "
Start = Callable[..., Any]


def uptime(machine: Any) -> float:
    """Seconds of the guest's own time."""
    machine.type("info\n")
    found = re.search(rb"uptime +(\d+) ms", machine.expect(b" external"))
    machine.expect(PROMPT)
    assert found is not None
    return int(found[1]) / 1000


def test_a_paused_guest_runs_nothing_and_its_time_stands_still(start: Start, bulkhead: Any) -> None:
    machine = start("--smp", "2")
    machine.expect(PROMPT)
    began, first = time.monotonic(), uptime(machine)
    assert bulkhead("pause").returncode == 0
    paused = time.monotonic()
    row = machine.row("core")
    assert row["state"] == "paused"
    assert re.match(r"machine vm1 · paused ", bulkhead("ps").stdout.splitlines()[0])
    assert bulkhead("pause").returncode == 0  # once more is nothing new
    assert machine.row("core")["instructions"] == row["instructions"]
    stood = time.monotonic() - paused
    assert bulkhead("cont").returncode == 0
    assert machine.row("core")["state"] == "running"
    passed = uptime(machine) - first
    assert 0 <= passed <= time.monotonic() - began - stood + 0.002


def test_a_guest_that_sleeps_can_be_paused_and_sleeps_on_afterwards(start: Start, bulkhead: Any) -> None:
    machine = start()
    machine.expect(PROMPT)
    began = time.monotonic()
    machine.type("sleep 3000\n")
    machine.expect(b"sleep 3000")
    bulkhead("pause")
    paused = time.monotonic()
    bulkhead("ps")
    stood = time.monotonic() - paused
    bulkhead("cont")
    machine.expect(PROMPT)
    assert time.monotonic() - began >= 2.9 + stood


def test_devices_live_and_die_under_a_paused_guest(
    start: Start, disk: str, bulkhead: Any, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    bulkhead("pause")
    machine.type("write 3 kept\nread 3\n")
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    wait_until(lambda: (row := machine.row("blk0"))["epoch"] == 2 and row["state"] == "running", "the restart")
    assert bulkhead("restart", "blk0").returncode == 0
    assert machine.row("core")["state"] == "paused"
    bulkhead("cont")
    machine.expect(b"read 3")
    machine.expect(b"kept")


def test_a_guest_that_waits_for_a_device_can_be_paused(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", f"delay:ms=300:{disk}")
    machine.expect(PROMPT)
    machine.type("read 0 1\n")
    machine.expect(b"read 0 1")
    assert bulkhead("pause").returncode == 0
    assert bulkhead("cont").returncode == 0
    machine.expect(PROMPT)


def test_a_paused_machine_ends_as_any_other(start: Start, bulkhead: Any) -> None:
    machine = start()
    machine.expect(PROMPT)
    bulkhead("pause")
    machine.client.send_signal(signal.SIGINT)
    assert machine.wait() == ExitCode.KILLED
    machine = start()
    machine.expect(PROMPT)
    bulkhead("pause")
    assert bulkhead("stop").returncode == 0
    assert machine.wait() == ExitCode.KILLED
