"""What becomes of a process that has died, hangs, or must be made to die: fencing, back-off, the successor.

The order is the supervisor's promise: a process is dead when its pidfd says so; the core is told; the next epoch begins
only then. Processes that die young are started again after a back-off. A device whose heartbeat stands still is
killed, unless a debugger holds it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.keeper.child import is_traced
from launcher.keeper.member import Member

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["DEVICE", "PULSE", "Recovery"]

DEVICE = "devproc.main"  # the module of a device process
FENCE_DEADLINE = 1.0  # seconds after SIGKILL until a process is called stuck
BACKOFF_FIRST = 0.05  # seconds before the second quick restart; doubles
BACKOFF_LIMIT = 5.0
YOUNG = 10.0  # a process that lived this long starts with a clean record
PULSE = 5.0  # seconds between two looks at the devices' heartbeats, which are at least one a second
HUNG = 3  # looks without a heartbeat until a device counts as hung


class Recovery:
    """The supervisor's way with processes that are dead or should be."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._felt = time.monotonic()

    def restart(self, member: Member, lived: float, what: str) -> None:
        """A device is dead: a successor of the next epoch takes its place, soon."""
        if not member.reason:
            member.reason = what
        reason = member.reason
        self._supervisor.tell_core(member, "dead")
        if member.wanted:
            member.young_deaths = 0
        else:
            member.young_deaths = member.young_deaths + 1 if lived < YOUNG else 1
        member.restarts += 1
        ordered, member.wanted = member.wanted, False
        member.state = "restarting"
        quick = member.young_deaths - 1
        delay = min(BACKOFF_LIMIT, BACKOFF_FIRST * 2 ** (quick - 1)) if quick > 0 else 0.0

        def start() -> None:
            if self._supervisor.phase != "running" or member.child is not None:
                return
            member.next_epoch()
            member.reason = reason
            self._supervisor.tell_core(member, "starting")
            self._supervisor.attempt(
                lambda: (
                    self._supervisor.spawn(member, DEVICE, fresh=ordered)
                    if member.device
                    else self._supervisor.start_peer(member)
                )
            )

        if delay:
            self._supervisor.loop.after(delay, start)
        else:
            start()

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

        self._supervisor.loop.after(FENCE_DEADLINE, look)

    def feel_pulses(self) -> None:
        """Fence devices whose loop no longer turns: a process that is stopped, or caught in a handler. Looks that come
        late do not count (then the host was busy, or asleep), and neither does a device under a debugger."""
        self._supervisor.loop.after(PULSE, self.feel_pulses)
        now = time.monotonic()
        late = now - self._felt > 1.5 * PULSE
        self._felt = now
        for member in self._supervisor.devices:
            if member.state != "running" or member.child is None or late or is_traced(member.child.pid):
                member.silent = 0
                continue
            member.silent = 0 if member.has_pulse() else member.silent + 1
            if member.silent >= HUNG:
                member.reason = f"gave no sign of life for {PULSE * HUNG:.0f} s"
                self._supervisor.log(f"{member.id} {member.reason}")
                self.fence(member)
