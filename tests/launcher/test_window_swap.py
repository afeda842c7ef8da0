"""`bulkhead swap` of devices behind windows, under the bundled guest: what is swapped, refused, and killed at each step
of `launcher.keeper.window_swap`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.control import connect, request

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
HELD = Path(__file__).with_name("swapping.py")
pytestmark = pytest.mark.slow
Start = Callable[..., Any]


def swap(*words: str) -> dict[str, Any]:
    """`bulkhead swap … --json`, whatever its outcome."""
    done = subprocess.run([*COMMAND, "swap", *words, "--json"], capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def verify(machine: Any, seed: int, mebibytes: int = 4, during: Callable[[], None] = lambda: None) -> None:
    """The guest writes a pattern over the start of its disk, and reads it back. Something happens meanwhile."""
    machine.type(f"verify {mebibytes} {seed}\n")
    during()
    said = machine.expect(b"checked") + machine.expect(PROMPT)
    assert b"wrong" not in said and b"failed" not in said


def test_a_disk_is_swapped_under_writes_grows_and_does_not_shrink(
    start: Start, disk: str, tmp_path: Path, bulkhead: Any
) -> None:
    machine = start("--disk", f"{disk},window=on")
    machine.expect(PROMPT)
    relay, device = machine.row("blk0")["pid"], machine.row("blk0.window")["pid"]
    verify(machine, 1)
    machine.type("check 4 1\n")
    assert swap("blk0", f"log:op=flush:{disk}")["state"] == "done"  # the same image, with its lock
    assert b"wrong" not in machine.expect(b"checked")
    machine.expect(PROMPT)
    assert machine.row("blk0.window")["pid"] != device

    def back_and_forth() -> None:
        for uri in (disk, f"log:op=flush:{disk}"):
            assert swap("blk0", uri)["state"] == "done"

    verify(machine, 2, 16, back_and_forth)
    larger = f"qcow2:{tmp_path}/larger.qcow2"
    bulkhead("disk", "create", larger, "32M")
    outcome = swap("blk0", larger)
    assert outcome["state"] == "done" and outcome["before"].startswith("log:op=flush:"), outcome
    verify(machine, 3)
    row = machine.row("blk0")
    assert (row["pid"], row["restarts"], row["size"]) == (relay, 0, 32 << 20) and row["backend"].startswith("qcow2:")
    for uri, reason in (
        (disk, "would shrink"),
        ("qcow2:missing.qcow2", "no such file"),
        (f"{larger},ro", "DISCARD"),
        ("colour=red", "no property"),
    ):
        outcome = swap("blk0", uri)
        assert outcome["state"] == "failed" and reason in outcome["error"], outcome
    done = bulkhead("swap", "blk0", disk)
    words = " ".join(done.stderr.split())
    assert done.returncode == 125 and "The guest noticed nothing." in words and "blk0 keeps qcow2:" in words
    assert "must be started anew" in bulkhead("swap", "blk0", "window=off").stderr
    for pid in [machine.row(id)["pid"] for id in ("blk0", "blk0.window")]:
        os.kill(pid, signal.SIGKILL)  # what is swapped in stays for the successors
    verify(machine, 4)
    assert machine.row("blk0")["backend"].startswith("qcow2:")
    link = Path(machine.row("blk0")["log"]).parent.parent / "link"
    assert [path.name for path in link.glob("blk0.window*")] == ["blk0.window"]


def test_a_share_and_a_card_are_swapped(start: Start, tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"this is {name}\n")
    machine = start("--share", f"{tmp_path}/one,tag=here,proto=v86fs,window=on", "--net", "user,window=on")
    machine.expect(PROMPT)
    for name in ("one", "two"):
        if name == "two":
            assert swap("fs0", f"{tmp_path}/two")["state"] == "done"
        machine.type("cat file\n")
        machine.expect(f"this is {name}".encode())
        machine.expect(PROMPT)
    machine.type("mkdir made\n")
    machine.expect(PROMPT)
    assert (tmp_path / "two" / "made").is_dir() and not (tmp_path / "one" / "made").exists()

    def ping() -> bytes:
        machine.type("ping 2\n")
        return bytes(machine.expect(PROMPT))

    wait_until(lambda: b"pair 0: 2 of 2 answered" in ping(), "an answer")
    outcome = swap("net0", f"hub:{tmp_path}/lan")
    assert outcome["state"] == "done", outcome
    assert b"nobody answers" in ping()
    assert swap("net0", "user")["state"] == "done"
    wait_until(lambda: b"pair 0: 2 of 2 answered" in ping(), "an answer, once the cable is in again")
    assert {row["id"] for row in machine.ps()["processes"]} >= {"net0", "net0.window", "net0.user", "fs0.window"}


class Steps:
    """A machine with a disk behind a window that can be held, and swaps of it."""

    def __init__(self, start: Start, disk: str, folder: Path, wait_until: Any) -> None:
        self.folder, self.wait_until = folder, wait_until
        shutil.copy(HELD, folder / "held.py")
        self.machine = start("--device", f"{folder}/held.py:Held,backend=file:{disk},id=blk0,window=on")
        self.machine.expect(PROMPT)
        verify(self.machine, 1, 1)
        self.channel = connect("vm1")
        self.old = self.machine.row("blk0.window")["pid"]

    def hold(self, step: str) -> None:
        """Processes that come to this step from now on stand still there."""
        (self.folder / f"hold-{step}").touch()

    def release(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink()

    def begin(self, **change: Any) -> None:
        self.number = request(self.channel, "SWAP", id="blk0", **change)["swap"]

    def await_state(self, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            seen = request(self.channel, "SWAPPED", swap=self.number)
            return seen if seen["state"] in states else None

        found: dict[str, Any] = self.wait_until(look, f"one of {states}", 40)
        return found

    def new(self) -> psutil.Process:
        """The process that is to become the device: a child of the keeper that no row of ps names."""

        def find() -> psutil.Process | None:
            known = {row["pid"] for row in request(self.channel, "PS")["processes"]}
            found = [process for process in self.machine.keeper().children() if process.pid not in known]
            return found[0] if len(found) == 1 else None

        process: psutil.Process = self.wait_until(find, "the new process")
        return process

    def finish(self) -> None:
        """The guest's data is right, and the disk serves."""
        self.machine.type("check 1 1\n")
        assert b"wrong" not in self.machine.expect(b"checked")
        self.machine.expect(PROMPT)
        verify(self.machine, 2, 1)
        self.channel.close()


