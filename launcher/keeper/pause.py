"""Whether the guest stands still: the keeper's orders PAUSE and CONT to the core, and who gave them.

Devices go on: their sessions stay up, and what they finish meanwhile waits in their rings. A machine that starts anew
after a guest's reset is not paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.errors import ConfigError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Pause"]


class Pause:
    """The supervisor's way with a guest to be paused. `paused` is what the core said last, `why` for people."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.paused = False
        self.why = ""

    def pause(self, why: str = "") -> None:
        """Have the guest stand still. Raises ConfigError when there is no guest that runs."""
        self._need_guest()
        self.why = why
        self._order("PAUSE")

    def resume(self) -> None:
        """Have it go on. Raises ConfigError when there is no guest that runs."""
        self._need_guest()
        self.why = ""
        self._order("CONT")

    def heard(self, state: str) -> bool:
        """The core says how the guest is. False: it spoke of something else."""
        if state not in ("paused", "running"):
            return False
        before, self.paused = self.paused, state == "paused"
        core = self._supervisor.core
        if core.state in ("paused", "running"):
            core.state, core.reason = state, self.why
        if before != self.paused:
            self._supervisor.events.publish("GUEST_PAUSED" if self.paused else "GUEST_RESUMED")
            self._supervisor.log(f"the guest {'is paused' if self.paused else 'goes on'}")
        return True

    def begin_anew(self) -> None:
        """A new core runs a new guest."""
        self.paused, self.why = False, ""

    def _need_guest(self) -> None:
        if self._supervisor.phase != "running":
            raise ConfigError(f"{self._supervisor.machine.name} does not run: it is {self._supervisor.phase}")

    def _order(self, kind: str) -> None:
        core = self._supervisor.core.child
        if core is not None and not core.send(kind):
            self._supervisor.log("the core does not read its channel")
            core.kill()
