"""Swapping a device behind a window: the relay stays, with what it holds in flight; the process behind it changes.

    1 start     the new process is started beside the old one, and listens under another name, at which nobody calls
    2 ready     it has opened its backend, and says what it is: exactly what the relay knows, and a disk no smaller.
                Until here the old process serves, and whatever goes wrong concerns the new one alone
    3 quiesce   the new one's socket gets the name of the old one's, so that the relay's next session is with the new
                one. The old process is told to end; a late one is killed
    4 load      the old process is dead, its pidfd has said so: two never serve. The new one gets what it has left; what
                the old one had locked, the new one opens only now, and is looked at only now
    5 done      it serves. The relay begins a session, and sends again what was not answered

A process without the guest's memory is taken apart at once, so nobody is stopped before being killed. Whichever process
comes next listens at the socket that has the name by then: after a failure the old one's successor.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from launcher.keeper.heard import report_of
from launcher.keeper.member import Member
from launcher.keeper.swap import LATE_DEADLINE, QUIESCE_DEADLINE, START_DEADLINE, Swap
from launcher.keeper.windows import About
from proto.channel import Packet
from proto.errors import ProtocolError

__all__ = ["WindowSwap"]


class WindowSwap(Swap):
    """One. `member` is the device's own process, `front` the relay, whose description is the device's."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._windows = self._supervisor.windows
        (self.front,) = (one for one in self._supervisor.devices if one.id == self._device.id)
        self.new = Member(self.member.id, self.member.role, None, self.member.log)
        self._listener: socket.socket | None = None  # the new one's, as long as it has another name
        self._about: About | None = None

    @property
    def holds(self) -> bool:
        return self.state in ("quiesce", "load")

    def begin(self) -> None:
        member, new, supervisor = self.member, self.new, self._supervisor
        self.state = "start"
        new.candidate = True
        new.epoch = member.claim_epoch()
        new.late = self._shares_storage()
        new.store, new.lent = member.store, member.lent
        self._lay_cable()
        supervisor.members[f"{member.id}+"] = new
        self._listener = self._windows.candidate(new, self._device)
        self._deadline(START_DEADLINE, ("start", "ready"), f"it did not start within {START_DEADLINE:.0f} s")

    def _quiesce(self) -> None:
        member = self.member
        self._began = time.monotonic()
        self._step("quiesce")
        assert self._listener is not None
        try:
            self._windows.open(self._device, self._listener)
        except OSError as error:
            self.fail(f"its socket cannot be given its name: {error.strerror}")
            return
        self._listener = None
        child = member.child
        if child is None:
            member.state = "swapping"
            self._load()
            return
        member.wanted = True
        if not (member.started and child.send("STOP")):
            child.kill()
        self._supervisor.loop.after(QUIESCE_DEADLINE, lambda: self._kill_old() if member.child is child else None)

    def _load(self) -> None:
        self._step("load")
        if self.new.child is not None:
            self.new.give()
            self.new.child.send("GO")
            self._deadline(LATE_DEADLINE, ("load",), f"it did not serve within {LATE_DEADLINE:.0f} s")

    def _finish(self) -> None:
        assert self._about is not None
        self.new.config = self._about.config
        self._windows.settled(self.front.id, self._about)
        self.new.started = True
        super()._finish()

    def _give_up(self) -> None:
        super()._give_up()
        if self.over and self._listener is not None:
            self._windows.shut(self._listener)
            self._listener = None

    # -- what is heard ---------------------------------------------------------------------------------------------

    def hear_new(self, member: Member, packet: Packet) -> bool:
        if member is not self.new or packet.kind not in ("WAITING", "READY"):
            return super().hear_new(member, packet)
        if self.over or self.error:
            return True
        if packet.kind == "READY":
            if self.state != "load" or self._about is None:
                raise ProtocolError("READY before its time", field="kind")
            self.new.sandbox = report_of(packet.body)
            self._finish()
        elif "about" not in packet.body:
            self._fits = True  # as far as can be known
            self._check_ready()
        else:
            self._look_at(About.read(packet.body))
        return True

    def _look_at(self, about: About) -> None:
        """It is open, and says what it is."""
        try:
            self._windows.check(self.front.id, about)
        except ProtocolError as error:
            self.fail(str(error), error.hint)
            return
        self._about = about
        self._fits = True
        if self.state == "load" and self.new.child is not None:
            self.new.child.send("GO")
        else:
            self._check_ready()

    def died(self, member: Member, what: str) -> bool:
        mine = super().died(member, what)
        if mine and member is self.member and self.state == "quiesce" and not self.error:
            self._load()
        return mine

    def _tell_core(self, state: str, **more: Any) -> None:
        """Nothing of this is the core's business."""
