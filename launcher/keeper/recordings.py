"""Recordings as the keeper has them: a tap (`proto.tap`) for each device that is recorded, given to all its processes.

RECORD makes the taps, tells the devices, and hands the taps out together with the end of a pipe. When the other side
of that pipe is closed (the recorder is done, or was killed) the devices are told to stop. The keeper never looks into
a tap, and nobody waits for one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.segments import Segment
from proto.errors import ConfigError
from proto.tap import TAP_HEADER, format_tap, stop_tap

if TYPE_CHECKING:
    from launcher.keeper.member import Member
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Recordings"]

LEAST, MOST = 1 << 16, 1 << 32  # bytes of a tap


class Recordings:
    """The taps of one machine."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._pipes: dict[int, list[Member]] = {}  # our end of a recorder's pipe → whom it records

    def start(self, body: dict[str, Any]) -> dict[str, Any]:
        """RECORD {ids, size?, block?}: devices, and descriptors: each tap by its device's id, and `alive`. Raises
        ConfigError."""
        size, block = int(body.get("size", 32 << 20)), bool(body.get("block", False))
        if not LEAST <= size <= MOST or size & (size - 1):
            raise ConfigError(f"a tap cannot have {size} bytes", hint="A power of two from 64k to 4G.")
        members = [self._member(str(id)) for id in body.get("ids", [])]
        made: list[Segment] = []
        try:
            for member in members:
                made.append(Segment(TAP_HEADER + size, f"the tap of {member.id}"))
                format_tap(made[-1].view(), block=block)
        except ConfigError:
            for segment in made:
                segment.close()
            raise
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pipes[ours] = members
        self._supervisor.loop.watch(ours, lambda: self._over(ours))
        fds = {"alive": theirs}
        for member, segment in zip(members, made, strict=True):
            member.tap = segment
            fds[member.id] = os.dup(segment.fd)
            if member.started:  # one to come gets it with its START
                self.tell(member, member.child)
        return {"machine": self._supervisor.machine.name, "devices": [_row(member) for member in members], "fds": fds}

    def _member(self, id: str) -> Member:
        supervisor = self._supervisor
        member = next((device for device in supervisor.devices if device.id == id), None)
        if member is None:
            known = ", ".join(device.id for device in supervisor.devices)
            raise ConfigError(f"{supervisor.machine.name} has no device {id}", hint=f"It has: {known or 'none'}.")
        if member.tap is not None:
            raise ConfigError(f"{id} is being recorded already", hint="One recorder at a time: end the other first.")
        if supervisor.swaps.active(id) is not None:
            raise ConfigError(f"{id} is being swapped", hint="Try again when that is done.")
        return member

    def tell(self, member: Member, child: Child | None) -> None:
        """A process that has had its START: record into the member's tap, or no longer."""
        if child is not None:
            child.send("RECORD", {}, {"tap": member.tap.fd} if member.tap is not None else {})

    def _over(self, pipe: int) -> None:
        self._supervisor.loop.unwatch(pipe)
        os.close(pipe)
        for member in self._pipes.pop(pipe, []):
            if member.tap is not None:
                stop_tap(member.tap.view())  # at once, whatever the process is doing
                member.tap.close()
                member.tap = None
            if member.started:
                self.tell(member, member.child)

    def close(self) -> None:
        """The machine has ended."""
        for pipe in list(self._pipes):
            with contextlib.suppress(OSError):
                self._over(pipe)


def _row(member: Member) -> dict[str, Any]:
    device = member.device
    assert device is not None
    return {
        "id": member.id,
        "device": device.device,
        "kind": device.kind,
        "backend": device.backend,
        "properties": dict(device.properties),
        "epoch": member.epoch,
    }
