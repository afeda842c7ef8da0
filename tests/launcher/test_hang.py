"""What counts as hung, and is replaced within about a second, and what does not, however long it takes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.control import connect, events, request
from launcher.keeper.hang import LOOK, LOOP, SILENCE, Hangs, judge, look_at
from launcher.keeper.member import Member

PROMPT = b"> "
SOON = 2.0  # seconds; about one of them, and that on a host that is not busy
Start = Callable[..., Any]

DEVICE = """
import time
from devproc.device import Queue, VirtioDevice
class Odd(VirtioDevice):
    device_id = 4
    queues = (Queue("requests", size=8),)
    waits = {waits}
    def handle(self, request):
        if not request.again:
            {what}
        request.write(bytes(request.writable))
"""


@pytest.mark.parametrize(
    ("state", "burnt", "waits", "verdict"),
    [
        ("T", 0.0, True, "hung"),  # SIGSTOP
        ("R", LOOP, False, "hung"),  # a loop
        ("R", LOOP, True, "hung"),  # also in a device that may wait: waiting costs no CPU
        ("R", LOOP / 2, False, ""),  # it would run, if the host let it
        ("S", 0.0, False, "hung"),  # asleep in a handler
        ("S", 0.0, True, "waits"),
        ("D", 0.0, False, "waits"),  # a disk
        ("Z", 0.0, False, ""),  # its pidfd is about to say so
    ],
)
def test_what_a_silence_means(state: str, burnt: float, waits: bool, verdict: str) -> None:
    assert judge(state, burnt, waits)[0] == verdict


def test_a_sleep_no_longer_than_between_two_beats_means_nothing() -> None:
    assert judge("S", 0.0, False, asleep=False)[0] == ""
    assert judge("S", 0.0, True, asleep=False)[0] == "waits"
    assert judge("T", 0.0, False, asleep=False)[0] == judge("R", LOOP, False, asleep=False)[0] == "hung"


def test_a_process_that_runs_now_and_then_is_seen_to() -> None:
    me = os.getpid()
    before = look_at(me)
    time.sleep(0.001)  # a nap: what a process has run is counted when it stops to
    assert look_at(me).ran > before.ran


class Behind:
    """A process behind a card, and a keeper that asks it. `deaf`: it does not answer."""

    def __init__(self, what: str, deaf: bool) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", what])
        self.asked, self.fenced = 0, []
        self.member = Member("net0.user", "peer", None, Path("/dev/null"))
        self.member.state = "running"
        self.member.child = SimpleNamespace(pid=self.process.pid, killed=False, debugged=False, send=self.send)  # type: ignore[assignment]
        self.deaf = deaf
        keeper: Any = SimpleNamespace(phase="running", core=None, log=lambda text: None)
        keeper.members = keeper.peers = {"net0.user": self.member}
        keeper.loop = SimpleNamespace(after=lambda seconds, action: None)
        keeper.events = SimpleNamespace(publish=lambda *_, **__: None)
        keeper.recovery = SimpleNamespace(fence=self.fenced.append)
        self.hangs = Hangs(keeper)

    def send(self, kind: str) -> None:
        assert kind == "ASK"
        self.asked += 1
        self.member.answers += not self.deaf

    def look_until(self, condition: Callable[[], Any]) -> None:
        """As the keeper does; looks that come late are not counted."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            time.sleep(LOOK)
            self.hangs.watch()


@pytest.fixture
def behind() -> Iterator[Callable[..., Behind]]:
    made: list[Behind] = []

    def make(what: str, deaf: bool = True) -> Behind:
        made.append(Behind(what, deaf))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize(
    ("what", "why"), [("while True: pass", "caught in a loop"), ("import time; time.sleep(1000)", "sleeps")]
)
def test_a_process_behind_a_card_that_does_not_answer_is_hung(behind: Any, what: str, why: str) -> None:
    one = behind(what)
    one.look_until(lambda: one.fenced)
    assert why in one.member.reason and one.asked == 1


