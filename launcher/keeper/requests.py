"""What the keeper answers over the control socket; the requests and their bodies are listed in `launcher.control`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.member import Member, core_word
from launcher.keeper.queues import look
from launcher.machine.description import WINDOW
from proto.errors import ConfigError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["REQUESTS", "answer"]

STOP_DEADLINE = 0.7  # seconds that a process has between STOP and SIGKILL


def answer(supervisor: Supervisor, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the control socket. Raises BulkheadError when it cannot be granted."""
    handler = REQUESTS.get(kind)
    if handler is None:
        raise ConfigError(f"the keeper knows no request {kind}", hint=f"It knows: {', '.join(REQUESTS)}.")
    return handler(supervisor, body)


def _ps(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
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


def _watch(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    """The connection gets events from now on (`launcher.keeper.events`)."""
    return {}


def _stop(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    supervisor.end("quit" if body.get("reason") == "quit" else "stopped")
    return {}


def _describe(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    """The machine's description, with the devices as they are by now."""
    devices = [dataclasses.asdict(member.device) for member in supervisor.devices if member.device]
    return {"machine": {**supervisor.machine.as_dict(), "devices": devices}}


def _reset(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    _guest(supervisor)
    supervisor.reset()
    return {}


def _powerdown(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    _guest(supervisor).send("POWERDOWN")
    return {}


def _inspect(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return {"inspect": supervisor.inspections.ask(_guest(supervisor), body)}


def _inspected(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    seen = supervisor.inspections.take(body.get("inspect", 0))
    if seen is None:
        _guest(supervisor)  # there is one that may still answer
        return {"waiting": True}
    return seen


def _pause(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    supervisor.pause.pause()
    return {}


def _cont(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    supervisor.pause.resume()
    supervisor.quarantine.release_all()
    return {}


def _restart(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
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


def _swap(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    member = _device(supervisor, body)
    assert member.device is not None
    supervisor.mirrors.need_idle(member.id)
    change = {name: body[name] for name in ("device", "backend") if body.get(name)}
    if member.device.device == "blk" and "backend" in change:
        change["backend"] = supervisor.swaps.backend(member, change["backend"])
    properties = {**member.device.properties, **body.get("properties", {})}
    window = str(properties.pop("window", "")).lower()
    if window not in ("", "on" if member.device.relay == WINDOW else "off"):
        raise ConfigError(f"a swap does not change window= of {member.id}", hint="The machine must be started anew.")
    device = dataclasses.replace(member.device, properties=properties, **change)
    return {"swap": supervisor.swaps.start(member, device).number, "backend": member.device.describe()}


def _swapped(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    swap = supervisor.swaps.find(body.get("swap", 0))
    if swap is None:
        raise ConfigError("there is no such swap")
    return swap.result()


def _mirror(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    to, rate, pivot = str(body.get("to", "")), int(body.get("rate", 0)), bool(body.get("pivot", True))
    return supervisor.mirrors.start(_device(supervisor, body), to, rate, pivot).status()


def _mirrored(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    mirror = supervisor.mirrors.find(_device(supervisor, body).id)
    if mirror is None:
        raise ConfigError(f"{body['id']} was not mirrored")
    return mirror.status()


def _commit(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    rate, pivot = int(body.get("rate", 0)), bool(body.get("pivot", True))
    return supervisor.mirrors.commit(_device(supervisor, body), rate, pivot).status()


def _mirror_complete(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return supervisor.mirrors.complete(_device(supervisor, body)).status()


def _mirror_limit(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return supervisor.mirrors.limit(_device(supervisor, body), int(body.get("rate", 0))).status()


def _mirror_cancel(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return supervisor.mirrors.cancel(_device(supervisor, body)).status()


def _debug(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return supervisor.debugs.offer(_device(supervisor, body))


def _debugged(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    return supervisor.debugs.adopt(_device(supervisor, body), int(body.get("pid", 0)))


def _queue(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    member = _device(supervisor, body)
    if member.device is not None and member.device.kind != "virtio":
        raise ConfigError(f"{member.id} has no queues", hint="It is not a virtio device.")
    if "ram0" not in supervisor.shared or "inflight" not in member.segments:
        raise ConfigError(f"{supervisor.machine.name} is just {supervisor.phase}")
    return look(supervisor, member)


def _noise(supervisor: Supervisor, body: dict[str, Any]) -> dict[str, Any]:
    """A bad line between the core and a device."""
    member = _device(supervisor, body)
    rates = {name: int(body.get(name, 0)) for name in ("lost", "garbled", "doubled", "seed")}
    _guest(supervisor).send("DEVICE", {"id": member.id, "epoch": member.epoch, "state": "noise", **rates})
    return {}


def _guest(supervisor: Supervisor) -> Child:
    """The core's process. Raises ConfigError while there is none that runs a guest."""
    child = supervisor.core.child
    if supervisor.phase != "running" or child is None:
        raise ConfigError(f"{supervisor.machine.name} does not run: it is {supervisor.phase}")
    return child


def _device(supervisor: Supervisor, body: dict[str, Any]) -> Member:
    """The device that a request names. Raises ConfigError."""
    member = next((device for device in supervisor.devices if device.id == body.get("id")), None)
    if member is None:
        known = ", ".join(device.id for device in supervisor.devices)
        raise ConfigError(
            f"{supervisor.machine.name} has no device {body.get('id')}",
            hint=f"It has: {known}." if known else "It has none.",
        )
    return member


REQUESTS: dict[str, Callable[[Supervisor, dict[str, Any]], dict[str, Any]]] = {
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
    "BREAK": lambda supervisor, body: supervisor.faults.add(body),
    "BREAKS": lambda supervisor, body: supervisor.faults.list(body),
    "BREAK_CLEAR": lambda supervisor, body: supervisor.faults.clear(body),
    "QUEUE": _queue,
    "DEBUG": _debug,
    "DEBUGGED": _debugged,
    "HOLD": lambda supervisor, body: supervisor.faults.order(body),
    "CONT": _cont,
    "TRACE": lambda supervisor, body: supervisor.traces.describe(body),
    "RECORD": lambda supervisor, body: supervisor.recordings.start(body),
    "TRACE_LISTEN": lambda supervisor, body: supervisor.traces.listen(body),
    "TRACE_SILENCE": lambda supervisor, body: supervisor.traces.silence(body),
}
