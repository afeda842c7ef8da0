"""Services beside a machine: processes of ours that speak to the keeper by its control socket, as any command does, and
serve clients at sockets that the keeper holds (QMP, metrics).

A service's process is started when somebody connects and may end by itself when nobody is left; the sockets stay. So
one that is never used costs nothing, one that fails costs its own clients, and the machine notices neither.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.listeners import Listener
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Service", "Services"]

YOUNG = 1.0  # seconds; a process that lived shorter is not started again at once


class Service:
    """One kind of service: the module of its process, and its listening sockets."""

    def __init__(self, supervisor: Supervisor, name: str, module: str) -> None:
        self.name = name
        self.child: Child | None = None
        self.listeners: list[socket.socket] = []
        self._supervisor = supervisor
        self._module = module

    def add(self, listener: socket.socket) -> None:
        """Serve this socket, which listens, too."""
        listener.setblocking(False)
        self.listeners.append(listener)
        if self.child is None:
            self._supervisor.loop.watch(listener, self._start)

    def row(self) -> dict[str, Any] | None:
        """For `ps`, while there is a process."""
        if self.child is None:
            return None
        log = str(self._supervisor.directory.log(self.name))
        row = {"id": self.name, "role": "service", "pid": self.child.pid, "state": "running", "log": log}
        return row | {"epoch": None, "restarts": None, "reason": ""}

    def close(self) -> None:
        """The machine has ended."""
        for listener in self.listeners:
            self._supervisor.loop.unwatch(listener)
        self.listeners.clear()
        if self.child is not None:
            self._supervisor.loop.unwatch(self.child.channel)
            self._supervisor.loop.unwatch(self.child.pidfd)
            self.child.kill()
            self.child.reap()
            self.child = None

    def _watch(self) -> None:
        for listener in self.listeners:
            self._supervisor.loop.watch(listener, self._start)

    def _start(self) -> None:
        loop = self._supervisor.loop
        for listener in self.listeners:
            loop.unwatch(listener)
        try:
            child = Child(self._module, self._supervisor.directory.log(self.name))
        except OSError as error:
            self._supervisor.log(f"cannot start {self.name}: {error.strerror}")
            loop.after(YOUNG, self._watch)
            return
        self.child = child
        loop.watch(child.channel, lambda: self._hear(child))
        loop.watch(child.pidfd, lambda: self._dead(child))
        fds = {f"listener{number}": listener.fileno() for number, listener in enumerate(self.listeners)}
        child.send("START", {"machine": self._supervisor.machine.name}, fds)

    def _hear(self, child: Child) -> None:
        try:
            child.channel.recv(0).close()
        except DeadlineMissed:
            return
        except (ChannelClosed, BulkheadError):
            self._supervisor.loop.unwatch(child.channel)

    def _dead(self, child: Child) -> None:
        loop = self._supervisor.loop
        loop.unwatch(child.channel)
        loop.unwatch(child.pidfd)
        status = child.reap()
        self.child = None
        if status:
            self._supervisor.log(f"{self.name} ({child.pid}) ended with status {status}")
        if time.monotonic() - child.started < YOUNG:
            loop.after(YOUNG, self._watch)
        else:
            self._watch()


class Services:
    """The services of one machine."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._qmp = Service(supervisor, "qmp", "launcher.qmp.server")
        self._metrics = Service(supervisor, "metrics", "launcher.inspect.metrics")
        self._opened: list[Listener] = []
        self.locations: dict[str, str] = {}  # of what was asked for, by option

    def open(self) -> None:
        """Listen: QMP in the run directory, and whatever the machine's description asks for. Raises ConfigError."""
        machine, path = self._supervisor.machine, str(self._supervisor.directory.path / "qmp")
        self.locations["qmp"] = path
        for service, where in ((self._qmp, path), (self._qmp, machine.qmp), (self._metrics, machine.metrics)):
            if where:
                listener = Listener(where, f"--{service.name}")
                self._opened.append(listener)
                if where != path:
                    self.locations[service.name] = listener.location
                service.add(listener.socket)

    def rows(self) -> list[dict[str, Any]]:
        """Those that have a process, for `ps`."""
        return [row for service in (self._qmp, self._metrics) if (row := service.row()) is not None]

    def close(self) -> None:
        """The machine has ended."""
        self._qmp.close()
        self._metrics.close()
        for listener in self._opened:
            listener.close()