def test_a_process_behind_a_card_that_answers_is_asked_again(behind: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("launcher.keeper.hang.ASK", 0.3)
    one = behind("import time; time.sleep(1000)", deaf=False)
    one.look_until(lambda: one.asked == 3)
    assert one.fenced == []


@pytest.fixture
def odd(start: Start, tmp_path: Path) -> Callable[..., Any]:
    """A machine with a device that does something odd with its first request, and then serves."""

    def make(what: str, waits: bool = False) -> Any:
        path = tmp_path / "odd.py"
        path.write_text(DEVICE.format(what=what, waits=waits))
        machine = start("--device", f"{path}:Odd")
        machine.expect(PROMPT)
        return machine

    return make


class Watch:
    """The events of a machine."""

    def __init__(self, name: str) -> None:
        self.channel = connect(name)
        self.stream: Iterator[dict[str, Any]] = events(self.channel, 20.0)

    def until(self, name: str) -> dict[str, Any]:
        return next(event for event in self.stream if event["name"] == name)


@pytest.mark.parametrize(("silent", "is_silent"), [(0.0, False), (0.4, False), (SILENCE, True), (2.0, True)])
def test_who_is_between_two_beats_is_not_silent(silent: float, is_silent: bool) -> None:
    """What it was asked, and has not answered in time, it never heard."""
    hangs = Hangs(SimpleNamespace())
    hangs._pulses["blk0"] = SimpleNamespace(silent=silent)
    assert hangs.silent(SimpleNamespace(id="blk0")) is is_silent
    assert not hangs.silent(SimpleNamespace(id="blk1"))


@pytest.fixture
def watch() -> Iterator[Callable[[str], Watch]]:
    opened: list[Watch] = []

    def make(name: str) -> Watch:
        opened.append(Watch(name))
        next(opened[-1].stream)  # WATCHING: from here on, nothing is missed
        return opened[-1]

    yield make
    for one in opened:
        one.channel.close()


@pytest.mark.parametrize(
    ("what", "why"), [("while True: pass", "is caught in a loop"), ("time.sleep(1000)", "it sleeps")]
)
def test_a_handler_that_never_returns_is_noticed(odd: Any, watch: Any, what: str, why: str) -> None:
    machine = odd(what)
    seen = watch(machine.name)
    began = time.time()
    machine.type("rng 8\n")
    event = seen.until("DEVICE_HUNG")
    assert event["time"] - began < SOON
    assert event["id"] == "odd0" and why in event["what"]
    assert seen.until("DEVICE_RESTARTED")["epoch"] == 2
    machine.expect(PROMPT)  # the request was answered after all
    machine.type("exit 3\n")
    assert machine.wait() == 3


def test_a_stopped_device_is_noticed(start: Start, disk: str, watch: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    seen = watch(machine.name)
    for busy in (True, False):
        began = time.time()
        os.kill(machine.row("blk0")["pid"], signal.SIGSTOP)
        if busy:
            machine.type("read 0\n")
        event = seen.until("DEVICE_HUNG")
        assert event["time"] - began < SOON and "is stopped" in event["what"]
        seen.until("DEVICE_RESTARTED")
    machine.expect(b"000001f0")
    machine.type("exit 6\n")
    assert machine.wait() == 6


def test_who_waits_for_a_backend_is_not_hung(odd: Any, wait_until: Any) -> None:
    machine = odd("time.sleep(4)", waits=True)
    with connect(machine.name) as channel:

        def row_in(state: str) -> Any:
            rows = request(channel, "PS")["processes"]
            return next((row for row in rows if row["id"] == "odd0" and row["state"] == state), None)

        machine.type("rng 8\n")
        row = wait_until(lambda: row_in("waiting"), "its waiting")
        assert row["reason"].startswith("for its backend")
        machine.expect(PROMPT)
        row = wait_until(lambda: row_in("running"), "its going on")
        assert (row["epoch"], row["restarts"]) == (1, 0)


def test_a_disk_that_is_held_still_is_not_hung(start: Start, disk: str, tmp_path: Path, wait_until: Any) -> None:
    hold = tmp_path / "hold"
    machine = start("--disk", f"pause:when={hold}:{disk}")
    machine.expect(PROMPT)
    hold.touch()
    machine.type("read 0\n")
    wait_until(lambda: machine.row("blk0")["queue"] == 1, "the request")
    time.sleep(2.5)  # much longer than a device may be silent
    row = machine.row("blk0")
    assert (row["state"], row["epoch"], row["queue"]) == ("running", 1, 1)
    hold.unlink()
    machine.expect(b"000001f0")


def test_a_device_under_a_debugger_is_not_hung(start: Start, disk: str) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    pid = machine.row("blk0")["pid"]
    libc = ctypes.CDLL(None, use_errno=True)
    attach, detach = 16, 17
    if libc.ptrace(attach, pid, None, None) != 0:
        pytest.skip("this host lets nobody debug a neighbour")
    try:
        os.waitpid(pid, 0x40000000)  # __WALL: until it stands
        machine.type("read 0\n")
        time.sleep(2.5)  # much longer than a device may be silent
        assert machine.row("blk0")["epoch"] == 1
    finally:
        libc.ptrace(detach, pid, None, None)
    machine.expect(b"000001f0")
    assert machine.row("blk0")["epoch"] == 1