@pytest.fixture
def steps(start: Start, disk: str, tmp_path: Path, wait_until: Any) -> Steps:
    return Steps(start, disk, tmp_path, wait_until)


@pytest.mark.parametrize("victim", ["old", "new", "relay"])
def test_one_dies_while_the_new_process_starts(steps: Steps, tmp_path: Path, victim: str) -> None:
    """1: the old one's successor, or the old one, goes on until the new one is there, if it comes."""
    other = tmp_path / "other.img"
    shutil.copy(tmp_path / "disk.img", other)
    steps.hold("start")
    steps.begin(backend=f"file:{other}")
    new = steps.new()
    if victim == "new":
        new.kill()
        assert "was killed by SIGKILL" in steps.await_state("failed")["error"]
        assert steps.machine.row("blk0.window")["pid"] == steps.old
    else:
        os.kill(steps.machine.row("blk0.window" if victim == "old" else "blk0")["pid"], signal.SIGKILL)
    steps.release("start")
    if victim != "new":
        assert steps.await_state("done", "failed")["state"] == "done"
    assert (str(other) in steps.machine.row("blk0")["backend"]) == (victim != "new")
    steps.finish()


@pytest.mark.parametrize("victim", ["new", "relay"])
def test_one_dies_while_the_image_is_handed_over(steps: Steps, victim: str) -> None:
    """4: the old process is dead, and the new one has yet to open the image of both."""
    relay = steps.machine.row("blk0")["pid"]
    steps.hold("again")
    steps.begin(properties={"serial": "swapped"})
    steps.await_state("load")
    assert not psutil.pid_exists(steps.old)
    if victim == "new":
        steps.new().kill()
        assert "was killed by SIGKILL" in steps.await_state("failed")["error"]
    else:
        os.kill(relay, signal.SIGKILL)
    steps.release("again")
    if victim == "relay":
        assert steps.await_state("done", "failed")["state"] == "done"
    assert ("serial=swapped" in steps.machine.row("blk0")["backend"]) == (victim == "relay")
    steps.finish()


def test_a_disk_that_has_lost_its_image_is_brought_back(
    start: Start, disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", f"{disk},window=on")
    machine.expect(PROMPT)
    verify(machine, 1, 1)
    os.rename(disk, tmp_path / "moved.img")
    os.kill(machine.row("blk0.window")["pid"], signal.SIGKILL)
    machine.type("check 1 1\n")
    wait_until(lambda: machine.row("blk0.window")["restarts"] > 2, "a few vain restarts")
    assert swap("blk0", f"{tmp_path}/moved.img")["state"] == "done"
    assert b"wrong" not in machine.expect(b"checked")
    machine.expect(PROMPT)
    assert machine.row("blk0.window")["state"] == "running"
