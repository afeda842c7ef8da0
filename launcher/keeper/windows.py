"""Devices behind relays: what a relay's START has in place of the device's, and the processes of window mode.

A device with `relay` set is two processes. The device process that core and recovery know is the relay. In window mode
the device itself is a second process here (`devproc.relay.main`), a member like a network card's peer: restarted when
it dies, known to `ps` as blk0.window, nothing to the core, and without the guest's memory. Elsewhere it is somebody
else's, under `bulkhead serve`. The socket at which a window's process is called is made once and held here, and lent
to each process with its START, so that neither's death lets a call go nowhere.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devproc.needs import needs_of_served
from launcher.keeper.member import Member, peer_start
from launcher.machine.description import CONSOLE, NETWORK, WINDOW, Device
from launcher.trace.keys import client_keys
from proto.errors import ConfigError
from proto.virtio import DeviceId

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["PROCESS", "Windows", "memory_of"]

PROCESS = "devproc.relay.main"  # the module of the process
EXPECTS = {"blk": DeviceId.BLOCK, NETWORK: DeviceId.NET, CONSOLE: DeviceId.CONSOLE}  # the rest may be any
WAITING = 16  # connections that nobody has accepted yet


def memory_of(name: str, lines: list[bytes]) -> int:
    """The descriptor of memory with these lines: how keys are handed over."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(fd, b"\n".join(lines) + b"\n")
    return fd


class Windows:
    """The machine's; in the keeper's loop, single-threaded."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._listeners: dict[str, socket.socket] = {}  # by the device's id
        self._members: dict[str, Member] = {}
        self._needs: dict[str, dict[str, Any]] = {}
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
        """What a device was to be lent, which stands behind a window, is lent to its own process."""
        if relay.id in self._members:
            self._members[relay.id].lent, relay.lent = relay.lent, {}

    def start(self, member: Member) -> None:
        """Give a device behind a window its process, the first or a successor."""
        (device,) = (one for one in self._supervisor.machine.devices if self._members.get(one.id) is member)
        self._supervisor.spawn(member, PROCESS)
        assert member.child is not None
        member.give()
        body = peer_start(self._supervisor.machine, member, device.backend) | {
            "device": device.device,
            "properties": dict(device.properties),
            "endpoint": self._endpoint(device),
        }
        outlet = self._supervisor.confinement.lend(device)
        body["sandbox"] = self._supervisor.confinement.order(device) | {"needs": self._needs_of(device, bool(outlet))}
        fds = {"listen": self._listener(device).fileno()} | member.lent | outlet
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
            made = socket.socket(socket.AF_UNIX)
            try:
                made.bind(self._path(device))
                made.listen(WAITING)
            except OSError as error:
                made.close()
                raise ConfigError(f"cannot make the socket of {device.id}: {error.strerror}") from error
            self._listeners[device.id] = made
        return self._listeners[device.id]

    def _needs_of(self, device: Device, outlet: bool) -> dict[str, Any]:
        """As it was when it was first asked: a device that has been taken over cannot widen it."""
        if device.id not in self._needs:
            needs = needs_of_served(device.device, device.backend, device.properties, outlet)
            self._needs[device.id] = needs.as_dict()
        return self._needs[device.id]
