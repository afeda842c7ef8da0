"""The small languages of option values: sizes, disks, devices, the serial line.

Each function takes a `Given` and returns plain data, or raises ConfigError that quotes the option and the value.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from launcher.machine.description import Serial
from launcher.machine.options import Given
from proto.errors import ConfigError
from proto.suggest import did_you_mean

__all__ = [
    "REMOTE",
    "Card",
    "Share",
    "absolute",
    "parse_console",
    "parse_device",
    "parse_disk",
    "parse_memory",
    "parse_net",
    "parse_serial",
    "parse_share",
    "parse_size",
    "take_policy",
]

MIB = 1 << 20
LEAST_MEMORY = MIB
MOST_MEMORY = 1 << 40
UNITS = {"": MIB, "k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}
REMOTE = "remote:"  # instead of a disk's URI or a device: what another host serves
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,15}")
RESERVED = ("core", "keeper", "help")
SERIAL_KINDS = {"stdio": False, "pty": False, "socket": True, "file": True, "none": False}  # does it take a path?


def absolute(given: Given, path: str) -> str:
    """A path as the user meant it: from the directory of the command, or of the TOML file."""
    return os.path.normpath(given.base / os.path.expanduser(path))  # ~NAME that nobody has stays as it is


def parse_memory(given: Given) -> int:
    """Bytes. A bare number is MiB, as in QEMU."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(given.value).strip().lower())
    if match is None or isinstance(given.value, bool):
        raise ConfigError(f"{given.source} {given.value}: not a size", hint="For example: 256M, 1G, or 512 (MiB).")
    size = int(float(match[1]) * UNITS[match[2]])
    if not LEAST_MEMORY <= size <= MOST_MEMORY or size % 4096:
        raise ConfigError(f"{given.source} {given.value}: memory is from 1M to 1T, in pages of 4 KiB")
    return size


def parse_size(given: Given) -> int:
    """A number of bytes: 4k, 16M, 1G; a bare number is bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(given.value).strip().lower())
    if match is None:
        raise ConfigError(f"{given.source} {given.value}: not a size", hint="For example: 50M, or 1G.")
    return int(float(match[1]) * (UNITS[match[2]] if match[2] else 1))


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
    return _disk_uri(given, uri), _take_id(given, properties), properties


@dataclass(frozen=True)
class Card:
    """A `--net`: the backend's URI with its own options, and what is for others."""

    uri: str
    id: str | None
    properties: dict[str, Any]  # of the card
    capture: str = ""  # absolute path
    how: str = "none"  # dhcp, none or ADDRESS/BITS: how the Debian guest sets it up
    gateway: str = ""


def parse_net(given: Given, known: Collection[str]) -> Card:
    """`URI[,KEY=VALUE…]`, or a TOML table with the key uri. `known` are the card's own properties; id, pcap, ip and
    gateway are the launcher's; the rest belongs to the backend."""
    from devproc.net.backend import parse_uri

    head, pairs = _net_pairs(given)
    mine: dict[str, Any] = {}
    others = [head]
    for key, value in pairs:
        if key in known or key in ("id", "pcap", "ip", "gateway", "window", *POLICY):
            mine[key] = value
        else:
            others.append(f"{key}={value}")
    scheme, _, place = head.partition(":")
    if scheme == "remote":
        return _remote_net(given, head, mine | dict(other.partition("=")[::2] for other in others[1:]))
    if scheme == "hub" and place:
        others[0] = f"hub:{absolute(given, place)}"
    elif scheme == "stream" and place.startswith("unix:"):
        others[0] = f"stream:unix:{absolute(given, place.removeprefix('unix:'))}"
    target = parse_uri(",".join(others))
    capture = absolute(given, str(mine.pop("pcap"))) if "pcap" in mine else ""
    how = str(mine.pop("ip", "dhcp" if target.backend.dhcp else "none"))
    gateway = str(mine.pop("gateway", ""))
    _check_addresses(given, how, gateway)
    return Card(",".join(others), _take_id(given, mine), mine, capture, how, gateway)


def _remote_net(given: Given, uri: str, properties: dict[str, Any]) -> Card:
    """A card of another host: what is said here is how the guest sets it up."""
    how, gateway = (str(properties.pop(name, default)) for name, default in (("ip", "none"), ("gateway", "")))
    _check_addresses(given, how, gateway)
    if "pcap" in properties:
        raise ConfigError(f"{given.source}: pcap= is for the other host", hint="Give it to `bulkhead serve` there.")
    return Card(_disk_uri(given, uri), _take_id(given, properties), properties, "", how, gateway)


def _net_pairs(given: Given) -> tuple[str, list[tuple[str, Any]]]:
    """The URI without options, and the options in order: one may come more than once."""
    if isinstance(given.value, dict):
        table = dict(given.value)
        words = str(table.pop("uri", "")).split(",")
        listed = [(key, value if isinstance(value, list) else [value]) for key, value in table.items()]
        pairs = [(key, _as_text(value)) for key, values in listed for value in values]
    else:
        words = str(given.value).split(",")
        pairs = []
    if not words[0]:
        raise ConfigError(f"{given.source}: which network?", hint="For example: --net user")
    parts = [word.partition("=") for word in words[1:]]
    return words[0], [(key, value if equals else "on") for key, equals, value in parts] + pairs


