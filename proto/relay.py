"""What a relay and the device behind it say to each other: one table of messages, and their encoding.

A relay stands beside the core and has the guest's memory; the device behind it, in another process or on another host,
has none and sees the bytes of its own requests alone. A message is one ZeroMQ frame: a fixed header of 24 bytes,
little-endian, and a msgpack map with exactly the fields below.

    offset  size  field
    0       4     magic    "BKRL"
    4       2     version  1
    6       2     type     a number of `MESSAGES`
    8       8     session  a number that the relay draws for each connection; 0 before there is one
    16      4     length   of the body
    20      4     0

Nothing is acknowledged by itself. What the relay has not had an ANSWER to is sent again in the next session, with
`again`: a request may be carried out more than once, and is answered to the guest exactly once. It is named by its
queue and its counter (the number of its pop, kept in the in-flight table), within a *life*, which is the time between
two resets by the driver.

Decoding is strict and bounded, whoever sent it: ProtocolError names the first field that is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from proto.errors import ProtocolError
from proto.messages import BOOL, MAX_CONFIG, MAX_TEXT, QUEUE, U8, U16, U32, U64, Bytes, Field, Sequence, Structure, Text
from proto.pages import MAX_QUEUES

__all__ = [
    "HEADER_SIZE",
    "MAX_DATA",
    "MAX_MESSAGE",
    "MAX_WRITES",
    "MESSAGES",
    "VERSION",
    "Row",
    "Said",
    "decode",
    "encode",
]

MAGIC = b"BKRL"
VERSION = 1
HEADER = struct.Struct("<4sHHQII")
HEADER_SIZE = HEADER.size
MAX_DATA = 4 << 20  # bytes of a request that travel one way; the relay fails what is longer
MAX_WRITES = 64  # of the configuration space since the driver's reset
MAX_MESSAGE = HEADER_SIZE + MAX_DATA + 4096


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table."""

    number: int
    name: str
    sender: str  # "relay" or "device"
    body: Structure
    meaning: str


def _row(number: int, name: str, sender: str, meaning: str, *fields: Field) -> Row:
    return Row(number, name, sender, Structure(name, fields), meaning)


_KEY = (Field("queue", QUEUE), Field("counter", U64, "of the request's pop"))
_WRITE = Structure("write", (Field("offset", U32), Field("data", Bytes(MAX_CONFIG))))
_CONFIG = (Field("config", Bytes(MAX_CONFIG)), Field("generation", U32))

