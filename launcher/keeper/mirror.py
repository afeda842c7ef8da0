"""Mirrors and commits: disks that are copied to another place, or into what they stand on, while the guest uses them,
and then exchanged for it.

A mirror is a swap, a wait and a swap, led from here: it does not matter what becomes of the command that asked.

    1  URI → mirror:to=TARGET:URI     the disk's process copies (`devproc.blk.mirror`); the keeper holds the map
    or URI → commit:URI               the same; TARGET is what URI stands on (`devproc.blk.commit`)
    2  wait until both are equal      a killed process's successor goes on with the map
    3  → TARGET                       the pivot; only while the map says that the disks are equal
    or → URI                          cancelled, or the target failed: the source is whole at every moment

A reset of the guest ends a mirror as cancelling does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

from devproc.blk.commit import base_of
from devproc.blk.mirror_map import BLOCK, MirrorMap, Phase
from devproc.blk.uri import Uri, absolute, storage
from launcher.keeper.member import Member
from launcher.keeper.swap import Swap
from launcher.machine.description import Device
from proto.errors import BulkheadError, ConfigError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["KINDS", "Mirror", "Mirrors"]

KINDS = ("mirror", "commit")

LOOK = 0.05  # seconds between two looks at the map
SAY = 1.0  # seconds between two MIRROR_PROGRESS events
TRIES = 5  # pivots that may come at a wrong moment
NOT_EQUAL = "the disks are not equal any more"
OVER = ("done", "cancelled", "failed")


class Mirror:
    """A mirror or commit. `state`: beginning, copying, equal, pivoting, ending, and then done, cancelled or failed."""

    def __init__(self, mirrors: Mirrors, member: Member, kind: str, target: str, rate: int, pivot: bool) -> None:
        assert member.device is not None
        self.member = member
        self.kind = kind  # of KINDS
        self.target = target
        self.source: Device = member.device
        self.state = "beginning"
        self.error = self.hint = ""
        self.pivot = pivot
        self.pause = 0.0
        self._mirrors = mirrors
        self._supervisor = mirrors.supervisor
        self._rate = rate
        self._map: MirrorMap | None = None
        self._fd = os.memfd_create(f"{member.id}-mirror", os.MFD_CLOEXEC)
        MirrorMap.prepare(self._fd, rate)
        self._tries = TRIES
        self._said = 0.0

    @property
    def over(self) -> bool:
        return self.state in OVER

    def status(self) -> dict[str, Any]:
        """For who asks."""
        map = self._map
        left = map.left() * BLOCK if map is not None else 0
        return {
            "kind": self.kind,
            "state": self.state,
            "source": self.source.backend,
            "target": self.target,
            "bytes": map.blocks * BLOCK if map is not None else 0,
            "left": left,
            "copied": map.copied if map is not None else 0,
            "writes": "both" if map is not None and map.phase in (Phase.BOTH, Phase.SYNCED) else "source",
            "rate": self._rate,
            "error": self.error,
            "hint": self.hint,
            "pause_ms": self.pause * 1000,
        }

    def begin(self) -> None:
        """Put the copying between the device and its disk. Raises ConfigError."""
        self.member.lent["mirror"] = self._fd
        both = Uri(self.kind, {"to": self.target} if self.kind == "mirror" else {}, self.source.backend)
        self._supervisor.swaps.start(self.member, dataclasses.replace(self.source, backend=str(both)), self._begun)

    def limit(self, rate: int) -> None:
        """At most so many bytes a second from now on; 0: as fast as it goes."""
        self._rate = rate
        if self._map is not None:
            self._map.limit = rate

    def cancel(self, error: str = "", hint: str = "") -> None:
        """The source alone again."""
        if self.over or self.state == "ending":
            return
        self.error, self.hint = error, hint
        self._go_back()

    # -- steps -----------------------------------------------------------------------------------------------------

    def _begun(self, swap: Swap) -> None:
        self.pause = max(self.pause, swap.pause)
        if swap.state != "done":
            self._end("failed", swap.error, swap.hint)
            return
        try:
            self._map = MirrorMap(self._fd)
        except BulkheadError as error:
            self.cancel(error.message)
            return
        self._map.limit = self._rate
        if self.state == "beginning":
            self.state = "copying"
        self._look()

    def _look(self) -> None:
        """Follow the map."""
        if self.over or self.state == "ending" or self._map is None:
            return
        if self.member.lent.get("mirror") != self._fd or self._supervisor.phase != "running":
            self.cancel("the guest was reset")
            return
        phase = self._map.phase
        if phase == Phase.FAILED:
            self.cancel(self._map.error)
            return
        if phase == Phase.SYNCED and self.state == "copying":
            self.state = "equal"
            self._supervisor.events.publish("MIRROR_READY", self.member.id, type=self.kind, target=self.target)
        elif phase != Phase.SYNCED and self.state == "equal":
            self.state = "copying"
        if time.monotonic() - self._said >= SAY:
            self._said = time.monotonic()
            status = self.status()
            self._supervisor.events.publish(
                "MIRROR_PROGRESS", self.member.id, bytes=status["bytes"], left=status["left"], state=self.state
            )
        if self.state == "equal" and self.pivot:
            self._try_pivot()
        self._supervisor.loop.after(LOOK, self._look)

    def _try_pivot(self) -> None:
        device = dataclasses.replace(self.source, backend=self.target)
        with contextlib.suppress(ConfigError):  # another swap is just being done: at the next look
            self._supervisor.swaps.start(self.member, device, self._pivoted, self._objection)
            self.state = "pivoting"

    def _objection(self) -> str:
        """The old process is quiet, or dead: is everything on the target that was answered?"""
        map = self._map
        if map is None or map.phase not in (Phase.BOTH, Phase.SYNCED) or map.left():
            return NOT_EQUAL
        return ""

    def _pivoted(self, swap: Swap) -> None:
        self.pause = max(self.pause, swap.pause)
        if swap.state == "done":
            self._end("done")
            return
        self._tries -= 1
        self.state = "copying"
        if self._tries == 0 or swap.error != NOT_EQUAL:
            self.cancel(swap.error, swap.hint)

    def _go_back(self) -> None:
        """To the source, as soon as that can be."""
        if self.over:
            return
        self.state = "ending"
        if self.member.device is not None and not self.member.device.backend.startswith(f"{self.kind}:"):
            if self._supervisor.swaps.active(self.member.id) is None:
                self._end("failed" if self.error else "cancelled", self.error, self.hint)
                return
        else:
            with contextlib.suppress(ConfigError):
                self._supervisor.swaps.start(self.member, self.source, self._gone_back)
                return
        self._supervisor.loop.after(LOOK, self._go_back)

    def _gone_back(self, swap: Swap) -> None:
        if swap.state == "done":
            self._end("failed" if self.error else "cancelled", self.error, self.hint)
        else:
            self._end("failed", swap.error, swap.hint)

    def _end(self, state: str, error: str = "", hint: str = "") -> None:
        self.state, self.error, self.hint = state, error, hint
        if self.member.lent.get("mirror") == self._fd:
            del self.member.lent["mirror"]
            os.close(self._fd)
        self._supervisor.log(f"{self.member.id}: {self.kind} to {self.target}: {state} {error}".rstrip())
        self._supervisor.events.publish(
            "MIRROR_CANCELLED" if state == "cancelled" else "MIRROR_ENDED",
            self.member.id,
            type=self.kind,
            target=self.target,
            error=error,
        )


class Mirrors:
    """The mirrors and commits of a machine: one a disk; how the last one ended is remembered."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._mirrors: dict[str, Mirror] = {}

    def find(self, id: str) -> Mirror | None:
        """The mirror of a disk that is under way, or the last one."""
        return self._mirrors.get(id)

    def need_idle(self, id: str) -> None:
        """Raises ConfigError while a disk is being mirrored or committed."""
        if id in self._mirrors and not self._mirrors[id].over:
            raise _busy(self._mirrors[id])

    def start(self, member: Member, target: str, rate: int, pivot: bool) -> Mirror:
        """Begin one, or join the one that is under way to the same target. Raises ConfigError."""
        assert member.device is not None
        _check_place(member)
        mirror = self._mirrors.get(member.id)
        if mirror is not None and not mirror.over:
            if target and mirror.target != target:
                raise _busy(mirror)
            return self._join(mirror, rate, pivot)
        if not target:
            raise ConfigError(
                f"{member.id} is not being mirrored", hint=f"Say to where: bulkhead mirror {member.id} qcow2:new.qcow2"
            )
        if member.device.device != "blk":
            raise ConfigError(f"{member.id} is no disk", hint="Only disks can be mirrored.")
        if storage(target) & storage(member.device.backend):
            raise ConfigError(f"{target} is what {member.id} already uses")
        return self._begin(Mirror(self, member, "mirror", target, rate, pivot))

    def commit(self, member: Member, rate: int, pivot: bool) -> Mirror:
        """Begin to write an overlay to what it stands on, or join that. Raises ConfigError."""
        assert member.device is not None
        _check_place(member)
        mirror = self._mirrors.get(member.id)
        if mirror is not None and not mirror.over:
            if mirror.kind != "commit":
                raise _busy(mirror)
            return self._join(mirror, rate, pivot)
        if member.device.device != "blk":
            raise ConfigError(f"{member.id} is no disk", hint="Only disks can be committed.")
        base = absolute(base_of(member.device.backend), lambda path: path)
        return self._begin(Mirror(self, member, "commit", base, rate, pivot))

    def complete(self, member: Member) -> Mirror:
        """Exchange the disk for its copy as soon as both are equal. Raises ConfigError."""
        return self._join(self._active(member), 0, True)

    def limit(self, member: Member, rate: int) -> Mirror:
        """At most so many bytes a second from now on; 0: as fast as it goes. Raises ConfigError."""
        mirror = self._active(member)
        mirror.limit(rate)
        return mirror

    def _begin(self, mirror: Mirror) -> Mirror:
        mirror.begin()
        self._mirrors[mirror.member.id] = mirror
        return mirror

    def _join(self, mirror: Mirror, rate: int, pivot: bool) -> Mirror:
        mirror.pivot = pivot
        if rate:
            mirror.limit(rate)
        return mirror

    def cancel(self, member: Member) -> Mirror:
        """Back to the source. Raises ConfigError when nothing is to be cancelled."""
        mirror = self._active(member)
        mirror.cancel()
        return mirror

    def _active(self, member: Member) -> Mirror:
        mirror = self._mirrors.get(member.id)
        if mirror is None or mirror.over:
            raise ConfigError(f"{member.id} is not being mirrored or committed")
        return mirror


def _busy(mirror: Mirror) -> ConfigError:
    id, doing = mirror.member.id, {"mirror": "mirrored", "commit": "committed"}[mirror.kind]
    return ConfigError(
        f"{id} is being {doing} to {mirror.target}", hint=f"Cancel that first: bulkhead {mirror.kind} {id} --cancel"
    )


def _check_place(member: Member) -> None:
    if member.device is not None and member.device.relay:
        raise ConfigError(
            f"{member.id} is behind a relay: it is neither mirrored nor committed",
            hint="Without window=on, and where the disk is, it can be.",
        )
