"""A running machine as a tree of objects: what qom-list, qom-get and qom-set walk, and `info qom-tree` draws.

    /machine                     the machine
    /machine/core                the process that runs the guest; /machine/core/hart[N] its harts
    /machine/devices/blk0        a device: its process, its counters, its properties
    /machine/devices/blk0/backend   what is behind it; below that, what this stands on

Properties of a device and the URI of its backend can be set: the device is swapped to one that has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proto.errors import BulkheadError, ConfigError
from proto.suggest import did_you_mean

__all__ = ["Node", "build_tree", "draw", "find"]

COUNTERS = ("requests", "bytes", "errors", "queue")
PROCESS = ("pid", "state", "epoch", "restarts", "reason", "log")


@dataclass
class Node:
    """One object."""

    type: str
    properties: dict[str, Any] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    children: dict[str, Node] = field(default_factory=dict)
    device: str = ""  # the device that a change concerns

    def listing(self) -> list[dict[str, str]]:
        """As qom-list tells it."""
        rows = [{"name": name, "type": _type(value)} for name, value in self.properties.items()]
        return rows + [{"name": name, "type": f"child<{child.type}>"} for name, child in self.children.items()]


def build_tree(machine: dict[str, Any], seen: dict[str, Any]) -> Node:
    """The tree, from a description (DESCRIBE) and the processes (PS)."""
    rows = {row["id"]: row for row in seen["processes"]}
    core = Node(
        "core", {**_some(rows.get("core", {}), PROCESS), "instructions": rows.get("core", {}).get("instructions", 0)}
    )
    core.properties["kips"] = seen.get("kips", 0)
    for number in range(machine["harts"]):
        core.children[f"hart[{number}]"] = Node("riscv64-hart", {"hartid": number})
    devices = Node("container")
    for device in machine["devices"]:
        devices.children[device["id"]] = _device(device, rows.get(device["id"], {}))
    own = {name: machine[name] for name in ("name", "memory", "harts", "kernel", "append", "bios", "link", "reboot")}
    own |= {"guest": seen.get("guest", ""), "uptime": seen.get("uptime", 0.0), "phase": seen.get("phase", "")}
    top = Node(
        "riscv64-virt-machine", {"type": "riscv64-virt-machine", **own}, children={"core": core, "devices": devices}
    )
    return Node("container", children={"machine": top})


def find(tree: Node, path: str) -> Node:
    """The object at a path. Raises ConfigError that names the part that is not there."""
    node = tree
    walked = ""
    for part in filter(None, path.split("/")):
        if part not in node.children:
            raise ConfigError(f"{walked or '/'} has no child {part}{did_you_mean(part, node.children)}")
        node, walked = node.children[part], f"{walked}/{part}"
    return node


def draw(node: Node, name: str = "/", depth: int = 0) -> Iterator[str]:
    """A line an object, indented."""
    yield f"{'  ' * depth}{name} ({node.type})"
    for child, below in node.children.items():
        yield from draw(below, f"/{child}", depth + 1)


def _device(device: dict[str, Any], row: dict[str, Any]) -> Node:
    properties = dict(device["properties"])
    fixed = {"type": device["device"], "kind": device["kind"], **_some(row, PROCESS), **_some(row, COUNTERS)}
    node = Node(device["role"], {**fixed, **properties}, frozenset(properties), device=device["id"])
    if device["backend"]:
        node.children["backend"] = _backend(device["backend"], device["id"], device["device"] == "blk")
    return node


def _backend(uri: str, device: str, disk: bool) -> Node:
    """The backend and, of a disk, what it stands on; the whole chain is set at its head."""
    if not disk:
        return Node(uri.partition(":")[0] or "directory", {"uri": uri}, frozenset({"uri"}), device=device)
    from devproc.blk.uri import parse_uri

    try:
        parsed = parse_uri(uri)
    except BulkheadError:
        return Node("unknown", {"uri": uri}, frozenset({"uri"}), device=device)
    node = Node(parsed.scheme, {"uri": uri, **parsed.given}, frozenset({"uri"}), device=device)
    if parsed.kind.target == "uri":
        below = _backend(parsed.target, device, True)
        below.writable = frozenset()
        node.children["backend"] = below
    return node


def _some(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row and row[name] is not None}


def _type(value: Any) -> str:
    return {bool: "bool", int: "int", float: "number", str: "string"}.get(type(value), "any")
