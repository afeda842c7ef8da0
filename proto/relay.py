"""What a relay and the device behind it say to each other: one table of messages, and their encoding.

A relay stands beside the core and has the guest's memory; the device behind it, in another process or on another host,
has none and sees the bytes of its own requests alone. A message is a ZeroMQ frame: a fixed header of 24 bytes,
little-endian, and a msgpack map with exactly the fields below. Two of them, REQUESTS and ANSWERS, have a second frame,
of `RequestRecord`s or `AnswerRecord`s, each followed by its bytes and padded to 8: those are read by machine code.

    offset  size  field
    0       4     magic    "BKRL"
    4       2     version  2
    6       2     type     a number of `MESSAGES`
    8       8     session  a number that the relay draws for each connection; 0 before there is one
    16      4     length   of the body
    20      4     0

Nothing is acknowledged by itself. What the relay has not had an answer to is sent again in the next session, with
AGAIN. The device keeps what it answered lately, and then says it again; one that died meanwhile carries the request out
once more. It is answered to the guest exactly once. It is named by its queue, its head and its counter (the number of
its pop, kept in the in-flight table), within a *life*, which is the time between two resets by the driver.

Decoding is strict and bounded, whoever sent it: ProtocolError names the first field that is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

import msgpack

from native import Record, u16, u32, u64
from proto.errors import ProtocolError
from proto.messages import MAX_CONFIG, MAX_TEXT, QUEUE, U8, U16, U32, U64, Bytes, Field, Sequence, Structure, Text
from proto.pages import MAX_QUEUES

__all__ = [
    "HEADER_SIZE",
    "MAX_DATA",
    "MAX_LOAD",
    "MAX_MESSAGE",
    "MAX_WRITES",
    "MESSAGES",
    "TARGET",
    "VERSION",
    "AnswerFlag",
    "AnswerRecord",
    "RequestFlag",
    "RequestRecord",
    "Row",
    "Said",
    "decode",
    "encode",
]

MAGIC = b"BKRL"
VERSION = 2
HEADER = struct.Struct("<4sHHQII")
HEADER_SIZE = HEADER.size
MAX_DATA = 4 << 20  # bytes of a request that travel one way; the relay fails what is longer
MAX_WRITES = 64  # of the configuration space since the driver's reset
MAX_MESSAGE = HEADER_SIZE + (1 << 16)
TARGET = 1 << 18  # bytes of a second frame to which nothing more is added
MAX_LOAD = TARGET + MAX_DATA + 4096  # bytes of a second frame


class RequestFlag(IntFlag):
    """Of a `RequestRecord`."""

    AGAIN = 1  # it may have been carried out before


class AnswerFlag(IntFlag):
    """Of an `AnswerRecord`."""

    MORE = 1  # it is to become visible to the driver together with the queue's next


class RequestRecord(Record):
    """A request; then its readable bytes, padded to 8."""

    counter: u64  # of its pop
    readable: u32
    writable: u32  # bytes that may be written
    head: u16
    queue: u16
    flags: u16
    error: u16  # not 0: the chain is malformed (proto.ring.ChainError)


class AnswerRecord(Record):
    """An answer; then the writable bytes from the first, padded to 8; their number is the used length."""

    counter: u64
    written: u32
    status: u32  # in the device's own words; 0: it was carried out
    head: u16
    queue: u16
    flags: u16
    spare: u16


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table."""

    number: int
    name: str
    sender: str  # "relay" or "device"
    body: Structure
    meaning: str
    loaded: bool = False  # it has a second frame


def _row(number: int, name: str, sender: str, meaning: str, *fields: Field) -> Row:
    return Row(number, name, sender, Structure(name, fields), meaning)


def _load(number: int, name: str, sender: str, meaning: str, *fields: Field) -> Row:
    life = Field("life", U64, "it is of")
    return Row(number, name, sender, Structure(name, (life, *fields)), meaning, loaded=True)


_WRITE = Structure("write", (Field("offset", U32), Field("data", Bytes(MAX_CONFIG))))
_MOVED = Structure("moved", (Field("queue", QUEUE), Field("read", U64), Field("written", U64)))
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
        Field("bytes", U32, "at most so many of each queue may be in flight, both ways together, or one request"),
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
    _row(
        4,
        "READY",
        "device",
        "answers HELLO, once what belongs to another life has been finished",
        Field(
            "process",
            U64,
            "a number that each process of the device draws: another one has forgotten what was in flight",
        ),
        *_CONFIG,
    ),
    _load(5, "REQUESTS", "relay", "carry these out; those that are in flight here already are nothing new"),
    _load(
        6,
        "ANSWERS",
        "device",
        "these have been carried out",
        Field("moved", Sequence(_MOVED, MAX_QUEUES), "since the message before, for the statistics"),
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
    _row(
        10,
        "CONFIG",
        "device",
        "it is so now; number 0: it changed by itself, and the driver is told if the generation did",
        Field("number", U32),
        *_CONFIG,
    ),
    _row(11, "PING", "relay", "are you there?"),
    _row(12, "PONG", "device", "answers PING"),
    _row(13, "REFUSED", "device", "answers HELLO: not now, and why", Field("text", Text(MAX_TEXT))),
    _row(14, "LOG", "device", "for the device's log", Field("level", U8), Field("text", Text(MAX_TEXT))),
    _row(15, "BYE", "device", "its process ends because it was told to: nothing in flight is to blame"),
)

MESSAGES: dict[str, Row] = {row.name: row for row in _TABLE}
_BY_NUMBER: dict[int, Row] = {row.number: row for row in _TABLE}
_LIMITS: dict[str, Any] = {
    "max_str_len": MAX_TEXT * 4,
    "max_bin_len": MAX_CONFIG,
    "max_array_len": MAX_WRITES,
    "max_map_len": 16,
    "max_ext_len": 0,
}


class Said(NamedTuple):
    """One message, checked against the table."""

    name: str
    body: dict[str, Any]
    session: int
    load: bytes | memoryview = b""  # the second frame


def encode(name: str, body: Mapping[str, Any] | None = None, *, session: int = 0) -> bytes:
    """The bytes of one message. Raises ProtocolError when `body` is not what the table says."""
    row = MESSAGES.get(name)
    if row is None:
        raise ProtocolError(f"there is no message {name!r}", field="type")
    content = dict(body or {})
    row.body.check(content, name)
    packed: bytes = msgpack.packb(content)
    return HEADER.pack(MAGIC, VERSION, row.number, session, len(packed), 0) + packed


def decode(data: bytes, sender: str, load: bytes | memoryview | None = None) -> Said:
    """One message of `sender` ("relay" or "device") from its frames. What is in the second is not looked at. Raises
    ProtocolError."""
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
    if row.loaded is not (load is not None) or len(load or b"") > MAX_LOAD:
        raise ProtocolError(f"{row.name}: a second frame of {len(load or b'')} bytes", field="load")
    return Said(row.name, body, session, load or b"")


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ProtocolError("a field occurs twice", field="body")
    return content
