"""`bulkhead commit`, and block-commit: an overlay becomes its base under a guest that writes to it."""

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

from devproc.blk import qcow2_tools

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
SIZE = 16 << 20
pytestmark = pytest.mark.slow
Start = Callable[..., Any]


def test_a_snapshot_becomes_its_base_while_it_is_written_and_killed(
    start: Start, disk: str, wait_until: Any, bulkhead: Any
) -> None:
    """The disk's process is killed, then the command; both are taken up again. The base has what the guest wrote."""
    machine = start("--disk", f"snapshot:{disk}")
    machine.expect(PROMPT)
    machine.type("fill 16 1\n")
    machine.expect(b"filled")
    machine.expect(PROMPT)
    command = subprocess.Popen([*COMMAND, "commit", "blk0", "--rate", "1M"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: machine.row("blk0")["backend"].startswith("commit:"), "the commit's begin", 30)
    machine.type("verify 16 2\n")
    wait_until(lambda: 0 < status()["left"] < SIZE, "some copying", 30)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    command.kill()
    command.communicate()
    outcome = bulkhead("commit", "blk0", "--rate", "1G")
    assert outcome.returncode == 0 and f"blk0 is now file:{disk}" in outcome.stdout, outcome.stderr
    assert b"wrong" not in machine.expect(b"checked")
    machine.expect(PROMPT)
    machine.type("check 16 2\n")
    assert b"wrong" not in machine.expect(b"checked")
    machine.expect(PROMPT)
    assert machine.row("blk0")["restarts"] == 1 and machine.row("blk0")["backend"] == f"file:{disk}"
    assert "is no overlay" in bulkhead("commit", "blk0").stderr
    machine.type("write 9 after\n")
    machine.expect(PROMPT)
    assert bulkhead("stop").returncode == 0
    machine.wait()
    assert content(disk)[9 * 512 : 9 * 512 + 5] == b"after"


def test_qcow2_on_a_backing_file_by_qmp(
    start: Start, disk: str, tmp_path: Path, wait_until: Any, bulkhead: Any
) -> None:
    """First it is cancelled in the middle, and both are whole; then it stays equal until block-job-complete."""
    top = str(tmp_path / "top.qcow2")
    qcow2_tools.create(top, SIZE, backing=disk)
    machine = start("--disk", f"qcow2:{top}")
    machine.expect(PROMPT)
    machine.type("fill 16 1\n")
    machine.expect(b"filled")
    machine.expect(PROMPT)

    def qmp(*words: str) -> Any:
        outcome = bulkhead("qmp", *words)
        assert outcome.returncode == 0, outcome.stderr
        return json.loads(outcome.stdout)

    def job() -> dict[str, Any]:
        (found,) = qmp("query-jobs")
        return dict(found)

    def events() -> list[tuple[str, str]]:
        watch = [json.loads(line) for line in seen.read_text().splitlines()]
        return [(line["event"], line["data"].get("type", "")) for line in watch if "BLOCK_JOB" in line.get("event", "")]

    seen = tmp_path / "events"
    with open(seen, "w") as out:
        watching = subprocess.Popen([*COMMAND, "qmp", "--stdio"], stdin=subprocess.PIPE, stdout=out, text=True)
    try:
        assert watching.stdin is not None
        watching.stdin.write('{"execute": "qmp_capabilities"}\n')
        watching.stdin.flush()
        wait_until(lambda: '"return"' in seen.read_text(), "the conversation", 30)
        qmp("block-commit", "device=blk0", "speed=262144")
        wait_until(lambda: job()["current-progress"] > 0, "some copying", 30)
        qmp("block-job-cancel", "device=blk0")
        wait_until(lambda: job()["status"] == "cancelled", "the end", 30)
        assert machine.row("blk0")["backend"] == f"qcow2:file:{top}"
        machine.type("verify 16 2\n")
        assert b"wrong" not in machine.expect(b"checked", 60)
        machine.expect(PROMPT)

        qmp("block-commit", "device=blk0", "pivot=false")
        wait_until(lambda: job()["status"] == "equal", "both are equal", 60)
        machine.type("fill 8 3\n")
        machine.expect(b"filled")
        machine.expect(PROMPT)
        assert machine.row("blk0")["backend"].startswith("commit:")
        qmp("block-job-complete", "device=blk0")
        wait_until(lambda: job()["status"] == "done", "the end", 60)
        assert (job()["type"], job()["id"]) == ("commit", "blk0")
        assert machine.row("blk0")["backend"] == f"file:{disk}"
        wait_until(lambda: len(events()) >= 3, f"the events after {seen.read_text()}", 30)
        assert [name for name, _ in events() if name != "BLOCK_JOB_READY"] == [
            "BLOCK_JOB_CANCELLED",
            "BLOCK_JOB_COMPLETED",
        ]
        assert {kind for _, kind in events()} == {"commit"}
    finally:
        watching.kill()
        watching.communicate()
    machine.type("check 8 3\n")
    assert b"wrong" not in machine.expect(b"checked", 60)
    assert bulkhead("stop").returncode == 0
    machine.wait()
    assert content(disk) == content(f"qcow2:{top}")
    assert bulkhead("disk", "check", top).returncode in (0, 3)
