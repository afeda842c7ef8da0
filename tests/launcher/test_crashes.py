"""What becomes of devices that crash: poison, policies, quarantine and the way back, bundles."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode
from launcher.inspect.bundles import KEPT, bundles, load_request, saved_request, write_bundle
from proto.errors import ConfigError

PROMPT = b"> "
Start = Callable[..., Any]

# A disk that dies of a sector, once there is a file that says which.
FRAGILE = """
import os, signal
from devproc.blk.device import BlockDevice
from devproc.properties import Property

class Fragile(BlockDevice):
    die = Property(str, "exception", "how")

    def native_loop(self, engine, queues):
        return None

    def _in(self, request, kind, sector):
        if sector == 100:
            if self.die == "exception":
                raise ZeroDivisionError("a bug")
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._in(request, kind, sector)
"""


@pytest.fixture
def fragile(tmp_path: Path, disk: str) -> Callable[[str], tuple[str, str]]:
    """`--device` of a disk that dies when sector 100 is read."""
    path = tmp_path / "fragile.py"
    path.write_text(FRAGILE)
    return lambda options="": ("--device", f"{path}:Fragile,backend=file:{disk},id=blk0{options}")


def crash_until(machine: Any, wait_until: Callable[..., Any], state: str) -> dict[str, Any]:
    """Kill blk0 by SIGSEGV until it is in that state."""
    deadline = time.monotonic() + 60
    while True:
        row: dict[str, Any] = machine.row("blk0")
        if row["state"] == state:
            return row
        assert time.monotonic() < deadline, row
        if row["state"] == "running":
            os.kill(row["pid"], signal.SIGSEGV)
            epoch = row["epoch"]
            wait_until(lambda epoch=epoch: machine.row("blk0")["epoch"] > epoch, "the next epoch", 30)


def test_a_poisonous_request_alone_gets_an_error_and_is_saved(
    start: Start, fragile: Any, bulkhead: Any, wait_until: Callable[..., Any]
) -> None:
    machine = start(*fragile(",die=signal"))
    machine.expect(PROMPT)
    machine.type("write 5 kept\nread 100\nread 5\n")
    machine.expect(b"read 100")
    machine.expect(b"read 5")
    machine.expect(b"kept")
    row = machine.row("blk0")
    assert (row["state"], row["epoch"]) == ("running", 4)
    found = wait_until(lambda: len(seen := json.loads(bulkhead("crashes", "--json").stdout)) == 3 and seen, "bundles")
    assert [crash["signal"] for crash in found] == ["SIGSEGV"] * 3
    assert found[0]["in_flight"][0] | {"op": "IN", "sector": 100, "length": 512} == found[0]["in_flight"][0]
    assert [len(crash["condemned"]) for crash in found] == [0, 0, 1]
    request = load_request(Path(found[2]["path"]) / "request.msgpack")
    assert request["readable"] == (0).to_bytes(8, "little") + (100).to_bytes(8, "little")
    assert request["complete"] and request["device"]["id"] == "blk0"
    shown = bulkhead("crashes", "last").stdout
    assert "IN sector 100 length 512  condemned" in shown and "saved: queue 0" in shown


@pytest.mark.slow
def test_after_too_many_crashes_a_stand_in_answers_until_the_device_is_restarted(
    start: Start, disk: str, bulkhead: Any, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", f"{disk},crash-limit=3/60")
    machine.expect(PROMPT)
    machine.type("write 5 kept\n")
    machine.expect(PROMPT)
    crash_until(machine, wait_until, "quarantined")
    row = machine.row("blk0")
    assert row["reason"] == "3 crashes in 60 s: see bulkhead logs blk0"
    assert f"({row['reason']})" in bulkhead("ps").stdout
    machine.type("read 5\necho and on\n")
    machine.expect(b"error")
    machine.expect(b"and on")
    machine.type("poke 0x100000 0x7777 4\n")  # a reset: the device is what it was
    machine.expect(b"help says what there is")
    machine.expect(PROMPT)
    assert machine.row("blk0")["state"] == "quarantined"
    machine.type("read 5\n")
    machine.expect(b"error")
    machine.expect(PROMPT)
    answer = bulkhead("restart", "blk0")
    assert answer.returncode == 0, answer.stderr
    assert machine.row("blk0")["state"] == "running"
    machine.type("read 5\n")
    machine.expect(b"kept")
    assert len(bundles()) == 3


@pytest.mark.slow
def test_kills_from_outside_are_no_crashes(start: Start, disk: str, wait_until: Callable[..., Any]) -> None:
    machine = start("--disk", f"{disk},crash-limit=2/60")
    machine.expect(PROMPT)
    for epoch in range(1, 6):
        row = wait_until(lambda: (r := machine.row("blk0"))["state"] == "running" and r, "the restart", 30)
        assert row["epoch"] == epoch
        os.kill(row["pid"], signal.SIGKILL)
        wait_until(lambda epoch=epoch: machine.row("blk0")["epoch"] == epoch + 1, "the next epoch", 30)


def test_quarantine_at_once(start: Start, disk: str, wait_until: Callable[..., Any]) -> None:
    machine = start(
        "--disk", f"{disk},on-crash=quarantine", "--device", "rng,on-crash=quarantine", "--device", "mailbox"
    )
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    os.kill(machine.row("rng0")["pid"], signal.SIGKILL)
    for id in ("blk0", "rng0"):
        row = wait_until(lambda id=id: (r := machine.row(id))["state"] == "quarantined" and r, "quarantine", 30)
        assert row["reason"] == f"it was killed by SIGKILL: see bulkhead logs {id}"
    machine.type("read 1\n")
    machine.expect(b"error")
    machine.type("rng 16\n")
    machine.expect(b"00000000")
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)  # the stand-in: another takes its place
    wait_until(lambda: (r := machine.row("blk0"))["epoch"] == 3 and r["state"] == "quarantined", "another", 30)


@pytest.mark.parametrize("order", ["cont", pytest.param("restart", marks=pytest.mark.slow)])
def test_the_guest_stands_still_until_it_is_told_to_go_on(
    start: Start, fragile: Any, bulkhead: Any, wait_until: Callable[..., Any], order: str
) -> None:
    machine = start(*fragile(",on-crash=pause"))
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGSEGV)
    wait_until(lambda: machine.row("core")["state"] == "paused", "the pause")
    row = machine.row("blk0")
    assert (row["pid"], row["state"]) == (None, "waiting")
    assert row["reason"] == "was killed by SIGSEGV; bulkhead cont starts it again"
    assert machine.row("core")["reason"] == "blk0 crashed"
    answer = bulkhead(order, *(["blk0"] if order == "restart" else []))
    assert answer.returncode == 0, answer.stderr
    wait_until(lambda: machine.row("core")["state"] == "running", "the guest")
    wait_until(lambda: machine.row("blk0")["state"] == "running", "the device")
    machine.type("write 5 kept\nread 5\n")
    machine.expect(b"read 5")
    machine.expect(b"kept")


def test_the_machine_ends_when_it_is_to(start: Start, disk: str) -> None:
    machine = start("--disk", f"{disk},on-crash=stop")
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGSEGV)
    assert machine.wait(30) == ExitCode.ERROR
    said = machine.errors()
    assert "blk0 was killed by SIGSEGV" in said and "on-crash=stop. See: bulkhead crashes 20" in said
    assert len(bundles()) == 1


@pytest.mark.slow
def test_a_bundle_has_the_traceback(start: Start, fragile: Any, bulkhead: Any, wait_until: Callable[..., Any]) -> None:
    machine = start(*fragile(), "--name", "frail")
    machine.expect(PROMPT)
    machine.type("read 100\n")
    machine.expect(b"error")
    wait_until(lambda: len(bundles("frail")) == 3, "the bundles")
    bundle = bundles("frail")[-1]
    assert "ZeroDivisionError: a bug" in bundle.text("log.txt")
    assert bundle.crash["reason"].endswith("ZeroDivisionError: a bug")
    assert json.loads(bundle.text("trace.json"))[-1]["point"]
    assert bundle.path.parent.stat().st_mode & 0o777 == 0o700
    table = bulkhead("crashes").stdout.splitlines()
    assert table[0].split()[:3] == ["CRASH", "MACHINE", "DEVICE"] and len(table) == 4
    assert "there is no crash nothing" in bulkhead("crashes", "nothing").stderr
    assert bulkhead("crashes", "--clean").stdout == "3 removed\n"
    assert bulkhead("crashes").stdout.startswith("no crashes in ")


STARTING = """
import os, signal
from devproc.device import VirtioDevice
class Broken(VirtioDevice):
    device_id = 4
    def start(self):
        {what}
