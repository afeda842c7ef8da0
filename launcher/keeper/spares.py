"""Spare device processes: started in idle moments, imported, waiting; one of them becomes the device that has died.

Starting Python and importing is nearly all of what a restart costs, so it is done beforehand. A spare is a
`devproc.main` that was sent PREPARE and has answered PREPARED; START makes it a device like any other. It has nothing
of the machine until then: no memory, no descriptor but its channel, no thread.

Promises: a spare is never older code than what is on the disk when that is asked for (`fresh`, for restarts that
somebody ordered); it dies with the keeper as every child does; one that dies is replaced, ever later if they keep
dying. Does not: start two at once, or any while the machine itself starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.keeper.child import Child
from launcher.keeper.loop import Loop
from launcher.machine.description import Machine
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed

__all__ = ["POOL", "Spare", "Spares"]

MODULE = "devproc.main"
POOL = 2  # no more than there are devices
SETTLE = 0.5  # seconds from the last use, start or death of a spare to the next one's start
BACKOFF_LIMIT = 5.0  # seconds between two starts of spares that keep dying


class Spare:
    """One waiting process."""

    def __init__(self, id: str, child: Child) -> None:
        self.id = id
        self.child = child
        self.sources: dict[str, int] | None = None  # what it has imported; None: it is not done yet

    @property
    def ready(self) -> bool:
        """Has it imported everything?"""
        return self.sources is not None

    def is_current(self) -> bool:
        """Is what it has imported still what the files say?"""
        try:
            return all(os.stat(path).st_mtime_ns == then for path, then in (self.sources or {}).items())
        except OSError:
            return False


class Spares:
    """The pool. In the keeper's loop; nothing waits."""

    def __init__(
        self, loop: Loop, machine: Machine, log: Path, say: Callable[[str], None], gone: Callable[[], None]
    ) -> None:
        """`say` logs a line; `gone` is called when a process that was told to end has ended."""
        self._loop = loop
        self._gone = gone
        self._log = log
        self._say = say
        self._wanted = min(POOL, len(machine.devices))
        self._what = {
            "sandbox": machine.sandbox,
            "devices": sorted({device.device for device in machine.devices}),
            "backends": [device.backend for device in machine.devices if device.device == "blk" and device.backend],
        }
        self._spares: dict[str, Spare] = {}
        self._dying: set[int] = set()  # pids of those that are told to end
        self._open = False
        self._due = False  # a start is planned
        self._failures = 0  # spares that died unused, in a row

    def open(self) -> None:
        """The machine runs: from now on, keep spares."""
        self._open = True
        self._plan(SETTLE)

    def close(self) -> None:
        """End them all: they have nothing to lose. `alive` says when that is done."""
        self._open = False
        for spare in list(self._spares.values()):
            self._drop(spare)

    def alive(self) -> bool:
        """Is any process of ours left?"""
        return bool(self._spares or self._dying)

    def take(self, *, fresh: bool = False) -> Child | None:
        """A process that is to become a device: the one that is furthest, or None. With `fresh`, spares that run
        older code than the files have are ended instead."""
        for spare in sorted(self._spares.values(), key=lambda spare: not spare.ready):
            if fresh and not spare.is_current():
                self._drop(spare)
                continue
            self._forget(spare)
            self._failures = 0
            self._plan(SETTLE)
            return spare.child
        return None

    def rows(self) -> list[dict[str, Any]]:
        """As `ps` shows them."""
        return [
            {
                "id": spare.id,
                "role": "spare",
                "pid": spare.child.pid,
                "state": "waiting" if spare.ready else "starting",
                "epoch": None,
                "restarts": None,
                "reason": "",
                "log": str(self._log),
            }
            for spare in self._spares.values()
        ]

    # -- starting --------------------------------------------------------------------------------------------------

    def _plan(self, delay: float) -> None:
        if not self._due:
            self._due = True
            self._loop.after(delay, self._fill)

    def _fill(self) -> None:
        """Start one, if one is missing and none is being started."""
        self._due = False
        starting = any(not spare.ready for spare in self._spares.values())
        if not self._open or starting or len(self._spares) >= self._wanted:
            return
        id = next(f"spare{n}" for n in range(POOL) if f"spare{n}" not in self._spares)
        try:
            child = Child(MODULE, self._log)
        except OSError as error:
            self._failed(f"cannot start a spare: {error.strerror}")
            return
        spare = self._spares[id] = Spare(id, child)
        self._loop.watch(child.channel, lambda: self._hear(spare))
        self._loop.watch(child.pidfd, lambda: self._dead(spare))
        child.send("PREPARE", self._what)

    def _hear(self, spare: Spare) -> None:
        try:
            packet = spare.child.channel.recv(0)
        except DeadlineMissed:
            return
        except (ChannelClosed, BulkheadError):
            self._loop.unwatch(spare.child.channel)
            spare.child.kill()
            return
        packet.close()
        if packet.kind == "PREPARED":
            spare.sources = packet.body["sources"]
            self._plan(SETTLE)

    # -- ending ----------------------------------------------------------------------------------------------------

    def _dead(self, spare: Spare) -> None:
        self._forget(spare)
        self._failed(f"{spare.id} ({spare.child.pid}) ended with status {spare.child.reap()}")

    def _failed(self, what: str) -> None:
        self._say(what)
        self._failures += 1
        self._plan(min(BACKOFF_LIMIT, SETTLE * 2 ** (self._failures - 1)))

    def _drop(self, spare: Spare) -> None:
        """End one that will not be used."""
        self._forget(spare)
        child = spare.child
        self._dying.add(child.pid)

        def dead() -> None:
            self._loop.unwatch(child.pidfd)
            self._dying.discard(child.pid)
            child.reap()
            self._gone()

        self._loop.watch(child.pidfd, dead)
        child.kill()
        self._plan(SETTLE)

    def _forget(self, spare: Spare) -> None:
        self._spares.pop(spare.id, None)
        self._loop.unwatch(spare.child.channel)
        self._loop.unwatch(spare.child.pidfd)
