"""What each process of a machine is told of its sandbox in START, and the outlets that connect for confined disks.

What a device needs (`devproc.needs`) is computed once for each description and kept as long as the machine: a device
that has been taken over cannot widen what its successor may open by writing to its image's header. Which namespaces the
host gives is tried once, by a child.

An *outlet* (`devproc.outlet`) is a process beside a disk that is on a network. It is a member like a network card's
peer: restarted when it dies, known to `ps`, nothing to the core. Both ends of the channel to it are held here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devproc.needs import Needs, needs_of, needs_of_relay
from launcher.keeper.member import Member, peer_start
from launcher.machine.description import Device
from proto.channel import Channel
from proto.confine import namespaces

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["OUTLET", "Confinement"]

OUTLET = "devproc.outlet"  # the module of the process


class Confinement:
    """The machine's; in the keeper's loop, single-threaded."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._namespaces: dict[str, str] | None = None
        self._needs: dict[tuple[str, str, str], Needs] = {}
        self._outlets: dict[tuple[str, tuple[str, ...]], Member] = {}
        self._device_ends: dict[str, Channel] = {}  # by the outlet's id

    def order(self, device: Device) -> dict[str, Any]:
        """START's `sandbox` for a device, or for the relay before it."""
        mode = self._supervisor.machine.sandbox
        if mode == "off":
            return {"mode": mode}
        if self._namespaces is None:
            self._namespaces = namespaces.probe()
        needs = needs_of_relay() if device.relay else self.needs(device)
        return {"mode": mode, "namespaces": self._namespaces, "needs": needs.as_dict()}

    def needs(self, device: Device) -> Needs:
        """What a device of this description needs, as it was when that was first asked."""
        key = device.device, device.backend, repr(sorted(device.properties.items()))
        if key not in self._needs:
            self._needs[key] = needs_of(device.device, device.backend, device.properties)
        return self._needs[key]

    # -- outlets ---------------------------------------------------------------------------------------------------

    def lend(self, device: Device) -> dict[str, int]:
        """The descriptor of its outlet, for START; none where the device connects to nothing, or by itself. Ends
        outlets that nobody needs any more."""
        if self._supervisor.machine.sandbox == "off":
            return {}
        key = device.id, tuple(self.needs(device).targets)
        self._retire(key)
        if not key[1]:
            return {}
        if key not in self._outlets:
            self._begin(key)
        return {"outlet": self._device_ends[self._outlets[key].id].fileno()}

    def owns(self, member: Member) -> bool:
        """Is it an outlet?"""
        return any(member is outlet for outlet in self._outlets.values())

    def start(self, member: Member) -> None:
        """Give an outlet its process, the first or a successor."""
        (targets,) = (targets for (_, targets), outlet in self._outlets.items() if outlet is member)
        self._supervisor.spawn(member, OUTLET)
        assert member.child is not None
        body = peer_start(self._supervisor.machine, member, "") | {"targets": list(targets)}
        member.started = member.child.send("START", body, member.lent)

    def forget(self) -> None:
        """The machine's processes are dead, and its memory goes."""
        for member in self._outlets.values():
            self._close(member)
        self._outlets.clear()

    def _begin(self, key: tuple[str, tuple[str, ...]]) -> None:
        taken = self._supervisor.members
        id = next(name for n in range(len(taken) + 1) if (name := f"{key[0]}.outlet{n or ''}") not in taken)
        member = Member(id, "outlet", None, self._supervisor.directory.log(id))
        self._device_ends[id], ours = Channel.pair()
        member.lent = {"requests": ours.detach()}
        member.next_epoch()
        self._outlets[key] = self._supervisor.members[id] = member
        self.start(member)

    def _retire(self, wanted: tuple[str, tuple[str, ...]]) -> None:
        """End the outlets of this device that neither it nor its successor needs."""
        now = [member.device for member in self._supervisor.devices if member.device is not None]
        needed = {wanted, *((device.id, tuple(self.needs(device).targets)) for device in now)}
        for key in [key for key in self._outlets if key[0] == wanted[0] and key not in needed]:
            member = self._outlets.pop(key)
            self._supervisor.members.pop(member.id, None)
            if member.child is not None:
                self._supervisor.swaps.retire(member, member.child)
                member.child.kill()
            self._close(member)

    def _close(self, member: Member) -> None:
        member.close()
        if member.id in self._device_ends:
            self._device_ends.pop(member.id).close()