"""


@pytest.mark.parametrize(
    ("what", "log"),
    [("return {}['absent']", "KeyError: 'absent'"), ("os.kill(os.getpid(), signal.SIGSEGV)", "")],
    ids=["exception", "signal"],
)
def test_a_crash_while_the_machine_starts_leaves_a_bundle(bulkhead: Any, tmp_path: Path, what: str, log: str) -> None:
    device = tmp_path / "broken.py"
    device.write_text(STARTING.format(what=what))
    answer = bulkhead("run", "--guest", "bundled", "--name", "dud", "--device", f"{device}:Broken")
    assert answer.returncode == ExitCode.ERROR
    (bundle,) = bundles("dud")
    assert f"See: bulkhead crashes {bundle.id}" in answer.stderr
    assert bundle.crash["id"] == "broken0" and bundle.crash["outcome"] == "the machine does not start"
    assert log in bundle.text("log.txt") and "trace.json" in bundle.files()


def test_what_is_missing_when_the_machine_starts_is_no_crash(bulkhead: Any, tmp_path: Path) -> None:
    answer = bulkhead("run", "--guest", "bundled", "--disk", str(tmp_path / "none.img"))
    assert answer.returncode == ExitCode.ERROR and "See: bulkhead crashes" not in answer.stderr
    assert bundles() == []


def test_a_wrong_policy_is_refused_beforehand(bulkhead: Any) -> None:
    for words, complaint in (
        ("rng,on-crash=restrt", "on-crash=restrt: no such thing; did you mean restart?"),
        ("rng,crash-limit=5", "crash-limit=5: not a limit"),
    ):
        answer = bulkhead("run", "--guest", "bundled", "--device", words, "--dry-run")
        assert answer.returncode == ExitCode.ERROR
        assert complaint in answer.stderr


# -- bundles as files --------------------------------------------------------------------------------------------------


def test_a_machine_keeps_so_many_bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for number in range(KEPT + 5):
        write_bundle("vm1", f"20260101-000000.{number:03}-blk0", {"crash.json": b"{}"})
    kept = bundles("vm1")
    assert len(kept) == KEPT and kept[0].id == "20260101-000000.005-blk0"


def test_a_saved_request_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "request.msgpack"
    path.write_bytes(saved_request({"queue": 0, "readable": b"abc"}))
    assert load_request(path) == {"queue": 0, "readable": b"abc"}
    path.write_bytes(path.read_bytes().replace(b"abc", b"abd"))
    with pytest.raises(ConfigError, match="damaged"):
        load_request(path)
    path.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="no saved request"):
        load_request(path)
