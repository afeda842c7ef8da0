"""What becomes of a process that has died or must be made to die: fencing, back-off, the successor.

The order is the supervisor's promise: a process is dead when its pidfd says so; the core is told; the next epoch begins
only then. The first successor comes at once. Processes that keep dying young are started again after a back-off that
doubles up to BACKOFF_LIMIT and never ends: however long what they need is away, they come back with it.

What is to become of a device whose process has died is one decision, `decide`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.keeper.member import Member

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["DEVICE", "Recovery", "backoff"]

DEVICE = "devproc.main"  # the module of a device process
FENCE_DEADLINE = 1.0  # seconds after SIGKILL until a process is called stuck
BACKOFF_FIRST = 0.05  # seconds before the second quick restart; doubles
BACKOFF_LIMIT = 5.0
YOUNG = 2.0  # a process that lived this long starts with a clean record


def backoff(young_deaths: int) -> float:
    """Seconds until the successor of a process, of which so many died young in a row, this one included."""
    if young_deaths <= 1:
        return 0.0
    return min(BACKOFF_LIMIT, BACKOFF_FIRST * 2.0 ** min(young_deaths - 2, 16))


class Recovery:
    """The supervisor's way with processes that are dead or should be."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._died: dict[str, float] = {}  # when, of members that are away

    def restart(self, member: Member, lived: float, what: str) -> None:
        """A process is dead, its pidfd has said so: a successor of the next epoch takes its place."""
        supervisor = self._supervisor
        member.reason = member.reason or what
        ordered, member.wanted = member.wanted, False
        self._died.setdefault(member.id, time.monotonic())
        supervisor.tell_core(member, "dead")
        member.young_deaths = 0 if ordered else member.young_deaths + 1 if lived < YOUNG else 1
        member.restarts += 1
        member.state = "restarting"
        if not ordered:
            supervisor.events.publish(
                "DEVICE_DIED",
                member.id,
                epoch=member.epoch,
                what=member.reason,
                restarts=member.restarts,
                bundle=supervisor.quarantine.bundle(member),
            )
        delay = self.decide(member)
        if delay is None:
            return
        if delay:
            supervisor.loop.after(delay, lambda: self.succeed(member, fresh=ordered))
        else:
            self.succeed(member, fresh=ordered)

    def decide(self, member: Member) -> float | None:
        """Seconds until the successor of a device that has just died; None: there is none until somebody calls
        `succeed`."""
        return self._supervisor.quarantine.decide(member, backoff(member.young_deaths))

    def succeed(self, member: Member, *, fresh: bool = False) -> None:
        """Start the next epoch now, unless somebody has. `fresh`: of code as it is on the disk now."""
        supervisor = self._supervisor
        if supervisor.phase != "running" or member.child is not None or supervisor.swaps.holds(member):
            return
        reason = member.reason
        member.next_epoch()
        member.reason = reason
        supervisor.tell_core(member, "starting")
        if member.device is None:
            supervisor.attempt(lambda: supervisor.start_peer(member))
        else:
            supervisor.attempt(lambda: supervisor.spawn(member, DEVICE, fresh=fresh))

    def serves(self, member: Member) -> None:
        """A member's process has said, or the core of it, that it serves: perhaps once more."""
        if member.state in ("running", "quarantined") or member.child is None:
            return  # known; or dead since, while the core's word was under way
        member.state, member.reason = self._supervisor.quarantine.state_of(member)
        died = self._died.pop(member.id, None)
        pid = member.child.pid if member.child is not None else None
        publish = self._supervisor.events.publish
        if died is None:
            publish("DEVICE_STARTED", member.id, pid=pid, epoch=member.epoch)
        else:
            ms = round((time.monotonic() - died) * 1000, 1)
            publish("DEVICE_RESTARTED", member.id, pid=pid, epoch=member.epoch, ms=ms)

    def fence(self, member: Member) -> None:
        """Make sure that a process is dead; its pidfd will say so. One that cannot be killed is shown as stuck."""
        child = member.child
        if child is None:
            return
        child.kill()

        def look() -> None:
            if member.child is child:
                member.state, member.reason = "stuck", "cannot be killed; its requests stay pending"
                self._supervisor.tell_core(member, "stuck")
                self._supervisor.events.publish("DEVICE_STUCK", member.id, pid=child.pid, what=member.reason)

        self._supervisor.loop.after(FENCE_DEADLINE, look)
