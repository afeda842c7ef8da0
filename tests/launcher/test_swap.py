"""`bulkhead swap`: another process, image or code for a device while the guest works, and what becomes of failures.

The steps are those of `launcher.keeper.swap`; at each of them the old or the new process is killed.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from devproc import mailbox
from launcher.control import connect, request

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
HELD = Path(__file__).with_name("swapping.py")
pytestmark = pytest.mark.slow
Start = Callable[..., Any]


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Another empty disk of the size of `disk`."""
    path = tmp_path / "other.img"
    path.touch()
    os.truncate(path, 16 << 20)
    return str(path)


def swap(*words: str) -> dict[str, Any]:
    """`bulkhead swap … --json`, whatever its outcome."""
    done = subprocess.run([*COMMAND, "swap", *words, "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (outcome["state"] == "done")
    return outcome


def verify(machine: Any, seed: int, mebibytes: int = 4) -> None:
    """The guest writes a pattern over the start of its disk, reads it, and finds it right."""
    machine.type(f"verify {mebibytes} {seed}\n")
    said = machine.expect(b"checked") + machine.expect(PROMPT)
    assert b"wrong" not in said and b"failed" not in said


# -- what can be swapped -----------------------------------------------------------------------------------------------


def test_a_disk_gets_another_image_and_grows(start: Start, disk: str, tmp_path: Path, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    larger = f"qcow2:{tmp_path}/larger.qcow2"
    bulkhead("disk", "create", larger, "32M")
    outcome = swap("blk0", larger)
    assert outcome["state"] == "done" and outcome["before"] == f"file:{disk}"
    row = machine.row("blk0")
    assert (row["epoch"], row["restarts"], row["size"]) == (2, 0, 32 << 20)
    verify(machine, 1)
    assert not any(Path(disk).read_bytes())


def test_the_same_image_is_handed_over_with_its_lock(start: Start, disk: str) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    verify(machine, 1)
    machine.type("check 4 1\n")
    assert swap("blk0", f"delay:ms=0:{disk}")["state"] == "done"
    assert b"wrong" not in machine.expect(b"checked")
    machine.expect(PROMPT)
    assert swap("blk0", disk, "serial=swapped")["state"] == "done"
    machine.type("diskid\n")
    assert b"swapped" in machine.expect(PROMPT)
    machine.type("check 4 1\n")
    machine.expect(b"checked")


def test_swaps_while_the_guest_writes_lose_nothing(start: Start, disk: str) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    for seed in range(4):
        machine.type(f"verify 16 {seed}\n")
        for uri in (f"log:op=flush:{disk}", disk):
            assert swap("blk0", uri)["state"] == "done"
        said = machine.expect(b"checked")
        assert b"wrong" not in said
        machine.expect(PROMPT)
    assert machine.row("blk0")["epoch"] == 9


def test_changed_code_goes_on_with_the_state(start: Start, tmp_path: Path) -> None:
    """The words in the mailbox are there in the next version of its code, and may be read once."""
    source = Path(mailbox.__file__).read_text()
    (tmp_path / "box.py").write_text(source)
    (tmp_path / "new.py").write_text(source.replace("offset == DATA and self.words", "self.words and offset == DATA"))
    machine = start("--device", f"{tmp_path}/box.py:Mailbox,id=box0")
    machine.expect(PROMPT)
    machine.type("poke 0x10010000 0x1234 4\n")
    machine.expect(PROMPT)
    outcome = swap("box0", f"{tmp_path}/new.py:Mailbox", "depth=32")
    assert outcome["state"] == "done", outcome
    machine.type("peek 0x10010000 4\n")
    assert b"1234" in machine.expect(PROMPT)
    machine.type("peek 0x1001000c 4\n")
    assert b"20" in machine.expect(PROMPT)


def test_state_that_the_new_code_does_not_know_is_refused(start: Start, tmp_path: Path) -> None:
    source = Path(mailbox.__file__).read_text()
    (tmp_path / "new.py").write_text(source.replace("words = State([])", "words = State([])\n    more = State(0)"))
    machine = start("--device", "mailbox,id=box0")
    machine.expect(PROMPT)
    machine.type("poke 0x10010000 0x77 4\n")
    machine.expect(PROMPT)
    outcome = swap("box0", f"{tmp_path}/new.py:Mailbox")
    assert outcome["state"] == "failed" and "'more' is missing or unknown" in outcome["error"]
    machine.type("peek 0x10010000 4\n")
    assert b"77" in machine.expect(PROMPT)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_the_guest_goes_on(
    start: Start, disk: str, tmp_path: Path, bulkhead: Any
) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    small = tmp_path / "small.img"
    small.write_bytes(bytes(1 << 20))
    done = bulkhead("swap", "blk0", "qcow2:missing.qcow2", cwd=tmp_path)
    assert done.returncode == 125
    words = " ".join(done.stderr.split())
    assert (
        f"blk0 keeps file:{disk}: cannot open {tmp_path}/missing.qcow2: no such file. The guest noticed nothing."
        in words
    )
    for uri, reason in (
        (str(small), "would shrink"),
        (f"{disk},ro", "DISCARD"),
        (f"{tmp_path}/nothing.py:Nobody", "no such file"),
        ("colour=red", "no property"),
    ):
        outcome = swap("blk0", uri)
        assert outcome["state"] == "failed" and reason in outcome["error"], outcome
    verify(machine, 3)
    row = machine.row("blk0")
    assert row["restarts"] == 0 and row["backend"] == f"file:{disk}"
    assert "there is no device blk7" in bulkhead("swap", "blk7", disk).stderr


# -- killed at each step -----------------------------------------------------------------------------------------------


class Steps:
    """A machine with a disk that can be held, and one swap of it."""

    def __init__(self, start: Start, disk: str, folder: Path, wait_until: Any) -> None:
        self.folder = folder
        self.wait_until = wait_until
        shutil.copy(HELD, folder / "held.py")
        self.code = f"{folder}/held.py:Held"
        self.machine = start("--device", f"{self.code},backend=file:{disk},id=blk0")
        self.machine.expect(PROMPT)
        verify(self.machine, 1, 1)
        self.old = self.machine.row("blk0")["pid"]

    def hold(self, step: str) -> None:
        (self.folder / f"hold-{step}").touch()

    def release(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink(missing_ok=True)

    def begin(self, **change: Any) -> None:
        """Start the swap, over the control socket."""
        self.channel = connect("vm1")
        self.number = request(self.channel, "SWAP", id="blk0", **change)["swap"]

    def outcome(self) -> dict[str, Any]:
        return request(self.channel, "SWAPPED", swap=self.number)

    def await_state(self, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            seen = self.outcome()
            return seen if seen["state"] in states else None

        found: dict[str, Any] = self.wait_until(look, f"one of {states}", 20)
        return found

    def new(self) -> psutil.Process:
        """The process that is to become the device: a child of the keeper that no row of ps names."""
        spares = {row["pid"] for row in self.machine.ps()["processes"]}

        def find() -> psutil.Process | None:
            found = [process for process in self.machine.keeper().children() if process.pid not in spares | {self.old}]
            return found[0] if len(found) == 1 else None

        process: psutil.Process = self.wait_until(find, "the new process")
        return process

    def finish(self) -> None:
        """The guest's data is right, and the disk serves."""
        for step in ("start", "handle", "save", "load", "taken-over"):
            self.release(step)
        self.wait_until(lambda: self.machine.row("blk0")["state"] == "running", "the disk serves")
        self.machine.type("check 1 1\n")
        assert b"wrong" not in self.machine.expect(b"checked")
        self.machine.expect(PROMPT)
        verify(self.machine, 2, 1)
        self.channel.close()


@pytest.fixture
def steps(start: Start, disk: str, tmp_path: Path, wait_until: Any) -> Steps:
    return Steps(start, disk, tmp_path, wait_until)


STATEFUL = {"backend": ""}


@pytest.mark.parametrize(("step", "state"), [("start", "start"), ("load", "load"), ("taken-over", "adopt")])
def test_the_new_process_dies_at_a_step_and_the_old_goes_on(steps: Steps, other: str, step: str, state: str) -> None:
    """1 and 2, 5, and 7: where the old one is fenced already, a successor of it goes on."""
    steps.hold(step)
    steps.begin(backend=f"file:{other}")
    steps.await_state(state)
    steps.new().kill()
    outcome = steps.await_state("failed")
    assert "was killed by SIGKILL" in outcome["error"]
    steps.finish()
    assert (steps.machine.row("blk0")["pid"] == steps.old) == (state != "adopt")


@pytest.mark.parametrize(("step", "state"), [("start", "start"), ("save", "quiesce"), ("load", "load")])
def test_the_old_process_dies_at_a_step_and_the_swap_is_done(steps: Steps, step: str, state: str) -> None:
    """1 and 2, 4, and 5. A property is swapped, so that the guest's data stays."""
    steps.hold(step)
    steps.begin(properties={"serial": "swapped"})
    steps.await_state(state)
    os.kill(steps.old, signal.SIGKILL)
    steps.release(step)
    assert steps.await_state("done", "failed")["state"] == "done"
    steps.finish()
    assert "serial=swapped" in steps.machine.row("blk0")["backend"]


@pytest.mark.parametrize("who", ["old", "new"])
def test_one_of_them_is_dead_when_the_old_one_is_to_be_fenced(steps: Steps, who: str) -> None:
    """6: the keeper, which stands still, finds LOADED and the death at once. What it sees first decides what becomes of
    the swap, never whether the disk serves."""
    steps.hold("load")
    steps.begin(properties={"serial": "swapped"})
    steps.await_state("load")
    new = steps.new()
    victim = psutil.Process(steps.old) if who == "old" else new

    def has_passed() -> bool:
        """Two looks at the door within 50 ms are none."""
        before = new.num_ctx_switches().voluntary
        time.sleep(0.05)
        return bool(new.num_ctx_switches().voluntary - before < 3)

    keeper = steps.machine.keeper()
    keeper.suspend()
    try:
        steps.release("load")
        steps.wait_until(has_passed, "the new one has the state")
        victim.kill()
        steps.wait_until(lambda: victim.status() == psutil.STATUS_ZOMBIE, "its death")
    finally:
        keeper.resume()
    assert steps.await_state("done", "failed")["state"] == ("done" if who == "old" else "failed")
    steps.finish()
    assert ("serial=swapped" in steps.machine.row("blk0")["backend"]) == (who == "old")


@pytest.mark.parametrize("how", ["handler", "SIGSTOP"])
def test_an_old_process_that_does_not_get_quiet_is_fenced_by_its_death(steps: Steps, how: str) -> None:
    """3: a request that does not end, or a process that is stopped; what it had taken is carried out by the new one."""
    if how == "handler":
        steps.hold("handle")
    else:
        os.kill(steps.old, signal.SIGSTOP)
    steps.machine.type("check 1 1\n")
    steps.begin(properties={"serial": "swapped"})
    steps.wait_until(lambda: not psutil.pid_exists(steps.old), "the old one's death", 10)
    steps.release("handle")
    assert steps.await_state("done", "failed")["state"] == "done"
    assert b"wrong" not in steps.machine.expect(b"checked")
    steps.machine.expect(PROMPT)
    steps.finish()


def test_the_core_may_be_busy(steps: Steps) -> None:
    """A core that is stopped for a while answers later; nothing is decided without it."""
    core = steps.machine.row("core")["pid"]
    os.kill(core, signal.SIGSTOP)
    try:
        steps.begin(properties={"serial": "swapped"})
        steps.await_state("start")
    finally:
        os.kill(core, signal.SIGCONT)
    assert steps.await_state("done", "failed")["state"] == "done"
    steps.finish()


def test_a_machine_that_ends_in_the_middle_leaves_nothing(steps: Steps, other: str, bulkhead: Any) -> None:
    steps.hold("load")
    steps.begin(backend=f"file:{other}")
    steps.await_state("load")
    assert bulkhead("stop").returncode == 0
    steps.channel.close()


def test_the_log_says_where_the_pause_went(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    swap("blk0", "serial=x")
    assert re.search(
        r"taken over, after a pause of .* ms: quiesce .*, load .*, fence .*, adopt", bulkhead("logs", "keeper").stdout
    )


@pytest.mark.skipif(ctypes.util.find_library("slirp") is None, reason="needs libslirp0")
def test_a_card_gets_another_network_and_its_first_one_again(
    start: Start, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    machine = start("--net", "user")
    machine.expect(PROMPT)

    def ping() -> bytes:
        machine.type("ping 2\n")
        return bytes(machine.expect(PROMPT))

    assert b"pair 0: 2 of 2 answered" in ping()
    assert swap("net0", f"hub:{tmp_path}/lan")["state"] == "done"
    assert b"nobody answers" in ping()
    assert swap("net0", "user")["state"] == "done"
    wait_until(lambda: b"pair 0: 2 of 2 answered" in ping(), "an answer, once the cable is in again")
    assert (row := machine.row("net0"))["epoch"] == 3 and row["backend"].startswith("user")


def test_a_share_gets_another_folder(start: Start, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"this is {name}\n")
    machine = start("--share", f"{tmp_path}/one,tag=here,proto=v86fs")
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


def test_a_quarantined_disk_is_brought_back_by_a_swap(
    start: Start, disk: str, other: str, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", f"{disk},on-crash=quarantine")
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGSEGV)
    wait_until(lambda: machine.row("blk0")["state"] == "quarantined", "the quarantine")
    assert swap("blk0", other)["state"] == "done"
    assert machine.row("blk0")["state"] == "running"
    verify(machine, 3)
