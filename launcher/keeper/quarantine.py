"""What becomes of a device that crashes: its policy (`on-crash`), quarantine, and the way back.

    restart      a successor, after a back-off; after `crashes` crashes within `seconds`, quarantine (the default)
    quarantine   quarantine at once
    pause        the guest stands still until `bulkhead restart` or `cont`
    stop         the machine ends

In quarantine a stand-in (`devproc.standin`), a process of the next epoch like any other, takes the device's place: it
needs no backend and none of the device's code, and answers every request with an I/O error. `bulkhead restart` brings
the device back; so does a swap. A guest's reset does not.

A crash, for `restart`, is a death by the device's own doing: an exception, a signal, a hang. A SIGKILL from outside is
not, nor is it when a successor finds that what it needs is away: that is tried again as long as it takes. The other
policies take every death that nobody ordered.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.crash import Death, Evidence, gather, look_at, write
from launcher.keeper.member import Member
from launcher.keeper.poison import Suspects
from proto.errors import BulkheadError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Quarantine"]

WRITE_AFTER = 0.1  # seconds until a bundle is written: the successor comes first


@dataclass
class _Record:
    """What is remembered of one device through all its lives."""

    suspects: Suspects = field(default_factory=Suspects)
    seen: dict[str, Any] = field(default_factory=dict)  # what the guest takes it for; empty: it has not come up yet
    passive: list[int] = field(default_factory=list)
    rings: dict[int, dict[str, int]] = field(default_factory=dict)
    features: int = 0  # that the driver took
    crashes: deque[float] = field(default_factory=deque)  # when; those that count
    away: bool = False  # what it needs: its process has said so before it ended
    failing: bool = False  # its process has crashed, and is about to end
    crashed: bool = False  # the last death counts
    note: str = ""  # why it is in quarantine
    standin: Child | None = None  # the process that stands in
    waits: bool = False  # on-crash=pause: for an order
    evidence: Evidence | None = None  # of the last death


class Quarantine:
    """The supervisor's way with devices that crash."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._records: dict[str, _Record] = {}

    def _record(self, member: Member) -> _Record:
        return self._records.setdefault(member.id, _Record())

    # -- what processes say ----------------------------------------------------------------------------------------

    def seen(self, member: Member, body: dict[str, Any]) -> None:
        """SEEN: what the guest takes a device for. A stand-in tells nothing new."""
        record = self._record(member)
        if record.standin is None or record.standin is not member.child:
            told = {name: value for name, value in body.items() if name not in ("id", "epoch")}
            record.seen = {**record.seen, **told}

    def rings(self, member: Member, body: dict[str, Any]) -> None:
        """RINGS: where the driver has its queues."""
        record = self._record(member)
        record.rings = {queue["index"]: queue for queue in body["queues"]}
        record.features = int(body.get("features", 0))

    def known(self, member: Member) -> dict[str, Any]:
        """What the guest takes a device for, and where its queues are: rings, features (those that the driver took),
        device_id, passive."""
        record = self._record(member)
        told = {"rings": record.rings, "features": record.features, "passive": record.passive}
        return {**told, "device_id": record.seen.get("device_id", 0)}

    def ready(self, member: Member, body: dict[str, Any]) -> None:
        """READY of a device's process: which of its queues have buffers that wait."""
        if "passive" in body and not self.stands_in(member):
            self._record(member).passive = body["passive"]

    def failed(self, member: Member, body: dict[str, Any]) -> None:
        """FAILED: it will end, by a crash or because something is not there."""
        record = self._record(member)
        record.failing = bool(body.get("crash", False))
        record.away = not record.failing

    # -- death -----------------------------------------------------------------------------------------------------

    def died(self, member: Member, child: Child, status: int, what: str, lived: float) -> None:
        """A device's process is dead, while the machine runs: gather what is known, before anybody changes it."""
        record = self._record(member)
        was_standin, record.standin = record.standin is child, None
        away, record.away = record.away, False
        record.crashed, record.failing, record.evidence = False, False, None
        if member.device is None or member.wanted or was_standin:
            return
        outside = status == -signal.SIGKILL and not child.killed
        served = member.state not in ("starting", "restarting") or member.has_served()
        death = Death(child.pid, status, what, lived, outside, served)
        supervisor = self._supervisor
        kind = record.seen.get("device_id", 0)
        record.evidence = gather(
            supervisor.machine, member, death, supervisor.shared, record.suspects, record.rings, kind
        )
        for flight in record.evidence.condemned:
            record.crashes.clear()  # they were this request's doing, and it comes no more
            supervisor.log(f"{member.id}: queue {flight.queue} head {flight.head} killed it: it gets an I/O error")
            supervisor.events.publish("REQUEST_POISONED", member.id, **flight._asdict(), bundle=self.bundle(member))
        record.crashed = not (outside or away) and not record.evidence.condemned

    def died_starting(self, member: Member, child: Child, status: int, what: str, lived: float) -> str:
        """A process is dead while the machine starts, or ends because this one has failed. The name of the bundle that
        it leaves; empty when it said what is missing, or was told to end."""
        record = self._record(member)
        failing, record.failing = record.failing, False
        ordered = self._supervisor.phase != "starting" and not failing
        if member.device is None or record.away or ordered:
            return ""
        death = Death(child.pid, status, what, lived, status == -signal.SIGKILL and not child.killed, served=False)
        evidence = gather(self._supervisor.machine, member, death, self._supervisor.shared, Suspects(), {}, 0)
        self._write(member, evidence, "the machine does not start")
        return evidence.name

    def look(self, member: Member) -> None:
        """Its successor is on its way: read what the dead process had in flight, while it is still there."""
        evidence = self._record(member).evidence
        if evidence is not None:
            look_at(evidence)

    def bundle(self, member: Member) -> str:
        """Where the bundle of the last death is, or will be in a moment."""
        evidence = self._record(member).evidence
        return str(evidence.path) if evidence is not None else ""

    def decide(self, member: Member, delay: float) -> float | None:
        """`Recovery.decide`: `delay`, or what the device's policy has in place of it."""
        record = self._record(member)
        if member.device is None or record.evidence is None or record.note:
            return delay
        policy = member.device.on_crash
        if policy == "restart" and record.crashed:
            policy = self._count(member, record)
        outcome, answer = {
            "restart": ("restarts", delay),
            "quarantine": ("goes into quarantine", 0.0),
            "pause": ("the guest is paused; bulkhead cont starts it again", None),
            "stop": ("the machine ends", None),
        }[policy]
        self._tell(member, record.evidence, outcome)
        if policy == "quarantine":
            answer = self._enter(member, record, delay)
        elif policy == "pause":
            self._pause(member, record)
        elif policy == "stop":
            self._stop(member, record.evidence)
        return answer

    def _count(self, member: Member, record: _Record) -> str:
        assert member.device is not None
        limit, seconds = member.device.crashes, member.device.seconds
        now = time.monotonic()
        record.crashes.append(now)
        while record.crashes[0] < now - seconds:
            record.crashes.popleft()
        return "quarantine" if limit and len(record.crashes) >= limit else "restart"

    def _enter(self, member: Member, record: _Record, delay: float) -> float:
        if not record.seen:
            return delay  # nobody has seen it yet: there is nothing to stand in for
        assert member.device is not None
        number = len(record.crashes)
        crashes = f"{number} crashes in {member.device.seconds:g} s" if number > 1 else f"it {member.reason}"
        record.note = f"{crashes}: see bulkhead logs {member.id}"
        record.suspects.forget()
        self._supervisor.log(f"{member.id} goes into quarantine: {crashes}")
        self._supervisor.events.publish("DEVICE_QUARANTINED", member.id, what=crashes, bundle=self.bundle(member))
        return 0.0

    def _pause(self, member: Member, record: _Record) -> None:
        record.waits = True
        member.state = "waiting"
        member.reason = f"{member.reason}; bulkhead cont starts it again"
        self._supervisor.pause.pause(f"{member.id} crashed")

    def _stop(self, member: Member, evidence: Evidence) -> None:
        self._write(member, evidence, "the machine ends")
        hint = f"on-crash=stop. See: bulkhead crashes {evidence.name}"
        self._supervisor.end("error", error=f"{member.id} {evidence.death.what}", hint=hint, process=member.id)

    def _tell(self, member: Member, evidence: Evidence, outcome: str) -> None:
        """One line for the screen, and the bundle when there is time."""
        text = (
            f"{member.id} ({evidence.death.pid}) {evidence.death.what}: {outcome}  (bulkhead crashes {evidence.name})"
        )
        self._supervisor.tell_client("CRASH", id=member.id, text=text)
        self._supervisor.loop.after(WRITE_AFTER, lambda: self._write(member, evidence, outcome))

    def _write(self, member: Member, evidence: Evidence, outcome: str) -> None:
        if evidence.written:
            return
        evidence.written = True
        try:
            write(evidence, outcome, member.segments.get("trace"))
        except (BulkheadError, OSError) as error:
            self._supervisor.log(f"{member.id}: no crash bundle: {error}")

    # -- life ------------------------------------------------------------------------------------------------------

    def start_body(self, member: Member) -> dict[str, Any]:
        """What START has besides the device's description, or in place of it. A candidate is to end the quarantine."""
        record = self._record(member)
        if record.note and not member.candidate:
            record.standin = member.child
            seen = {**record.seen, "passive": record.passive}
            return {"device": "standin", "backend": "", "properties": {}, "standin": seen}
        if not record.suspects.careful:
            return {}
        return {"careful": True, "condemned": [[flight.queue, flight.counter] for flight in record.suspects.condemned]}

    def stands_in(self, member: Member) -> bool:
        """Is its process a stand-in?"""
        record = self._record(member)
        return record.standin is not None and record.standin is member.child

    def state_of(self, member: Member) -> tuple[str, str]:
        """State and reason of a member that serves."""
        return ("quarantined", self._record(member).note) if self.stands_in(member) else ("running", "")

    def release(self, member: Member) -> bool:
        """An order to try the device anew. True: nothing was on its way, and it is started by this."""
        self.forget(member)
        record = self._record(member)
        waited, record.waits = record.waits, False
        if waited:
            self._supervisor.recovery.succeed(member, fresh=True)
            if not any(other.waits for other in self._records.values()) and self._supervisor.pause.why:
                self._supervisor.pause.resume()
        return waited

    def forget(self, member: Member) -> None:
        """What is known against a device holds no longer: it is tried anew, or another one took its place."""
        record = self._record(member)
        record.note, record.away = "", False
        record.crashes.clear()
        record.suspects.forget()

    def release_all(self) -> None:
        """`bulkhead cont`: start what waits."""
        for member in self._supervisor.devices:
            if self._record(member).waits:
                self.release(member)

    def begin_anew(self) -> None:
        """The guest was reset: its requests are gone; what is in quarantine stays there."""
        for record in self._records.values():
            record.suspects.forget()
            record.rings = {}
            record.waits = False
            record.standin = None
