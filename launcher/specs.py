"""The small languages of option values: sizes, disks, devices, the serial line.

Each function takes a `Given` and returns plain data, or raises ConfigError that quotes the option and the value.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from launcher.machine import Serial
from launcher.options import Given
from launcher.suggest import did_you_mean
from proto.errors import ConfigError

__all__ = ["absolute", "parse_device", "parse_disk", "parse_memory", "parse_serial"]

MIB = 1 << 20
LEAST_MEMORY = MIB
MOST_MEMORY = 1 << 40
UNITS = {"": MIB, "k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,15}")
RESERVED = ("core", "keeper", "help")
SERIAL_KINDS = {"stdio": False, "pty": False, "socket": True, "file": True, "none": False}  # does it take a path?


def absolute(given: Given, path: str) -> str:
    """A path as the user meant it: from the directory of the command, or of the TOML file."""
    return os.path.normpath(given.base / Path(path).expanduser())


def parse_memory(given: Given) -> int:
    """Bytes. A bare number is MiB, as in QEMU."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(given.value).strip().lower())
    if match is None or isinstance(given.value, bool):
        raise ConfigError(f"{given.source} {given.value}: not a size", hint="For example: 256M, 1G, or 512 (MiB).")
    size = int(float(match[1]) * UNITS[match[2]])
    if not LEAST_MEMORY <= size <= MOST_MEMORY or size % 4096:
        raise ConfigError(f"{given.source} {given.value}: memory is from 1M to 1T, in pages of 4 KiB")
    return size


def parse_serial(given: Given) -> Serial:
    """Where the serial line ends. `stdio` is kind "fd"."""
    kind, colon, path = str(given.value).partition(":")
    if kind not in SERIAL_KINDS:
        raise ConfigError(
            f"{given.source} {given.value}: no such serial line{did_you_mean(kind, SERIAL_KINDS)}",
            hint="There are stdio, pty, socket:PATH, file:PATH and none.",
        )
    if SERIAL_KINDS[kind] and not path:
        raise ConfigError(f"{given.source} {given.value}: where?", hint=f"For example: {kind}:/tmp/guest.{kind}")
    if colon and not SERIAL_KINDS[kind]:
        raise ConfigError(f"{given.source} {given.value}: {kind} takes no path")
    return Serial("fd" if kind == "stdio" else kind, absolute(given, path) if path else "")


def parse_disk(given: Given) -> tuple[str, str | None, dict[str, Any]]:
    """(URI, id or None, properties) of `URI[,ro][,id=NAME][,KEY=VALUE]`, or of a TOML table with the key uri."""
    if isinstance(given.value, dict):
        table = dict(given.value)
        uri = table.pop("uri", "")
        properties = table
    else:
        uri, properties = _split(given)
    if not isinstance(uri, str) or not uri:
        raise ConfigError(f"{given.source}: a disk without a URI", hint="For example: disk.img, or file:disk.img,ro")
    scheme = SCHEME.match(uri)
    if scheme is None:
        uri = f"file:{absolute(given, uri)}"
    elif scheme[0] == "file:":
        uri = f"file:{absolute(given, uri.removeprefix('file:'))}"
    return uri, _take_id(given, properties), properties


def parse_device(given: Given) -> tuple[str, str | None, dict[str, Any]]:
    """(device, id or None, properties) of `X[,KEY=VALUE…]`, or of a TOML table with the key device."""
    if isinstance(given.value, dict):
        table = dict(given.value)
        device = table.pop("device", "")
        properties = table
    else:
        device, properties = _split(given)
    if not isinstance(device, str) or not device:
        raise ConfigError(f"{given.source}: which device?", hint="`bulkhead run --device help` lists them.")
    path, colon, name = device.rpartition(":")
    if colon and path.endswith(".py"):
        device = f"{absolute(given, path)}:{name}"
    return device, _take_id(given, properties), properties


def _split(given: Given) -> tuple[str, dict[str, Any]]:
    """`HEAD[,key[=value]…]`; a key alone is "on"; two commas are one that belongs to the text, as in QEMU."""
    parts = [part.replace("\0", ",") for part in str(given.value).replace(",,", "\0").split(",")]
    properties: dict[str, Any] = {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if not key:
            raise ConfigError(f"{given.source} {given.value}: an empty property between commas")
        properties[key] = value if equals else "on"
    return parts[0], properties


def _take_id(given: Given, properties: dict[str, Any]) -> str | None:
    if "id" not in properties:
        return None
    name = properties.pop("id")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(
            f"{given.source} {given.value}: id={name} cannot be a name",
            hint=f"Up to 16 letters, digits, dots, dashes, underscores; not {', '.join(RESERVED)}.",
        )
    return name
