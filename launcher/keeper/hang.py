"""Finding processes that live and do nothing: stopped, caught in a loop, asleep for ever in a handler.

A device's loop beats at least twice a second (`DeviceToCore.heartbeat`), busy or idle, and its queues' counters move
with what it serves. When nothing has moved for SILENCE seconds of looks that came in time, its process is looked at:

    stopped (SIGSTOP)                            hung
    has used LOOP seconds of CPU                 hung: a loop
    asleep all the while, and does not say that it waits   hung; so it is if it only wakes now and then, a little later
    asleep, and says that it waits               waits for its backend: not hung, however long
    uninterruptible (a disk, a network share)    waits: not hung
    runnable, but hardly ever run                the host is busy: not hung
    under a debugger (gdb; `bulkhead debug`)     not hung

On a busy host a healthy loop may come to its sleep late, and so to its next beat; but it never sleeps for longer than
the time between two beats. So what counts as sleep is that it has not run at all from look to look.

Looks that come late count for nothing: then it was the keeper that did not run. A process behind a network card has no
page to beat in: it is asked now and then (ASK), and its answer (ALIVE) is its sign of life. A process that is starting,
or is neither, is only seen to be stopped. What is hung is fenced; `Recovery` does the rest.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.keeper.child import is_traced
from launcher.keeper.member import Member
from proto.pages import DeviceToCore, QueueStatistics, read_word

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["LOOK", "Hangs", "Look", "judge", "look_at"]

LOOK = 0.2  # seconds between two looks
LATE = 0.35  # a look that comes so long after the last one says nothing
SILENCE = 0.75  # seconds without a sign of life until a process is looked at
ASLEEP = 0.55  # seconds in which it has not run: longer than a loop that beats ever sleeps
NAPS = 2.0  # seconds without a sign of life, in short sleeps
ASK = 2.0  # seconds between two questions to a process that has no heartbeat
LOOP = 0.4  # seconds of CPU in its own code, with no sign of life, that are a loop
WAITS_FOR_BACKEND = "waits for its backend"
_TICK = os.sysconf("SC_CLK_TCK")
_BEAT = DeviceToCore.offset("heartbeat")
_QUEUES = DeviceToCore.offset("queues")
_END = _QUEUES + 16 * QueueStatistics.size()


@dataclass(frozen=True)
class Look:
    """A process as the host sees it: the main thread's state (proc(5)), its CPU time in user mode, in seconds, and a
    number that grows when it runs."""

    state: str
    user: float
    ran: int


@dataclass
class _Pulse:
    """What is remembered of one process between looks."""

    pid: int
    signs: bytes = b""
    silent: float = 0.0  # seconds
    user: float = 0.0  # CPU time when the silence began
    ran: int = -1  # as it was at the last look
    asleep: float = 0.0  # seconds in which it has not run
    asked: float = 0.0  # when
    answers: int = 0  # that it had given by then


def judge(state: str, burnt: float, waits: bool, asleep: bool = True) -> tuple[str, str]:
    """What it means that a process gave no sign of life: ("hung" | "waits" | "", why). `burnt` is the CPU time that it
    used meanwhile, `waits`: it says that it waits for its backend, `asleep`: it has not run for longer than a beat."""
    if state == "T":
        return "hung", "is stopped"
    if state == "D" or (state == "S" and waits):
        return "waits", WAITS_FOR_BACKEND
    if burnt >= LOOP:
        return "hung", "is caught in a loop"
    if state == "S" and asleep:
        return "hung", "sleeps"
    return "", ""


def look_at(pid: int) -> Look:
    """Raises OSError when it has just gone."""
    with open(f"/proc/{pid}/task/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    ran = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/schedstat", encoding="ascii") as file:
        ran = int(file.read().split()[0])
    return Look(fields[0], int(fields[11]) / _TICK, ran)


class Hangs:
    """Looks at every process but the core, some times a second."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._pulses: dict[str, _Pulse] = {}
        self._last = time.monotonic()

    def watch(self) -> None:
        """Look, now and from now on."""
        self._supervisor.loop.after(LOOK, self.watch)
        now = time.monotonic()
        passed, self._last = now - self._last, now
        if passed > LATE or self._supervisor.phase not in ("starting", "running"):
            return
        for member in list(self._supervisor.members.values()):
            if member is not self._supervisor.core:
                self._feel(member, passed)

    def silent(self, member: Member) -> bool:
        """Has the device given no sign of life for longer than a beat?"""
        pulse = self._pulses.get(member.id)
        return pulse is not None and pulse.silent >= SILENCE

    def _feel(self, member: Member, passed: float) -> None:
        child = member.child
        if child is None or child.killed or child.debugged or member.state == "stuck":
            self._pulses.pop(member.id, None)
            return
        pulse = self._pulses.get(member.id)
        if pulse is None or pulse.pid != child.pid:
            pulse = self._pulses[member.id] = _Pulse(child.pid)
        signs = _signs(member)
        if signs is None:
            alive = not _is_stopped(child.pid) and self._answers(member, pulse)
        else:
            alive, pulse.signs = signs != pulse.signs, signs
        if alive:
            pulse.silent, pulse.asleep, pulse.ran, member.waits = 0.0, 0.0, -1, 0.0
            return
        with contextlib.suppress(OSError):
            self._suspect(member, pulse, passed)

    def _answers(self, member: Member, pulse: _Pulse) -> bool:
        """Has it answered what it was asked, if it was? If so, ask again when it is time."""
        child, now = member.child, time.monotonic()
        if child is None or member not in self._supervisor.peers.values() or member.state != "running":
            return True
        if pulse.asked and member.answers == pulse.answers:
            return False
        if now - pulse.asked >= ASK:
            pulse.asked, pulse.answers = now, member.answers
            child.send("ASK")
        return True

    def _suspect(self, member: Member, pulse: _Pulse, passed: float) -> None:
        began = pulse.silent < SILENCE / 2  # most silences are only the time between two beats
        pulse.silent += passed
        seen = look_at(pulse.pid)
        pulse.asleep = pulse.asleep + passed if seen.ran == pulse.ran else 0.0
        pulse.ran = seen.ran
        if began:
            pulse.user = seen.user
            return
        if pulse.silent < SILENCE:
            return
        waits = _says_it_waits(member)
        asleep = pulse.asleep >= ASLEEP or pulse.silent >= NAPS
        verdict, why = judge(seen.state, seen.user - pulse.user, waits, asleep)
        if verdict and is_traced(pulse.pid):
            verdict = ""
        member.waits = pulse.silent if verdict == "waits" else 0.0
        if verdict == "hung":
            self._hung(member, pulse, why)

    def _hung(self, member: Member, pulse: _Pulse, why: str) -> None:
        member.reason = f"hung: it {why}, with no sign of life for {pulse.silent:.1f} s"
        self._supervisor.log(f"{member.id} ({pulse.pid}) {member.reason}")
        self._supervisor.events.publish("DEVICE_HUNG", member.id, pid=pulse.pid, what=member.reason)
        self._supervisor.recovery.fence(member)


def _signs(member: Member) -> bytes | None:
    """Whatever moves while a device lives; None: it has nothing that would."""
    if member.state != "running" or "device_to_core" not in member.segments:
        return None
    page = member.segments["device_to_core"].view()
    return bytes(page[_BEAT : _BEAT + 8]) + bytes(page[_QUEUES:_END])


def _is_stopped(pid: int) -> bool:
    """Does a child of ours stand after a signal?"""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _says_it_waits(member: Member) -> bool:
    if "device_to_core" not in member.segments:
        return False
    return read_word(member.segments["device_to_core"].view(), DeviceToCore, "waiting", 4) != 0
