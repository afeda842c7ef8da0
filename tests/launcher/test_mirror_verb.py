"""`bulkhead mirror`: a disk changes place and format under a guest that writes to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mirroring import content, status

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
SIZE = 16 << 20
pytestmark = pytest.mark.slow
Start = Callable[..., Any]


def begin(*words: str) -> subprocess.Popen[str]:
    """`bulkhead mirror` in the background."""
    return subprocess.Popen([*COMMAND, "mirror", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_disk_changes_its_format_while_it_is_written_and_killed(
    start: Start, disk: str, tmp_path: Path, wait_until: Any, bulkhead: Any
) -> None:
    """The disk's process is killed, then the command; both are taken up again. Then the guest has its data."""
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    machine.type("fill 16 1\n")
    machine.expect(b"filled")
    machine.expect(PROMPT)
    target = f"qcow2:{tmp_path}/new.qcow2"
    command = begin("blk0", target, "--rate", "1M")
    wait_until(lambda: "mirror" in machine.row("blk0")["backend"], "the mirror's begin", 30)
    machine.type("verify 16 2\n")
    wait_until(lambda: 0 < status()["left"] < SIZE, "some copying", 30)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    command.kill()
    command.communicate()
    outcome = bulkhead("mirror", "blk0", "--rate", "1G")
    assert outcome.returncode == 0 and f"blk0 is now qcow2:file:{tmp_path}/new.qcow2" in outcome.stdout
    said = machine.expect(b"checked")
    assert b"wrong" not in said
    machine.expect(PROMPT)
    machine.type("check 16 2\n")
    assert b"wrong" not in machine.expect(b"checked")
    row = machine.row("blk0")
    assert row["restarts"] == 1 and row["backend"].startswith("qcow2:")
    assert bulkhead("stop").returncode == 0
    machine.wait()
    assert bulkhead("disk", "check", f"{tmp_path}/new.qcow2").returncode in (0, 3)


def test_both_are_equal_and_stay_so_until_it_is_cancelled(
    start: Start, disk: str, tmp_path: Path, bulkhead: Any
) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    machine.type("fill 16 1\n")
    outcome = bulkhead("mirror", "blk0", f"{tmp_path}/copy.img", "--no-pivot", "--json")
    assert json.loads(outcome.stdout)["state"] == "equal", outcome.stderr
    machine.expect(b"filled")
    machine.expect(PROMPT)
    for line in ("fill 8 2", "discard 0x800 0x400", "zero 0x1000 0x100"):
        machine.type(f"{line}\n")
        machine.expect(PROMPT)
    assert "is being mirrored" in bulkhead("swap", "blk0", "serial=x").stderr
    assert "to be mirrored" not in bulkhead("mirror", "blk0", f"{tmp_path}/third.img").stdout
    gone = bulkhead("mirror", "blk0", "--cancel")
    assert gone.returncode == 0, gone.stderr
    assert machine.row("blk0")["backend"] == f"file:{disk}"
    assert bulkhead("stop").returncode == 0
    machine.wait()
    assert content(disk) == content(f"{tmp_path}/copy.img")


def test_ctrl_c_leaves_the_disk_where_it_was(start: Start, disk: str, tmp_path: Path, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    command = begin("blk0", f"{tmp_path}/copy.img", "--rate", "256k")
    wait_until(lambda: "mirror" in machine.row("blk0")["backend"], "the mirror's begin", 30)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 124 and f"blk0 keeps file:{disk}" in errors
    assert machine.row("blk0")["backend"] == f"file:{disk}"
    machine.type("verify 4 1\n")
    assert b"wrong" not in machine.expect(b"checked")


def test_what_cannot_be_a_copy_is_refused(start: Start, disk: str, tmp_path: Path, bulkhead: Any) -> None:
    machine = start("--disk", disk, "--device", "rng")
    machine.expect(PROMPT)
    small = tmp_path / "small.img"
    small.write_bytes(bytes(1 << 20))
    for words, reason in (
        (("blk0", str(small)), "does not fit"),
        (("blk0", disk), "already uses"),
        (("blk0", str(tmp_path / "new.qcow2")), "would be a raw image"),
        (("blk0",), "is not being mirrored"),
        (("rng0", str(small)), "is no disk"),
        (("blk0", "--cancel"), "is not being mirrored or committed"),
    ):
        done = bulkhead("mirror", *words)
        assert done.returncode == 125 and reason in done.stderr, done.stderr
    assert not (tmp_path / "new.qcow2").exists()
    assert machine.row("blk0")["backend"] == f"file:{disk}"
