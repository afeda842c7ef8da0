"""Devices behind relays: what a relay's START has in place of the device's, and the processes of window mode.

A device with `relay` set is two processes. The device process that core and recovery know is the relay. In window mode
the device itself is a second process here (`devproc.relay.main`), a member like a network card's peer: restarted when
it dies, known to `ps` as blk0.window, nothing to the core, and without the guest's memory. Elsewhere it is somebody
else's, under `bulkhead serve`. The socket at which a window's process is called is made once and held here, and lent
to each process with its START, so that neither's death lets a call go nowhere. A process that may take another's place
(`launcher.keeper.window_swap`) has a socket of its own under another name, which gets the name of the first in time.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.candidate import check_config, feature_names
from devproc.needs import needs_of_served
from launcher.keeper.member import Member, peer_start
from launcher.machine.description import CONSOLE, NETWORK, WINDOW, Device
from launcher.trace.keys import client_keys
from proto.errors import ConfigError, ProtocolError
from proto.virtio import DeviceId

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["PROCESS", "About", "Windows", "memory_of"]

PROCESS = "devproc.relay.main"  # the module of the process
EXPECTS = {"blk": DeviceId.BLOCK, NETWORK: DeviceId.NET, CONSOLE: DeviceId.CONSOLE}  # the rest may be any
WAITING = 16  # connections that nobody has accepted yet


def memory_of(name: str, lines: list[bytes]) -> int:
    """The descriptor of memory with these lines: how keys are handed over."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(fd, b"\n".join(lines) + b"\n")
    return fd


@dataclass(frozen=True)
class About:
    """What the process of a device says that it is. A relay holds each of them to what the first one said."""

    device_id: int
    queues: tuple[int, ...]
    features: int
    config: bytes

    @classmethod
    def read(cls, body: dict[str, Any]) -> About:
        """Of a packet. Raises ProtocolError, KeyError, TypeError or ValueError for what is none."""
        about = body["about"]
        values = int(about["device_id"]), tuple(int(size) for size in about["queues"]), int(about["features"])
        if not isinstance(about["config"], bytes) or not 0 <= values[2] < 1 << 64:
            raise ProtocolError("it does not say what it is", field="about")
        return cls(*values, about["config"])

    def check_next(self, new: About) -> None:
        """May that one follow? Raises ProtocolError."""
        if new.device_id != self.device_id:
            raise ProtocolError(
                f"it is a device of type {new.device_id}, the guest knows {self.device_id}", field="device_id"
            )
        if new.queues != self.queues or len(new.config) != len(self.config):
            raise ProtocolError(f"it has queues of {new.queues}, the guest knows {self.queues}", field="queues")
        if lacking := self.features & ~new.features:
            names = feature_names(self.device_id, lacking)
            raise ProtocolError(f"it lacks features that the guest was offered: {names}", field="features")
        check_config(self.device_id, self.config, new.config)


