"""The ports of a console as text: `PORT[;PORT…]`, each `KIND[:PATH][,name=NAME][,size=COLUMNSxROWS][,input=FILE]`.

    stdio;socket:/tmp/agent,name=org.example.agent

Shared by the launcher, which makes it of `--console` options, by the keeper, which opens what is named here, and by the
device, which only needs to know of what kind each port is. `;` cannot be part of a path here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proto.errors import ConfigError

__all__ = ["KINDS", "MAX_PORTS", "Port", "format_ports", "parse_port", "parse_ports"]

MAX_PORTS = 7  # two queues each and two for control, of the sixteen that a device has
KINDS = {"stdio": "", "pty": "", "socket": "PATH", "file": "PATH"}  # what each takes
OPTIONS = ("name", "size", "input")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True)
class Port:
    """One port: `path` of a socket or file; the name that the guest sees; columns and rows, 0: unknown; and for a file
    the one whose bytes the guest reads."""

    kind: str
    path: str = ""
    name: str = ""
    columns: int = 0
    rows: int = 0
    input: str = ""

    def __str__(self) -> str:
        words = [f"{self.kind}:{self.path}" if self.path else self.kind]
        words += [f"name={self.name}"] if self.name else []
        words += [f"size={self.columns}x{self.rows}"] if self.columns else []
        words += [f"input={self.input}"] if self.input else []
        return ",".join(words)


def parse_port(text: str) -> Port:
    """Raises ConfigError that says what there is."""
    head, *rest = text.split(",")
    kind, colon, path = head.partition(":")
    if kind not in KINDS:
        known = ", ".join(name + (f":{takes}" if takes else "") for name, takes in KINDS.items())
        raise ConfigError(f"there is no console port {head!r}", hint=f"There are {known}.", value=text)
    if bool(path) != bool(KINDS[kind]) or (colon and not path):
        wanted = f"{kind}:{KINDS[kind]}" if KINDS[kind] else kind
        raise ConfigError(f"the console port {head!r} is not right", hint=f"It is given as {wanted}.", value=text)
    values = dict.fromkeys(OPTIONS, "")
    for word in rest:
        key, _, value = word.partition("=")
        if key not in OPTIONS or not value:
            raise ConfigError(f"a console port has no option {word!r}", hint=f"It has {', '.join(OPTIONS)}.")
        values[key] = value
    if values["name"] and not _NAME.fullmatch(values["name"]):
        hint = "Up to 64 letters, digits, dots, dashes and underscores."
        raise ConfigError(f"name={values['name']} is no name of a port", hint=hint)
    if values["input"] and kind != "file":
        raise ConfigError(f"input={values['input']}: only a file has another file for input")
    columns, rows = _size(values["size"])
    return Port(kind, path, values["name"], columns, rows, values["input"])


def parse_ports(text: str) -> list[Port]:
    """The inverse of `format_ports`. Raises ConfigError."""
    return check([parse_port(part) for part in text.split(";")])


def format_ports(ports: list[Port]) -> str:
    """As text. Raises ConfigError for what cannot be together, or not be said."""
    for port in ports:
        if ";" in port.path + port.input or "," in port.path + port.input:
            raise ConfigError(f"a console port's path has no comma and no semicolon: {port.path or port.input}")
    return ";".join(map(str, check(ports)))


def check(ports: list[Port]) -> list[Port]:
    """The same ports. Raises ConfigError for too many, or two of one name or at one place."""
    if not ports or len(ports) > MAX_PORTS:
        raise ConfigError(f"{len(ports)} console ports; a console has 1 to {MAX_PORTS}")
    for what in ("name", "path"):
        values = [getattr(port, what) for port in ports if getattr(port, what)]
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"two console ports have the {what} {value}")
    if sum(port.kind == "stdio" for port in ports) > 1:
        raise ConfigError("two console ports are stdio")
    return ports


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text or "0x0")
    if match is None or (text and not (int(match[1]) and int(match[2]))):
        raise ConfigError(f"size={text} is no size of a terminal", hint="For example: size=80x24")
    return int(match[1]), int(match[2])
