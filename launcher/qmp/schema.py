"""The answer to query-qmp-schema: QEMU's introspection format, made of the table (QAPI, "Client JSON Protocol
introspection")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from launcher.qmp.commands import COMMANDS, EVENTS, Member

__all__ = ["schema"]

BUILTIN = {
    "str": ("builtin", "string"),
    "int": ("builtin", "int"),
    "number": ("builtin", "number"),
    "bool": ("builtin", "boolean"),
    "any": ("any", ""),
}
EMPTY = "q_empty"


class _Schema:
    """Entries by name, in the order in which they are first needed."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.object(EMPTY, ())

    def object(self, name: str, members: Iterable[Member]) -> str:
        described = []
        for member in members:
            entry: dict[str, Any] = {"name": member.name, "type": self.type(member.type)}
            described.append(entry | {"default": None} if member.optional else entry)
        self.entries[name] = {"name": name, "meta-type": "object", "members": described}
        return name

    def array(self, of: str) -> str:
        name = f"[{of}]"
        self.entries.setdefault(name, {"name": name, "meta-type": "array", "element-type": of})
        return name

    def type(self, text: str) -> str:
        if text.startswith("["):
            return self.array(self.type(text[1:-1]))
        meta, json = BUILTIN[text]
        entry = {"name": text, "meta-type": meta}
        self.entries.setdefault(text, entry | {"json-type": json} if json else entry)
        return text


def schema() -> list[dict[str, Any]]:
    """Every command and event, with the types that they need."""
    made = _Schema()
    for command in COMMANDS:
        arguments = made.object(f"{command.name}-arg", command.arguments) if command.arguments else EMPTY
        if isinstance(command.returns, str):
            result = made.type(command.returns)
        else:
            result = made.object(f"{command.name}-ret", command.returns) if command.returns else EMPTY
            result = made.array(result) if command.many else result
        made.entries[command.name] = {
            "name": command.name,
            "meta-type": "command",
            "arg-type": arguments,
            "ret-type": result,
        }
    for event in EVENTS:
        arguments = made.object(f"{event.name}-arg", event.members) if event.members else EMPTY
        made.entries[event.name] = {"name": event.name, "meta-type": "event", "arg-type": arguments}
    return list(made.entries.values())
