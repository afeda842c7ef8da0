"""Spare device processes: that they are there, cost little, become devices, are replaced, and leave nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.keeper.spares import POOL, Spare

PROMPT = b"> "
MOST_MEMORY = 20 << 20  # bytes that a spare may have for itself
Start = Callable[..., Any]

VERSIONED = """
from devproc.device import Queue, VirtioDevice
print("this is version {version}")
class Mine(VirtioDevice):
    device_id = 4
    queues = (Queue("requests", size=8),)
"""


def private_dirty(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def test_two_wait_once_the_machine_runs_and_cost_little(start: Start, disk: str, wait_until: Any) -> None:
    machine = start("--disk", disk, "--device", "rng", "--net", "user", "--share", os.path.dirname(disk) + ",tag=t")
    machine.expect(PROMPT)
    spares = wait_until(lambda: len(found := machine.spares()) == POOL and found, "the pool's filling", 20)
    for row in spares:
        assert (row["epoch"], row["restarts"]) == (None, None)
        assert private_dirty(row["pid"]) <= MOST_MEMORY
        mapped = Path(f"/proc/{row['pid']}/maps").read_text()
        assert "/dev/shm" not in mapped  # nothing of the machine
    machine.type("exit 3\n")
    assert machine.wait() == 3


def test_there_are_no_more_than_devices(start: Start, disk: str, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    first = wait_until(machine.spares, "a spare", 20)
    os.kill(first[0]["pid"], signal.SIGKILL)
    wait_until(lambda: (now := machine.spares()) and now[0]["pid"] != first[0]["pid"], "its replacement", 20)
    assert len(machine.spares()) == 1


def test_a_killed_device_is_a_spare_from_then_on(start: Start, disk: str, bulkhead: Any, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    for epoch in (2, 3):
        spare = wait_until(machine.spares, "a spare", 20)[0]["pid"]
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        machine.type("read 0\n")
        machine.expect(b"000001f0")
        row = wait_until(lambda: (r := machine.row("blk0"))["state"] == "running" and r, "the restart")
        assert (row["pid"], row["epoch"]) == (spare, epoch)
    spare = wait_until(machine.spares, "a spare", 20)[0]["pid"]
    assert bulkhead("restart", "blk0").returncode == 0
    assert machine.row("blk0")["pid"] == spare


def test_code_of_the_user_is_read_anew(start: Start, tmp_path: Path, bulkhead: Any, wait_until: Any) -> None:
    device = tmp_path / "mine.py"
    device.write_text(VERSIONED.format(version=1))
    machine = start("--device", f"{device}:Mine")
    machine.expect(PROMPT)
    spare = wait_until(machine.spares, "a spare", 20)[0]["pid"]
    device.write_text(VERSIONED.format(version=2))
    assert bulkhead("restart", "mine0").returncode == 0
    assert machine.row("mine0")["pid"] == spare
    log = bulkhead("logs", "mine0").stdout  # what a spare prints once it is a device is in the device's log
    assert "this is version 1" in log and "this is version 2" in log


def test_a_spare_of_older_code_is_not_current(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.touch()
    spare = Spare("spare0", child=None)  # type: ignore[arg-type]
    spare.sources = {str(file): file.stat().st_mtime_ns}
    assert spare.ready and spare.is_current()
    os.utime(file, (1, 1))
    assert not spare.is_current()
    file.unlink()
    assert not spare.is_current()


def test_spares_end_with_the_keeper(start: Start, disk: str, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    spare = wait_until(machine.spares, "a spare", 20)[0]["pid"]
    machine.keeper().kill()
    wait_until(lambda: not os.path.exists(f"/proc/{spare}/exe"), "its end", 3)
    machine.wait()
