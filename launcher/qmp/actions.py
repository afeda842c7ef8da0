"""What each command of the table does: requests to the machine's keeper.

One `Actions` serves one conversation, on a control connection of its own, so that a command that takes long (a swap)
holds up nobody else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from launcher.control import request
from launcher.orders import lifecycle as orders
from launcher.orders import rules
from launcher.qmp.commands import COMMANDS
from launcher.qmp.schema import schema
from launcher.qmp.session import version
from launcher.qmp.tree import Node, build_tree, find
from proto.channel import Channel
from proto.errors import ConfigError
from proto.faults import Rule, parse_change

__all__ = ["Actions"]

SWAP_DEADLINE = 60.0  # seconds
RESTART_DEADLINE = 15.0
INSPECT_DEADLINE = 5.0
PERIOD = 0.005  # seconds between two questions whether something is done
STATUS = {"running": "running", "paused": "paused", "starting": "prelaunch"}


class Actions:
    """The commands, on one machine."""

    def __init__(self, control: Channel) -> None:
        self._control = control

    def act(self, name: str, arguments: dict[str, Any]) -> Any:
        """Carry out a command of the table, whose arguments are checked already. Raises BulkheadError."""
        return self._ACTIONS[name](self, **{key.replace("-", "_"): value for key, value in arguments.items()})

    def ask(self, kind: str, **body: Any) -> dict[str, Any]:
        """A request to the keeper. Raises ConfigError."""
        return request(self._control, kind, **body)

    def tree(self) -> Node:
        """The machine as it is now."""
        return build_tree(self.describe(), self.ask("PS"))

    def describe(self) -> dict[str, Any]:
        """The machine's description."""
        machine: dict[str, Any] = self.ask("DESCRIBE")["machine"]
        return machine

    def inspect(self, **body: Any) -> dict[str, Any]:
        """A look into the guest (core/inspect.py). Raises ConfigError."""
        number = self.ask("INSPECT", **body)["inspect"]
        deadline = time.monotonic() + INSPECT_DEADLINE
        while (answer := self.ask("INSPECTED", inspect=number)).get("waiting"):
            if time.monotonic() > deadline:
                raise ConfigError("the core does not answer")
            time.sleep(PERIOD)
        if answer.get("error"):
            raise ConfigError(answer["error"])
        return answer

    # -- about the machine -----------------------------------------------------------------------------------------

    def _query_commands(self) -> list[dict[str, Any]]:
        return [{"name": command.name} for command in COMMANDS]

    def _query_qmp_schema(self) -> list[dict[str, Any]]:
        return schema()

    def _query_version(self) -> dict[str, Any]:
        return version()

    def _query_name(self) -> dict[str, Any]:
        return {"name": self.ask("PS")["machine"]}

    def _query_status(self) -> dict[str, Any]:
        phase = self.ask("PS")["phase"]
        return {"running": phase == "running", "status": STATUS.get(phase, "shutdown")}

    def _query_cpus(self) -> list[dict[str, Any]]:
        pid = next(row["pid"] for row in self.ask("PS")["processes"] if row["id"] == "core")
        return [
            {
                "cpu-index": number,
                "thread-id": pid or 0,
                "qom-path": f"/machine/core/hart[{number}]",
                "target": "riscv64",
                "props": {},
            }
            for number in range(self.describe()["harts"])
        ]

    def _query_memory(self) -> dict[str, Any]:
        return {"base-memory": self.describe()["memory"]}

    def _query_block(self) -> list[dict[str, Any]]:
        return [
            {
                "device": device["id"],
                "qdev": f"/machine/devices/{device['id']}",
                "type": "unknown",
                "locked": False,
                "removable": False,
                "inserted": {
                    "file": device["backend"],
                    "ro": bool(device["properties"].get("ro", False)),
                    "drv": device["backend"].partition(":")[0],
                },
            }
            for device in self.describe()["devices"]
            if device["device"] == "blk"
        ]

    def _query_processes(self) -> list[dict[str, Any]]:
        processes: list[dict[str, Any]] = self.ask("PS")["processes"]
        return processes

    # -- orders ----------------------------------------------------------------------------------------------------

    def _stop(self) -> dict[str, Any]:
        return self.ask("PAUSE")

    def _cont(self) -> dict[str, Any]:
        return self.ask("CONT")

    def _quit(self) -> dict[str, Any]:
        self._control.send("STOP")  # its end-of-file is the answer
        return {}

    def _system_reset(self) -> dict[str, Any]:
        return self.ask("RESET")

    def _system_powerdown(self) -> dict[str, Any]:
        return self.ask("POWERDOWN")

    def _device_restart(self, id: str) -> dict[str, Any]:
        epoch = self.ask("RESTART", id=id)["epoch"]
        row = orders.await_running(self._control, id, epoch, time.monotonic() + RESTART_DEADLINE)
        return {"pid": row["pid"], "epoch": row["epoch"]}

    def _device_swap(
        self, id: str, uri: str = "", device: str = "", properties: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        number = self.ask("SWAP", id=id, backend=uri, device=device, properties=properties or {})["swap"]
        deadline = time.monotonic() + SWAP_DEADLINE
        while (result := self.ask("SWAPPED", swap=number))["state"] not in ("done", "failed"):
            if time.monotonic() > deadline:
                raise ConfigError(f"{id} was not swapped within {SWAP_DEADLINE:.0f} s: {result['state']}")
            time.sleep(PERIOD)
        if result["state"] == "failed":
            raise ConfigError(result["error"], hint=result["hint"])
        return {"pause-ms": result["pause_ms"], "epoch": result["epoch"]}

    def _block_mirror(self, device: str, target: str, speed: int = 0, pivot: bool = True) -> dict[str, Any]:
        self.ask("MIRROR", id=device, to=target, rate=speed, pivot=pivot)
        return {}

    def _block_commit(self, device: str, speed: int = 0, pivot: bool = True) -> dict[str, Any]:
        self.ask("COMMIT", id=device, rate=speed, pivot=pivot)
        return {}

    def _jobs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for disk in (row["device"] for row in self._query_block()):
            with contextlib.suppress(ConfigError):  # it was never mirrored
                yield disk, self.ask("MIRRORED", id=disk)

    def _query_block_jobs(self) -> list[dict[str, Any]]:
        jobs = []
        for disk, seen in self._jobs():
            done = {"len": seen["bytes"], "offset": seen["bytes"] - seen["left"], "speed": seen["rate"]}
            jobs.append({"device": disk, "type": seen["kind"], "status": seen["state"], **done, "error": seen["error"]})
        return jobs

    def _query_jobs(self) -> list[dict[str, Any]]:
        jobs = []
        for disk, seen in self._jobs():
            done = {"current-progress": seen["bytes"] - seen["left"], "total-progress": seen["bytes"]}
            error = {"error": seen["error"]} if seen["error"] else {}
            jobs.append({"id": disk, "type": seen["kind"], "status": seen["state"], **done, **error})
        return jobs

    def _block_job_complete(self, device: str) -> dict[str, Any]:
        self.ask("MIRROR_COMPLETE", id=device)
        return {}

    def _block_job_set_speed(self, device: str, speed: int) -> dict[str, Any]:
        self.ask("MIRROR_LIMIT", id=device, rate=speed)
        return {}

    def _block_job_cancel(self, device: str) -> dict[str, Any]:
        self.ask("MIRROR_CANCEL", id=device)
        return {}

    # -- rules -----------------------------------------------------------------------------------------------------

    def _device_break(self, id: str, **values: Any) -> dict[str, Any]:
        (row,) = rules.add(self._control, [Rule.parse({"device": id, **values})])
        return {"rule": row["number"], "text": row["text"]}

    def _device_break_clear(self, id: str = "", rule: int | None = None) -> dict[str, Any]:
        if rule is not None and not id:
            raise ConfigError("rule of which device?", hint="Give id, too.")
        return {"removed": rules.clear(self._control, id, rule)}

    def _query_breaks(self) -> list[dict[str, Any]]:
        return [
            {
                "id": row["device"],
                "rule": row["number"],
                "text": row["text"],
                "matched": row["matched"],
                "acted": row["taken"],
                "in-force": row["in_force"],
            }
            for row in self.ask("BREAKS")["rules"]
        ]

    def _query_held(self, id: str = "") -> list[dict[str, Any]]:
        seen = self.ask("BREAKS")
        return [
            {
                "id": row["device"],
                "request": f"{row['queue']}:{row['number']}",
                "what": f"{row['op']} {row['words']}".strip(),
                "at": row["at"],
                "rule": row["rule"] + 1,
                "seconds": round(seen["now"] - row["since"], 3),
            }
            for row in seen["held"]
            if id in ("", row["device"])
        ]

    def _order(self, id: str, then: str, request: str, **more: Any) -> dict[str, Any]:
        keys = rules.order(self._control, id, then, request, **more)
        return {"requests": [f"{queue}:{number}" for queue, number in keys]}

    def _device_step(self, id: str, request: str = rules.FIRST) -> dict[str, Any]:
        return self._order(id, "go", request)

    def _device_go(self, id: str, request: str = rules.ALL) -> dict[str, Any]:
        return self._order(id, "go", request)

    def _device_drop(self, id: str, request: str = rules.ALL) -> dict[str, Any]:
        return self._order(id, "drop", request)

    def _device_fail(self, id: str, request: str = rules.ALL) -> dict[str, Any]:
        return self._order(id, "fail", request)

    def _device_change(self, id: str, request: str, change: str) -> dict[str, Any]:
        data, offset = parse_change(change)
        return self._order(id, "change", request, data=data, offset=offset)

    def _query_queues(self, id: str) -> dict[str, Any]:
        return self.ask("QUEUE", id=id)

    # -- the tree --------------------------------------------------------------------------------------------------

    def _qom_list(self, path: str) -> list[dict[str, str]]:
        return find(self.tree(), path).listing()

    def _qom_get(self, path: str, property: str) -> Any:
        node = find(self.tree(), path)
        if property not in node.properties:
            raise ConfigError(f"{path} has no property {property}")
        return node.properties[property]

    def _qom_set(self, path: str, property: str, value: Any) -> dict[str, Any]:
        node = find(self.tree(), path)
        if property not in node.properties:
            raise ConfigError(f"{path} has no property {property}")
        if property not in node.writable:
            raise ConfigError(f"{property} of {path} cannot be set")
        if property == "uri":
            self._device_swap(node.device, uri=str(value))
        else:
            self._device_swap(node.device, properties={property: value})
        return {}

    def _monitor(self, command_line: str, cpu_index: int = 0) -> str:
        from launcher.qmp.monitor import Monitor  # it needs us

        return Monitor(self, cpu_index).run(command_line)

    _ACTIONS: dict[str, Callable[..., Any]] = {
        "query-commands": _query_commands,
        "query-qmp-schema": _query_qmp_schema,
        "query-version": _query_version,
        "query-name": _query_name,
        "query-status": _query_status,
        "query-cpus-fast": _query_cpus,
        "query-memory-size-summary": _query_memory,
        "query-block": _query_block,
        "query-processes": _query_processes,
        "stop": _stop,
        "cont": _cont,
        "quit": _quit,
        "system_reset": _system_reset,
        "system_powerdown": _system_powerdown,
        "device-restart": _device_restart,
        "device-swap": _device_swap,
        "block-mirror": _block_mirror,
        "block-commit": _block_commit,
        "query-jobs": _query_jobs,
        "query-block-jobs": _query_block_jobs,
        "block-job-cancel": _block_job_cancel,
        "block-job-complete": _block_job_complete,
        "block-job-set-speed": _block_job_set_speed,
        "device-break": _device_break,
        "device-break-clear": _device_break_clear,
        "query-breaks": _query_breaks,
        "query-held": _query_held,
        "device-step": _device_step,
        "device-go": _device_go,
        "device-drop": _device_drop,
        "device-fail": _device_fail,
        "device-change": _device_change,
        "query-queues": _query_queues,
        "qom-list": _qom_list,
        "qom-get": _qom_get,
        "qom-set": _qom_set,
        "human-monitor-command": _monitor,
    }
