"""Flattened device trees: the writer (Devicetree Specification 0.4, chapter 5; version 17).

A tree is made of `Node`s; a property's Python value says its encoding:

    True            an empty property
    str             a string with its NUL
    [str, ...]      a string list
    int             one cell
    [int, ...]      cells (32 bits, big-endian); wider values are split by `cells64`
    bytes           as it is

The writer promises a blob that Debian's dtc reads without a warning about the format; what the nodes say is the
caller's (core/board/device_tree.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16
BEGIN_NODE, END_NODE, PROP, END = 1, 2, 3, 9
HEADER = struct.Struct(">10I")
RESERVATION = struct.Struct(">QQ")

Value = bool | str | int | bytes | Sequence[str] | Sequence[int]


@dataclass
class Node:
    """One node: its name with unit address, properties in order, children in order."""

    name: str
    properties: dict[str, Value] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def add(self, name: str, properties: dict[str, Value] | None = None) -> Node:
        """Append a child node and return it."""
        child = Node(name, dict(properties or {}))
        self.children.append(child)
        return child


def cells64(*values: int) -> list[int]:
    """64-bit values as pairs of cells, the upper half first."""
    return [half for value in values for half in (value >> 32, value & 0xFFFFFFFF)]


def encode_value(value: Value) -> bytes:
    """The bytes of one property. Raises struct.error when a cell does not fit 32 bits."""
    if value is True:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, int):
        return struct.pack(">I", value)
    return b"".join(encode_value(item) for item in value)


def encode(root: Node, boot_cpu: int = 0, reservations: Sequence[tuple[int, int]] = ()) -> bytes:
    """The flattened tree: header, memory reservations (address, size), structure block, strings block."""
    strings = bytearray()
    structure = bytearray()
    _encode_node(root, structure, strings, {})
    structure += struct.pack(">I", END)
    reserved = b"".join(RESERVATION.pack(*item) for item in [*reservations, (0, 0)])
    at_reserved = HEADER.size
    at_structure = at_reserved + len(reserved)
    at_strings = at_structure + len(structure)
    header = HEADER.pack(
        MAGIC,
        at_strings + len(strings),
        at_structure,
        at_strings,
        at_reserved,
        VERSION,
        LAST_COMPATIBLE_VERSION,
        boot_cpu,
        len(strings),
        len(structure),
    )
    return header + reserved + bytes(structure) + bytes(strings)


def _encode_node(node: Node, structure: bytearray, strings: bytearray, offsets: dict[str, int]) -> None:
    structure += struct.pack(">I", BEGIN_NODE) + _padded(node.name.encode() + b"\0")
    for name, value in node.properties.items():
        if name not in offsets:
            offsets[name] = len(strings)
            strings += name.encode() + b"\0"
        data = encode_value(value)
        structure += struct.pack(">3I", PROP, len(data), offsets[name]) + _padded(data)
    for child in node.children:
        _encode_node(child, structure, strings, offsets)
    structure += struct.pack(">I", END_NODE)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
