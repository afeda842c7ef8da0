"""Trace rings as the keeper has them: whose they are, who may look, and its own, which says when processes begin and
end.

A viewer on this host gets descriptors of the rings through which it can only read (TRACE of the control socket); one
elsewhere is served by a tap (`launcher.trace.tap`), a process that is started when somebody asks for it and that has
the same descriptors and nothing else of the machine. Neither can slow the machine, and the end of either is nothing
to it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.segments import Segment
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed
from proto.trace import TRACE_SIZE, WINDOW_SLOT, TracePoint, format_trace, write_trace

if TYPE_CHECKING:
    from launcher.keeper.member import Member
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Traces"]

TAP = "launcher.trace.tap"
SIGNAL_STATUS = 256  # what a signal's number is told as


class Traces:
    """The rings of one machine, and its taps."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._own: Segment | None = None
        with contextlib.suppress(ConfigError):  # no room: then there is none for a machine either, as will be said
            self._own = Segment(TRACE_SIZE, "a trace ring")
            format_trace(self._own.view())
        self._taps: dict[str, Child] = {}
        self._waiting: dict[str, str] = {}  # taps that have not said yet whether they could: what they said last
        self._core: Segment | None = None  # whose ring was told last: another one means that the guest was reset
        self._generation = 0

    # -- what the keeper itself writes -----------------------------------------------------------------------------

    def started(self, member: Member, child: Child) -> None:
        """A process was given to a member."""
        self._write(TracePoint.STARTED, member, child, 0)

    def ended(self, member: Member, child: Child, status: int) -> None:
        """It is dead."""
        told = SIGNAL_STATUS - status if status < 0 else status
        self._write(TracePoint.ENDED, member, child, told)

    def _write(self, point: TracePoint, member: Member, child: Child, status: int) -> None:
        if self._own is not None:
            write_trace(self._own.view(), point, member.epoch, child.pid, status, member.id)

    # -- who looks -------------------------------------------------------------------------------------------------

    def describe(self, body: dict[str, Any]) -> dict[str, Any]:
        """TRACE: the rings, and descriptors to read them, unless `generation` says that the caller has those."""
        rings, segments = self._rings()
        answer: dict[str, Any] = {
            "machine": self._supervisor.machine.name,
            "generation": self._generation,
            "rings": rings,
        }
        if body.get("generation") != self._generation:
            answer["fds"] = {
                id: os.open(f"/proc/self/fd/{segment.fd}", os.O_RDONLY | os.O_CLOEXEC)
                for id, segment in segments.items()
            }
        return answer

    def _rings(self) -> tuple[list[dict[str, Any]], dict[str, Segment]]:
        supervisor = self._supervisor
        core = supervisor.shared.get("trace")
        if core is not self._core:
            self._core = core
            self._generation += 1
        rows: list[dict[str, Any]] = []
        segments: dict[str, Segment] = {}
        for id, segment in (("keeper", self._own), ("core", core)):
            if segment is not None:
                rows.append({"id": id, "role": id, "device": "", "slot": None, "epoch": None})
                segments[id] = segment
        window = WINDOW_SLOT
        places = supervisor.machine.places()
        for member in supervisor.devices:
            slot = places.get(member.id, {}).get("slot")
            if slot is None:
                slot, window = window, window + 1
            if member.device is None or "trace" not in member.segments:
                continue
            row = {"id": member.id, "role": member.role, "device": member.device.device, "slot": slot}
            rows.append(row | {"epoch": member.epoch})
            segments[member.id] = member.segments["trace"]
        return rows, segments

    # -- taps ------------------------------------------------------------------------------------------------------

    def listen(self, body: dict[str, Any]) -> dict[str, Any]:
        """TRACE_LISTEN {endpoint, keys, payload}: start a tap there, or say how the one there is doing: state is
        starting or running. Raises ConfigError when it could not be."""
        endpoint = str(body.get("endpoint", ""))
        if endpoint in self._taps:
            state = "starting" if endpoint in self._waiting else "running"
            return {"state": state, "pid": self._taps[endpoint].pid}
        if endpoint in self._waiting:
            raise ConfigError(self._waiting.pop(endpoint) or f"the tap at {endpoint} ended")
        try:
            child = Child(TAP, self._supervisor.directory.log("tap"))
        except OSError as error:
            raise ConfigError(f"cannot start a process: {error.strerror}") from error
        self._taps[endpoint] = child
        self._waiting[endpoint] = ""
        loop = self._supervisor.loop
        loop.watch(child.channel, lambda: self._hear(endpoint, child))
        loop.watch(child.pidfd, lambda: self._dead(endpoint, child))
        answer = self.describe({})
        fds = answer.pop("fds")
        child.send("START", {**body, **answer, "control": str(self._supervisor.directory.control)}, fds)
        _close(fds)
        return {"state": "starting", "pid": child.pid}

    def silence(self, body: dict[str, Any]) -> dict[str, Any]:
        """TRACE_SILENCE {endpoint}: end a tap."""
        child = self._taps.get(str(body.get("endpoint", "")))
        if child is None:
            raise ConfigError(f"nobody listens at {body.get('endpoint')}")
        child.kill()
        return {}

    def _hear(self, endpoint: str, child: Child) -> None:
        try:
            packet = child.channel.recv(0)
        except DeadlineMissed:
            return
        except (ChannelClosed, BulkheadError):
            self._supervisor.loop.unwatch(child.channel)
            return
        packet.close()
        if packet.kind == "READY":
            self._waiting.pop(endpoint, None)
            self._supervisor.log(f"traces can be seen at {packet.body.get('endpoint', endpoint)}")
        elif packet.kind == "FAILED":
            self._waiting[endpoint] = packet.body.get("error", "failed")
        elif packet.kind == "TRACE":  # have the rings changed?
            answer = self.describe(packet.body)
            fds = answer.pop("fds", {})
            child.send("TRACE", answer, fds)
            _close(fds)

    def _dead(self, endpoint: str, child: Child) -> None:
        with contextlib.suppress(BulkheadError):
            self._hear(endpoint, child)
        self._supervisor.loop.unwatch(child.channel)
        self._supervisor.loop.unwatch(child.pidfd)
        child.reap()
        self._taps.pop(endpoint, None)

    def close(self) -> None:
        """The machine has ended."""
        for child in self._taps.values():
            child.kill()
            child.reap()
        self._taps.clear()
        if self._own is not None:
            self._own.close()


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
