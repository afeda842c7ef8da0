"""What the keeper answers over the control socket; the requests and their bodies are listed in `launcher.control`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.member import Member, core_word
from launcher.keeper.queues import look
from proto.errors import ConfigError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Requests"]

KEPT_INSPECTIONS = 16  # looks into the guest that nobody has asked about yet
STOP_DEADLINE = 0.7  # seconds that a process has between STOP and SIGKILL


class Requests:
    """Each request is a method; it raises BulkheadError when it cannot be granted."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._inspections: dict[int, dict[str, Any]] = {}  # by number; empty while the core has not answered
        self._last_inspection = 0

    def answer(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request of the control socket. Raises BulkheadError."""
        handler = self._REQUESTS.get(kind)
        if handler is None:
            raise ConfigError(f"the keeper knows no request {kind}", hint=f"It knows: {', '.join(self._REQUESTS)}.")
        return handler(self, body)

    def _ps(self, body: dict[str, Any]) -> dict[str, Any]:
        supervisor = self._supervisor
        return {
            "machine": supervisor.machine.name,
            "phase": "paused" if supervisor.pause.paused else supervisor.phase,
            "guest": supervisor.machine.guest,
            "uptime": time.monotonic() - supervisor.began,
            "kips": core_word(supervisor.shared, "kips"),
            "serial": supervisor.serial_location,
            "gdb": supervisor.gdb.location if supervisor.gdb else "",
            **supervisor.services.locations,
            "processes": supervisor.processes(),
        }

    def _watch(self, body: dict[str, Any]) -> dict[str, Any]:
        """The connection gets events from now on (`launcher.keeper.events`)."""
        return {}

    def _stop(self, body: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.end("quit" if body.get("reason") == "quit" else "stopped")
        return {}

    def _describe(self, body: dict[str, Any]) -> dict[str, Any]:
        """The machine's description, with the devices as they are by now."""
        devices = [dataclasses.asdict(member.device) for member in self._supervisor.devices if member.device]
        return {"machine": {**self._supervisor.machine.as_dict(), "devices": devices}}

    def _reset(self, body: dict[str, Any]) -> dict[str, Any]:
        self._need_guest()
        self._supervisor.reset()
        return {}

    def _powerdown(self, body: dict[str, Any]) -> dict[str, Any]:
        self._need_guest().send("POWERDOWN")
        return {}

    def _inspect(self, body: dict[str, Any]) -> dict[str, Any]:
        """A look into the guest; INSPECTED asks for what the core says."""
        self._last_inspection += 1
        while len(self._inspections) >= KEPT_INSPECTIONS:
            del self._inspections[min(self._inspections)]
        self._inspections[self._last_inspection] = {}
        self._need_guest().send("INSPECT", {**body, "number": self._last_inspection})
        return {"inspect": self._last_inspection}

    def _inspected(self, body: dict[str, Any]) -> dict[str, Any]:
        number = body.get("inspect", 0)
        if number not in self._inspections:
            raise ConfigError("there is no such look into the guest")
        if not self._inspections[number]:
            self._need_guest()
            return {"waiting": True}
        return self._inspections.pop(number)

    def inspected(self, body: dict[str, Any]) -> None:
        """The core's answer to an INSPECT."""
        if body.get("number") in self._inspections:
            self._inspections[body["number"]] = body

    def _need_guest(self) -> Child:
        """The core's process. Raises ConfigError while there is none that runs a guest."""
        child = self._supervisor.core.child
        if self._supervisor.phase != "running" or child is None:
            raise ConfigError(f"{self._supervisor.machine.name} does not run: it is {self._supervisor.phase}")
        return child

    def _pause(self, body: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.pause.pause()
        return {}

    def _cont(self, body: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.pause.resume()
        self._supervisor.quarantine.release_all()
        return {}

    def _restart(self, body: dict[str, Any]) -> dict[str, Any]:
        supervisor = self._supervisor
        member = supervisor.members.get(body.get("id", ""))
        if member is None:
            known = ", ".join(supervisor.members)
            raise ConfigError(f"{supervisor.machine.name} has no process {body.get('id')}", hint=f"It has: {known}.")
        if member is supervisor.core:
            raise ConfigError("core cannot be restarted", hint="The guest lives in it: `bulkhead stop` ends it.")
        if supervisor.phase != "running":
            raise ConfigError(f"{member.id} cannot be restarted now", hint=f"The machine is {supervisor.phase}.")
        if supervisor.quarantine.release(member):
            return {"epoch": member.epoch}
        child = member.child
        if child is None:
            return {"epoch": member.epoch + 1}  # on its way
        member.wanted = True
        fence = supervisor.recovery.fence
        if not (member.started and child.send("STOP")):
            fence(member)
        supervisor.loop.after(STOP_DEADLINE, lambda: fence(member) if member.child is child else None)
        return {"epoch": member.epoch + 1}

    def _swap(self, body: dict[str, Any]) -> dict[str, Any]:
        member = self._device(body)
        assert member.device is not None
        self._supervisor.mirrors.need_idle(member.id)
        change = {name: body[name] for name in ("device", "backend") if body.get(name)}
        if member.device.device == "blk" and "backend" in change:
            change["backend"] = self._supervisor.swaps.backend(member, change["backend"])
        properties = {**member.device.properties, **body.get("properties", {})}
        device = dataclasses.replace(member.device, properties=properties, **change)
        return {"swap": self._supervisor.swaps.start(member, device).number, "backend": member.device.describe()}

    def _swapped(self, body: dict[str, Any]) -> dict[str, Any]:
        swap = self._supervisor.swaps.find(body.get("swap", 0))
        if swap is None:
            raise ConfigError("there is no such swap")
        return swap.result()

    def _mirror(self, body: dict[str, Any]) -> dict[str, Any]:
        to, rate, pivot = str(body.get("to", "")), int(body.get("rate", 0)), bool(body.get("pivot", True))
        return self._supervisor.mirrors.start(self._device(body), to, rate, pivot).status()

    def _mirrored(self, body: dict[str, Any]) -> dict[str, Any]:
        mirror = self._supervisor.mirrors.find(self._device(body).id)
        if mirror is None:
            raise ConfigError(f"{body['id']} was not mirrored")
        return mirror.status()

    def _commit(self, body: dict[str, Any]) -> dict[str, Any]:
        rate, pivot = int(body.get("rate", 0)), bool(body.get("pivot", True))
        return self._supervisor.mirrors.commit(self._device(body), rate, pivot).status()

    def _mirror_complete(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._supervisor.mirrors.complete(self._device(body)).status()

    def _mirror_limit(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._supervisor.mirrors.limit(self._device(body), int(body.get("rate", 0))).status()

    def _mirror_cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._supervisor.mirrors.cancel(self._device(body)).status()

    def _debug(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._supervisor.debugs.offer(self._device(body))

    def _debugged(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._supervisor.debugs.adopt(self._device(body), int(body.get("pid", 0)))

    def _queue(self, body: dict[str, Any]) -> dict[str, Any]:
        member = self._device(body)
        if member.device is not None and member.device.kind != "virtio":
            raise ConfigError(f"{member.id} has no queues", hint="It is not a virtio device.")
        if "ram0" not in self._supervisor.shared or "inflight" not in member.segments:
            raise ConfigError(f"{self._supervisor.machine.name} is just {self._supervisor.phase}")
        return look(self._supervisor, member)

    def _noise(self, body: dict[str, Any]) -> dict[str, Any]:
        """A bad line between the core and a device."""
        member = self._device(body)
        rates = {name: int(body.get(name, 0)) for name in ("lost", "garbled", "doubled", "seed")}
        self._need_guest().send("DEVICE", {"id": member.id, "epoch": member.epoch, "state": "noise", **rates})
        return {}

    def _device(self, body: dict[str, Any]) -> Member:
        """The device that a request names. Raises ConfigError."""
        member = next((device for device in self._supervisor.devices if device.id == body.get("id")), None)
        if member is None:
            known = ", ".join(device.id for device in self._supervisor.devices)
            raise ConfigError(
                f"{self._supervisor.machine.name} has no device {body.get('id')}",
                hint=f"It has: {known}." if known else "It has none.",
            )
        return member

    _REQUESTS: dict[str, Callable[[Requests, dict[str, Any]], dict[str, Any]]] = {
        "PS": _ps,
        "STOP": _stop,
        "WATCH": _watch,
        "RESTART": _restart,
        "SWAP": _swap,
        "SWAPPED": _swapped,
        "MIRROR": _mirror,
        "MIRRORED": _mirrored,
        "MIRROR_CANCEL": _mirror_cancel,
        "MIRROR_COMPLETE": _mirror_complete,
        "MIRROR_LIMIT": _mirror_limit,
        "COMMIT": _commit,
        "DESCRIBE": _describe,
        "RESET": _reset,
        "POWERDOWN": _powerdown,
        "INSPECT": _inspect,
        "INSPECTED": _inspected,
        "NOISE": _noise,
        "PAUSE": _pause,
        "BREAK": lambda self, body: self._supervisor.faults.add(body),
        "BREAKS": lambda self, body: self._supervisor.faults.list(body),
        "BREAK_CLEAR": lambda self, body: self._supervisor.faults.clear(body),
        "QUEUE": _queue,
        "DEBUG": _debug,
        "DEBUGGED": _debugged,
        "HOLD": lambda self, body: self._supervisor.faults.order(body),
        "CONT": _cont,
        "TRACE": lambda self, body: self._supervisor.traces.describe(body),
        "RECORD": lambda self, body: self._supervisor.recordings.start(body),
        "TRACE_LISTEN": lambda self, body: self._supervisor.traces.listen(body),
        "TRACE_SILENCE": lambda self, body: self._supervisor.traces.silence(body),
    }
