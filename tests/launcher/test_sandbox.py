"""The sandbox of a whole machine: what `ps --sandbox` shows, what the modes do, that a rogue device stops nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode
from proto.confine import landlock

PROMPT = b"> "
ROGUE = Path(__file__).parents[1] / "devproc" / "rogue.py"


def test_ps_shows_what_each_process_has_given_up(start: Any, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk, "--net", "user", "--name", "given")
    machine.expect(PROMPT)
    rows = {row["id"]: row.get("sandbox") for row in machine.ps()["processes"]}
    assert rows["core"]["profile"] == "core" and rows["core"]["in_force"]["system calls"] < -50
    assert (rows["blk0"]["profile"], rows["net0"]["profile"], rows["net0.user"]["profile"]) == (
        "device",
        "device",
        "peer",
    )
    for id in ("blk0", "net0", "net0.user"):
        given = rows[id]["in_force"]
        assert given["no new privileges"] and given["system calls"] > 50 and given["limits"]["core"] == 0
        assert ("Landlock" in given) == (landlock.abi() > 0)
        assert ("net" in given["namespaces"]) == (id != "net0.user") or "net namespace" in rows[id]["missing"]
        status = Path(f"/proc/{machine.row(id)['pid']}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    lines = bulkhead("ps", "--sandbox", "--machine", "given").stdout.splitlines()
    assert lines[1].split()[:4] == ["ID", "PID", "PROFILE", "NAMESPACES"]
    assert [line.split()[0] for line in lines[2:6]] == ["core", "blk0", "net0", "net0.user"]


def test_off_is_off_and_shown(start: Any, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk, "--sandbox", "off", "--name", "off")
    machine.expect(PROMPT)
    row = machine.row("blk0")
    assert row["sandbox"]["mode"] == "off" and row["sandbox"]["in_force"] == {}
    assert "Seccomp:\t0" in Path(f"/proc/{row['pid']}/status").read_text()
    assert "everything: --sandbox off" in bulkhead("ps", "--sandbox", "--machine", "off").stdout


def test_require_starts_or_says_what_is_missing(start: Any, disk: str) -> None:
    machine = start("--disk", disk, "--sandbox", "require")
    if not landlock.abi() or landlock.missing(landlock.abi()):
        assert machine.wait(30) == ExitCode.ERROR
        assert "the sandbox is not complete" in machine.errors()
        return
    machine.expect(PROMPT)
    assert machine.row("blk0")["sandbox"]["missing"] == {}


@pytest.mark.slow
def test_a_rogue_device_stops_nobody(start: Any, disk: str, tmp_path: Path, wait_until: Any) -> None:
    """It attacks its machine, then floods core and keeper; the other disk goes on, and so does the keeper."""
    secret, orders, report = tmp_path / "secret", tmp_path / "orders", tmp_path / "report"
    for path in (secret, orders, report):
        path.touch()
    device = f"{ROGUE}:Rogue,orders={orders},report={report},flood=on"
    machine = start("--disk", disk, "--device", device)
    machine.expect(PROMPT)
    rows = {row["id"]: row for row in machine.ps()["processes"]}
    keeper = machine.keeper().pid
    what = {
        "secret": str(secret),
        "image": disk,
        "socket": str(next(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("control"))),
        "neighbour": rows["blk0"]["pid"],
        "keeper": keeper,
        "descriptors": [int(name) for name in os.listdir(f"/proc/{keeper}/fd")],
        "ram": 256 << 20,
    }
    orders.write_text(json.dumps(what) + "\n")
    found = json.loads(wait_until(lambda: (text := report.read_text()).endswith("\n") and text, "the attacks", 30))
    assert "done" not in found.values()
    for sector in range(10):  # while it floods
        machine.type(f"write {sector} sector{sector}x\n")
        machine.expect(PROMPT, 10)
        machine.type(f"read {sector}\n")
        machine.expect(b"sector%dx" % sector, 10)
    after = {row["id"]: row for row in machine.ps()["processes"]}
    assert (after["blk0"]["pid"], after["blk0"]["state"]) == (rows["blk0"]["pid"], "running")
    assert Path(after["blk0"]["log"]).stat().st_size < 1 << 20
    machine.type("exit 3\n")
    assert machine.wait(60) == 3