def _as_text(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _check_addresses(given: Given, how: str, gateway: str) -> None:
    try:
        if how not in ("dhcp", "none"):
            ipaddress.ip_interface(how)
        if gateway:
            ipaddress.ip_address(gateway)
    except ValueError as error:
        raise ConfigError(f"{given.source}: {error}", hint="ip= is dhcp, none, or for example 10.0.0.1/24") from None


def parse_console(given: Given) -> tuple[Any, str | None, dict[str, Any]]:
    """(port, id or None, the device's policy) of `PORT[,KEY=VALUE…]`, or of a TOML table with the key port."""
    from devproc.console.spec import parse_port

    if isinstance(given.value, dict):
        properties = dict(given.value)
        head = str(properties.pop("port", ""))
    else:
        head, properties = _split(given)
    id = _take_id(given, properties)
    mine = {key: properties.pop(key) for key in (*POLICY, "window") if key in properties}
    kind, _, path = head.partition(":")
    words = [f"{kind}:{absolute(given, path)}" if path else head]
    if "input" in properties:
        properties["input"] = absolute(given, str(properties["input"]))
    try:
        return parse_port(",".join([*words, *(f"{key}={value}" for key, value in properties.items())])), id, mine
    except ConfigError as error:
        raise ConfigError(f"{given.source} {given.value}: {error.message}", hint=error.hint) from error


SHARE_DEVICES = {"9p": "9p", "virtiofs": "virtiofs", "v86fs": "v86fs"}  # --share …,proto=: the device
SHARE_MEMORY = "memory:"  # instead of a directory


@dataclass(frozen=True)
class Share:
    """A `--share`: the device that serves it, and how the guest knows it."""

    device: str
    id: str | None
    directory: str
    tag: str
    properties: dict[str, Any]
    proto: str


def parse_share(given: Given) -> Share:
    """`DIR,tag=TAG[,proto=PROTO][,ro][,id=NAME]`, or a TOML table with the key dir."""
    if isinstance(given.value, dict):
        properties = dict(given.value)
        directory = properties.pop("dir", "")
    else:
        directory, properties = _split(given)
    if not isinstance(directory, str) or not directory or not isinstance(properties.get("tag"), str):
        raise ConfigError(
            f"{given.source} {given.value}: which directory, and what tag?", hint="For example: .,tag=work"
        )
    path = directory if directory == SHARE_MEMORY else absolute(given, directory)
    if path != SHARE_MEMORY and not os.path.isdir(path):
        why = "not a directory" if os.path.exists(path) else "no such directory"
        raise ConfigError(f"{given.source} {directory}: {why}")
    proto = properties.pop("proto", "9p")
    if proto not in SHARE_DEVICES:
        raise ConfigError(
            f"{given.source}: proto={proto}: no such protocol{did_you_mean(str(proto), SHARE_DEVICES)}",
            hint=f"There are {', '.join(SHARE_DEVICES)}.",
        )
    id = _take_id(given, properties)
    return Share(SHARE_DEVICES[proto], id, path, properties["tag"], properties, proto)


def _disk_uri(given: Given, text: str) -> str:
    """The URI with absolute paths, checked at every level."""
    from devproc.blk.uri import absolute as absolute_uri
    from devproc.blk.uri import is_qcow2

    if not SCHEME.match(text) and is_qcow2(absolute(given, text)):
        raise ConfigError(
            f"{given.source} {given.value}: {text} is a qcow2 image, not a raw one",
            hint=f"Use it as qcow2:{text}; its very bytes as a disk would be file:{text}.",
        )
    try:
        return absolute_uri(text, lambda path: absolute(given, path))
    except ConfigError as error:
        raise ConfigError(f"{given.source} {given.value}: {error.message}", hint=error.hint) from error


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
    elif device.startswith(REMOTE):
        device = _disk_uri(given, device)
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


ON_CRASH = ("restart", "quarantine", "pause", "stop")
POLICY = ("on-crash", "crash-limit")  # what every device takes besides its own properties
LIMIT = re.compile(r"(\d{1,4})/(\d{1,5}(?:\.\d+)?)")


def take_policy(properties: dict[str, Any]) -> dict[str, Any]:
    """`on-crash=` and `crash-limit=N/SECONDS` out of a device's properties, as fields of `Device`."""
    policy: dict[str, Any] = {}
    if "on-crash" in properties:
        what = properties.pop("on-crash")
        if what not in ON_CRASH:
            hint = f"There are {', '.join(ON_CRASH)}."
            raise ConfigError(f"on-crash={what}: no such thing{did_you_mean(str(what), ON_CRASH)}", hint=hint)
        policy["on_crash"] = what
    if "crash-limit" in properties:
        text = str(properties.pop("crash-limit"))
        match = LIMIT.fullmatch("0/1" if text in ("off", "False") else text)
        if match is None or float(match[2]) <= 0:
            raise ConfigError(
                f"crash-limit={text}: not a limit", hint="For example 5/10: five crashes within ten seconds; or off."
            )
        policy["crashes"], policy["seconds"] = int(match[1]), float(match[2])
    return policy


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