_TABLE = (
    _row(1, "LOOK", "relay", "what are you? Asked by whoever wants to know; begins nothing"),
    _row(
        2,
        "ABOUT",
        "device",
        "answers LOOK",
        Field("device_id", U32, "virtio device type"),
        Field("queues", Sequence(U16, MAX_QUEUES), "the largest size of each"),
        Field("passive", Sequence(QUEUE, MAX_QUEUES), "those whose buffers wait for something to come"),
        Field("features", U64, "the device's own; those of the rings are the relay's"),
        *_CONFIG,
        Field("requests", U16, "at most so many may be in flight"),
        Field("bytes", U32, "with at most so many bytes, both ways together"),
    ),
    _row(
        3,
        "HELLO",
        "relay",
        "begins a session, and ends the one before it",
        Field("owner", U64, "the machine's number: another machine's session is not ended while it lives"),
        Field("life", U64, "another one than before: the driver has reset the device meanwhile"),
        Field("features", U64, "accepted by the driver; 0: not yet"),
        Field("writes", Sequence(_WRITE, MAX_WRITES), "to the configuration space in this life"),
    ),
    _row(4, "READY", "device", "answers HELLO, once what belongs to another life has been finished", *_CONFIG),
    _row(
        5,
        "REQUEST",
        "relay",
        "carry this out; when it is in flight here already, nothing new",
        *_KEY,
        Field("head", U16, "of its chain, for people"),
        Field("again", BOOL, "it may have been carried out before"),
        Field("error", U8, "not 0: the chain is malformed (proto.ring.ChainError)"),
        Field("writable", U32, "bytes that may be written"),
        Field("data", Bytes(MAX_DATA), "its readable bytes"),
    ),
    _row(
        6,
        "ANSWER",
        "device",
        "the request has been carried out",
        *_KEY,
        Field("data", Bytes(MAX_DATA), "its writable bytes, from the first; their number is the used length"),
        Field("failed", BOOL),
        Field("bytes_read", U32, "for the statistics"),
        Field("bytes_written", U32),
    ),
    _row(
        7, "RESET", "relay", "the driver has reset the device; what comes now is of the next life", Field("life", U64)
    ),
    _row(8, "FEATURES", "relay", "the driver has accepted these", Field("features", U64)),
    _row(
        9,
        "CONFIG_SET",
        "relay",
        "the driver wrote the configuration space; answered by CONFIG",
        Field("number", U32, "not 0"),
        Field("offset", U32),
        Field("data", Bytes(MAX_CONFIG)),
    ),
    _row(10, "CONFIG", "device", "it is so now; number 0: the device changed it", Field("number", U32), *_CONFIG),
    _row(11, "PING", "relay", "are you there?"),
    _row(12, "PONG", "device", "answers PING"),
    _row(13, "REFUSED", "device", "answers HELLO: not now, and why", Field("text", Text(MAX_TEXT))),
    _row(14, "LOG", "device", "for the device's log", Field("level", U8), Field("text", Text(MAX_TEXT))),
)

MESSAGES: dict[str, Row] = {row.name: row for row in _TABLE}
_BY_NUMBER: dict[int, Row] = {row.number: row for row in _TABLE}
_LIMITS: dict[str, Any] = {
    "max_str_len": MAX_TEXT * 4,
    "max_bin_len": MAX_DATA,
    "max_array_len": MAX_WRITES,
    "max_map_len": 16,
    "max_ext_len": 0,
}


class Said(NamedTuple):
    """One message, checked against the table."""

    name: str
    body: dict[str, Any]
    session: int


def encode(name: str, body: Mapping[str, Any] | None = None, *, session: int = 0) -> bytes:
    """The bytes of one message. Raises ProtocolError when `body` is not what the table says."""
    row = MESSAGES.get(name)
    if row is None:
        raise ProtocolError(f"there is no message {name!r}", field="type")
    content = dict(body or {})
    row.body.check(content, name)
    packed: bytes = msgpack.packb(content)
    return HEADER.pack(MAGIC, VERSION, row.number, session, len(packed), 0) + packed


def decode(data: bytes, sender: str) -> Said:
    """One message of `sender` ("relay" or "device") from its bytes. Raises ProtocolError."""
    if not HEADER_SIZE <= len(data) <= MAX_MESSAGE:
        raise ProtocolError(f"{len(data)} bytes are no message", field="header")
    magic, version, number, session, length, spare = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"magic {magic!r} instead of {MAGIC!r}", field="magic")
    if version != VERSION:
        raise ProtocolError(f"version {version}, this side speaks {VERSION}", field="version", value=version)
    row = _BY_NUMBER.get(number)
    if row is None:
        raise ProtocolError(f"there is no message type {number}", field="type", value=number)
    if row.sender != sender:
        raise ProtocolError(f"{row.name} is not the {sender}'s to send", field="type")
    if spare or length != len(data) - HEADER_SIZE:
        raise ProtocolError(f"{row.name}: length {length}, {len(data) - HEADER_SIZE} bytes follow", field="length")
    try:
        body = msgpack.unpackb(memoryview(data)[HEADER_SIZE:], object_pairs_hook=_map, **_LIMITS)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises a family of its own, ValueError and RecursionError
        raise ProtocolError(f"{row.name}: the body is not msgpack: {error}", field="body") from error
    row.body.check(body, row.name)
    return Said(row.name, body, session)


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ProtocolError("a field occurs twice", field="body")
    return content