class Windows:
    """The machine's; in the keeper's loop, single-threaded."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._listeners: dict[str, socket.socket] = {}  # by the device's id
        self._members: dict[str, Member] = {}
        self._needs: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self._abouts: dict[str, About] = {}
        for device in supervisor.machine.devices:
            if device.relay == WINDOW:
                id = f"{device.id}.{WINDOW}"
                self._members[device.id] = Member(id, WINDOW, None, supervisor.directory.log(id))

    def members(self) -> list[Member]:
        """The processes of the devices behind windows."""
        return list(self._members.values())

    def owns(self, member: Member) -> bool:
        """Is it one of them?"""
        return member in self._members.values()

    def lend(self, relay: Member) -> None:
        """A guest starts. What a device was to be lent that stands behind a window is lent to its own process."""
        self._abouts.pop(relay.id, None)
        if relay.id in self._members:
            self._members[relay.id].lent, relay.lent = relay.lent, {}

    def start(self, member: Member) -> None:
        """Give a device behind a window its process, the first or a successor."""
        (device,) = (one for one in self._supervisor.machine.devices if self._members.get(one.id) is member)
        self._start(member, device, self._endpoint(device), self._listener(device))

    def candidate(self, member: Member, device: Device) -> socket.socket:
        """Give a process to what may become a device behind a window. Returns the socket at which it would be called,
        the caller's to close or to give to `open`. Raises ConfigError, OSError."""
        path = f"{self._path(device)}.{member.epoch}"
        listener = self._listen(device, path)
        try:
            self._start(member, device, f"ipc://{path}", listener)
        except BaseException:
            self.shut(listener)
            raise
        return listener

    def open(self, device: Device, listener: socket.socket) -> None:
        """Who calls from now on calls at this socket, the next process's; a session that is there stays. Raises
        OSError."""
        os.rename(listener.getsockname(), self._path(device))
        self._listeners.pop(device.id).close()
        self._listeners[device.id] = listener

    def shut(self, listener: socket.socket) -> None:
        """A candidate's socket is not wanted."""
        with contextlib.suppress(OSError):
            os.unlink(listener.getsockname())
        listener.close()

    def member(self, id: str) -> Member:
        """The process of the device with this id."""
        return self._members[id]

    def ready(self, member: Member, body: dict[str, Any]) -> None:
        """READY: if it is one of theirs, it has said what it is."""
        for id, one in self._members.items():
            if one is member:
                self.settled(id, About.read(body))

    def check(self, id: str, new: About) -> None:
        """Raises ProtocolError when the guest would notice that another process has taken this device's place."""
        if id not in self._abouts:
            raise ProtocolError("the old one has not said yet what it is", field="about")
        self._abouts[id].check_next(new)

    def settled(self, id: str, about: About) -> None:
        """Another one is the device now. The guest goes on with the features of the first."""
        self._abouts[id] = replace(about, features=self._abouts.get(id, about).features)

    def _start(self, member: Member, device: Device, endpoint: str, listener: socket.socket) -> None:
        supervisor = self._supervisor
        outlet = supervisor.confinement.lend(device)
        body = peer_start(supervisor.machine, member, device.backend) | {
            "device": device.device,
            "properties": dict(device.properties),
            "endpoint": endpoint,
            "candidate": member.candidate,
            "late": member.late,
            "sandbox": supervisor.confinement.order(device) | {"needs": self._needs_of(device, bool(outlet))},
        }
        supervisor.spawn(member, PROCESS)
        assert member.child is not None
        member.give()
        fds = {"listen": listener.fileno()} | member.lent | outlet
        member.started = member.child.send("START", body, fds)

    def relay(self, device: Device) -> tuple[dict[str, Any], dict[str, int]]:
        """What the START of a relay has in place of the device's; the descriptors are the caller's to close. Nothing
        for a device without one."""
        if not device.relay:
            return {}, {}
        properties = {"endpoint": self._endpoint(device), "expects": int(EXPECTS.get(device.device, 0))}
        body = {"device": "relay", "stands_for": device.device, "backend": "", "properties": properties}
        if device.relay == WINDOW:
            self._listener(device)
            return body, {}
        return body, {"curve": memory_of("curve", list(client_keys(Path(device.keys))))}

    def close(self) -> None:
        """The machine has ended."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def _endpoint(self, device: Device) -> str:
        return f"ipc://{self._path(device)}" if device.relay == WINDOW else device.relay

    def _path(self, device: Device) -> str:
        return f"{self._supervisor.directory.path}/link/{device.id}.{WINDOW}"

    def _listener(self, device: Device) -> socket.socket:
        if device.id not in self._listeners:
            self._listeners[device.id] = self._listen(device, self._path(device))
        return self._listeners[device.id]

    def _listen(self, device: Device, path: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.bind(path)
            made.listen(WAITING)
        except OSError as error:
            made.close()
            raise ConfigError(f"cannot make the socket of {device.id}: {error.strerror}") from error
        return made

    def _needs_of(self, device: Device, outlet: bool) -> dict[str, Any]:
        """As it was when this description was first seen: a device that has been taken over cannot widen it."""
        key = device.id, device.device, device.backend, repr(sorted(device.properties.items()))
        if key not in self._needs:
            needs = needs_of_served(device.device, device.backend, device.properties, outlet)
            self._needs[key] = needs.as_dict()
        return self._needs[key]
