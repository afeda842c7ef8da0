"""What core and device say to each other: one table of messages, and their encoding.

A message is one ZeroMQ frame: a fixed header of 40 bytes, little-endian, and a msgpack map.

    offset  size  field
    0       4     magic        "BKHD"
    4       2     version      1
    6       2     type         a number of `MESSAGES`
    8       2     flags        1 reply, 2 error (only with reply)
    10      2     reserved     0
    12      4     epoch        of the device process; the receiver drops messages of another epoch
    16      8     seq          the sender counts up from 1; a reply repeats its request's
    24      8     correlation  one id from the guest's notification to its interrupt; 0 is none
    32      4     length       of the body
    36      4     checksum     crc32 of the 36 bytes before it and the body: a garbled message is a lost one

Every message is declared below: number, name, who sends it, the fields of its body, the fields of its answer, and
whether asking twice is the same as asking once. A message without an answer is *posted*. An answer with the error
flag has the body of ERROR. Requests are answered once each, and those that are idempotent may be sent again after a
deadline.

Decoding is strict and bounded: a field too many, too few, of another type or out of range is a ProtocolError that
names it, whoever sent it. No message is ever the only place where the state of an I/O lives: ZeroMQ loses queued
messages when a peer is killed. Buffers are named by region and offset; no host address ever travels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from proto.errors import ProtocolError
from proto.pages import MAX_QUEUES

__all__ = [
    "HEADER_SIZE",
    "MAX_BODY",
    "MESSAGES",
    "VERSION",
    "Field",
    "Message",
    "MessageType",
    "decode",
    "encode",
    "message_fields",
    "seal",
]

MAGIC = b"BKHD"
VERSION = 1
HEADER = struct.Struct("<4sHHHHIQQI")
CHECKSUM = struct.Struct("<I")
HEADER_SIZE = HEADER.size + CHECKSUM.size
MAX_BODY = 1 << 20
MAX_CONFIG = 4096 - 0x100  # a virtio-mmio window is one page, configuration begins at 0x100
MAX_REGIONS = 64
MAX_TEXT = 4096
SMALL = 16  # bytes of a body that is worth remembering: receivers do not change what is inside

assert HEADER_SIZE == 40


FLAG_REPLY = 1
FLAG_ERROR = 2
_FLAGS = frozenset({0, FLAG_REPLY, FLAG_REPLY | FLAG_ERROR})


# Types of fields. Each checks one value, decoded or to be encoded, and says what it takes.


@dataclass(frozen=True)
class Integer:
    """An integer from 0 to `maximum`."""

    name: str
    maximum: int

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProtocolError(f"{path}: expected {self.name}, got {type(value).__name__}", field=path)
        if not 0 <= value <= self.maximum:
            raise ProtocolError(f"{path}: {value} is not in 0..{self.maximum}", field=path, value=value)


@dataclass(frozen=True)
class Boolean:
    """True or false."""

    name: str = "bool"

    def check(self, value: Any, path: str) -> None:
        if type(value) is not bool:
            raise ProtocolError(f"{path}: expected bool, got {type(value).__name__}", field=path)


@dataclass(frozen=True)
class Text:
    """UTF-8 of at most `maximum` characters."""

    maximum: int

    @property
    def name(self) -> str:
        return f"text({self.maximum})"

    def check(self, value: Any, path: str) -> None:
        if type(value) is not str:
            raise ProtocolError(f"{path}: expected text, got {type(value).__name__}", field=path)
        if len(value) > self.maximum:
            raise ProtocolError(f"{path}: {len(value)} characters, at most {self.maximum}", field=path)


@dataclass(frozen=True)
class Bytes:
    """At most `maximum` bytes."""

    maximum: int

    @property
    def name(self) -> str:
        return f"bytes({self.maximum})"

    def check(self, value: Any, path: str) -> None:
        if type(value) is not bytes:
            raise ProtocolError(f"{path}: expected bytes, got {type(value).__name__}", field=path)
        if len(value) > self.maximum:
            raise ProtocolError(f"{path}: {len(value)} bytes, at most {self.maximum}", field=path)


@dataclass(frozen=True)
class Sequence:
    """At most `maximum` items of one type."""

    item: FieldType
    maximum: int

    @property
    def name(self) -> str:
        return f"list({self.item.name}, {self.maximum})"

    def check(self, value: Any, path: str) -> None:
        if type(value) is not list:
            raise ProtocolError(f"{path}: expected a list, got {type(value).__name__}", field=path)
        if len(value) > self.maximum:
            raise ProtocolError(f"{path}: {len(value)} items, at most {self.maximum}", field=path)
        for index, item in enumerate(value):
            self.item.check(item, f"{path}[{index}]")


@dataclass(frozen=True)
class Structure:
    """A map with exactly these fields."""

    name: str
    fields: tuple[Field, ...]

    def check(self, value: Any, path: str) -> None:
        if type(value) is not dict:
            raise ProtocolError(f"{path}: expected a map, got {type(value).__name__}", field=path)
        for field in self.fields:
            if field.name in value:
                field.type.check(value[field.name], f"{path}.{field.name}")
            elif not field.optional:
                raise ProtocolError(f"{path}.{field.name} is missing", field=f"{path}.{field.name}")
        if len(value) > len(self.fields) or not value.keys() <= {field.name for field in self.fields}:
            surplus = sorted(map(str, value.keys() - {field.name for field in self.fields}))
            raise ProtocolError(f"{path}: unknown field {surplus[0]!r}", field=f"{path}.{surplus[0]}")


FieldType = Integer | Boolean | Text | Bytes | Sequence | Structure


@dataclass(frozen=True)
class Field:
    """One field of a body: its name, its type, whether it may be absent, and one sentence."""

    name: str
    type: FieldType
    meaning: str = ""
    optional: bool = False


@dataclass(frozen=True, eq=False)
class MessageType:
    """One row of the table. `answer` is None for posted messages."""

    number: int
    name: str
    sender: str  # "core" or "device"
    request: Structure
    answer: Structure | None
    idempotent: bool
    meaning: str

    @property
    def posted(self) -> bool:
        return self.answer is None


U8 = Integer("u8", 0xFF)
U16 = Integer("u16", 0xFFFF)
U32 = Integer("u32", 0xFFFFFFFF)
U64 = Integer("u64", 0xFFFFFFFFFFFFFFFF)
QUEUE = Integer("queue", MAX_QUEUES - 1)
BOOL = Boolean()
ADDRESS = Structure("address", (Field("region", U16), Field("offset", U64)))
REGION = Structure(
    "region",
    (
        Field("region", U16, "the number of the descriptor `region<N>` given at START"),
        Field("gpa", U64, "guest physical address of its first byte"),
        Field("size", U64, "bytes"),
        Field("writable", BOOL, "may the device write it?"),
    ),
)
ERROR = Structure(
    "error",
    (
        Field("code", Text(32), "a class name of proto.errors"),
        Field("text", Text(MAX_TEXT)),
        Field("hint", Text(MAX_TEXT), optional=True),
    ),
)
NOTHING: tuple[Field, ...] = ()
ACKNOWLEDGED = NOTHING
POSTED = None


def _message(
    number: int,
    name: str,
    sender: str,
    request: tuple[Field, ...],
    answer: tuple[Field, ...] | None,
    meaning: str,
    idempotent: bool = True,
) -> MessageType:
    reply = None if answer is None else Structure(name, answer)
    return MessageType(number, name, sender, Structure(name, request), reply, idempotent, meaning)


_TABLE = (
    _message(
        1,
        "HELLO",
        "device",
        (
            Field("id", Text(64), "the device's name, as in START"),
            Field("epoch", U32),
            Field("version", U16, "of this protocol"),
            Field("layout", U64, "proto.pages.layout_hash()"),
            Field("pid", U32, "for people; supervision never relies on it"),
            Field("device_id", U32, "virtio device type; 0: not virtio"),
            Field("queues", Sequence(U16, MAX_QUEUES), "the largest size of each queue"),
            Field("features", U64, "virtio feature bits offered"),
            Field("config", Bytes(MAX_CONFIG), "the configuration space"),
            Field("config_generation", U32),
            Field("mmio_size", U32, "bytes of registers of a device that is not virtio"),
        ),
        ACKNOWLEDGED,
        "the first message: who I am and what I offer",
    ),
    _message(2, "FEATURES", "core", NOTHING, (Field("features", U64),), "which features are offered?"),
    _message(
        3,
        "FEATURES_OK",
        "core",
        (Field("features", U64),),
        ACKNOWLEDGED,
        "the driver accepted these; refused if not offered",
    ),
    _message(
        4,
        "MEM_TABLE",
        "core",
        (Field("regions", Sequence(REGION, MAX_REGIONS)),),
        ACKNOWLEDGED,
        "guest memory; replaces the table before it",
    ),
    _message(
        5,
        "INFLIGHT",
        "core",
        (Field("queues", U16), Field("size", U16, "entries a queue")),
        ACKNOWLEDGED,
        "the geometry of the in-flight table given at START",
    ),
    _message(
        6,
        "RING_SETUP",
        "core",
        (
            Field("queue", QUEUE),
            Field("size", U16),
            Field("desc", ADDRESS),
            Field("avail", ADDRESS),
            Field("used", ADDRESS),
            Field("fresh", BOOL, "the driver set it up anew: forget what was in flight", optional=True),
            Field("base", U16, "next avail index; absent: from used ring and in-flight table", optional=True),
        ),
        ACKNOWLEDGED,
        "where a queue's rings are",
    ),
    _message(
        7,
        "RING_ENABLE",
        "core",
        (Field("queue", QUEUE), Field("enabled", BOOL)),
        ACKNOWLEDGED,
        "serve the queue, or stop serving it once nothing of it is in flight",
    ),
    _message(
        8,
        "GET_BASE",
        "core",
        (Field("queue", QUEUE),),
        (Field("base", U16, "the next avail index"),),
        "stop the queue; answered when nothing of it is in flight",
    ),
    _message(
        9, "CONFIG_GET", "core", NOTHING, (Field("config", Bytes(MAX_CONFIG)), Field("generation", U32)), "read it"
    ),
    _message(
        10,
        "CONFIG_SET",
        "core",
        (Field("offset", U32), Field("data", Bytes(MAX_CONFIG))),
        (Field("config", Bytes(MAX_CONFIG)), Field("generation", U32)),
        "the driver wrote the configuration space; the answer is what it is now",
    ),
    _message(
        11,
        "CONFIG_CHANGED",
        "device",
        (Field("config", Bytes(MAX_CONFIG)), Field("generation", U32)),
        ACKNOWLEDGED,
        "the device changed it; the driver gets a configuration interrupt. Sent again until it is answered",
    ),
    _message(
        12, "STATUS", "core", (Field("status", U8),), ACKNOWLEDGED, "the device status register; 0 is sent as RESET"
    ),
    _message(
        13, "RESET", "core", NOTHING, ACKNOWLEDGED, "answered when the device is quiet and has forgotten its rings"
    ),
    _message(
        14,
        "QUIESCE",
        "core",
        NOTHING,
        (Field("in_flight", U32, "requests that had to be left in the in-flight table"),),
        "take nothing more from the rings; answered when what was taken is finished",
    ),
    _message(15, "RESUME", "core", NOTHING, ACKNOWLEDGED, "go on after QUIESCE"),
    _message(
        16,
        "SAVE",
        "core",
        NOTHING,
        (Field("version", U16), Field("state", Bytes(MAX_BODY - 256))),
        "the device's own state; only while quiet",
    ),
    _message(
        17,
        "LOAD",
        "core",
        (Field("version", U16), Field("state", Bytes(MAX_BODY - 256))),
        ACKNOWLEDGED,
        "take over a state; only while quiet",
    ),
    _message(18, "KICK", "core", (Field("queue", QUEUE),), POSTED, "the driver made buffers available"),
    _message(
        19, "CALL", "device", (Field("queue", QUEUE),), POSTED, "look at this device's words: an interrupt is due"
    ),
    _message(
        20,
        "MMIO_READ",
        "core",
        (Field("offset", U32), Field("size", U8, "1, 2, 4 or 8"), Field("sequence", U64)),
        (Field("value", U64),),
        "read a register; at most once",
        idempotent=False,
    ),
    _message(
        21,
        "MMIO_WRITE",
        "core",
        (Field("offset", U32), Field("size", U8, "1, 2, 4 or 8"), Field("sequence", U64), Field("value", U64)),
        POSTED,
        "write a register; at most once, in order before later reads",
        idempotent=False,
    ),
    _message(
        22,
        "LOG",
        "device",
        (Field("level", U8, "as in Python's logging"), Field("text", Text(MAX_TEXT))),
        POSTED,
        "for the log",
    ),
    _message(
        23,
        "ERR",
        "device",
        (
            Field("text", Text(MAX_TEXT)),
            Field("queue", QUEUE, optional=True),
            Field("head", U16, optional=True),
            Field("needs_reset", BOOL, "set DEVICE_NEEDS_RESET"),
        ),
        ACKNOWLEDGED,
        "the driver broke a ring, or the device cannot go on. Sent again until it is answered",
    ),
    _message(
        24,
        "RELEASE",
        "core",
        NOTHING,
        ACKNOWLEDGED,
        "let go of what a successor needs for itself (locked images); only while quiet, undone by RESUME",
    ),
    _message(
        25,
        "TAKE_OVER",
        "core",
        NOTHING,
        ACKNOWLEDGED,
        "a candidate's predecessor is fenced: pages and rings are yours from now on",
    ),
)

MESSAGES: dict[str, MessageType] = {row.name: row for row in _TABLE}
_BY_NUMBER: dict[int, MessageType] = {row.number: row for row in _TABLE}
_LIMITS: dict[str, Any] = {
    "max_str_len": MAX_TEXT * 4,
    "max_bin_len": MAX_BODY,
    "max_array_len": MAX_REGIONS,
    "max_map_len": 32,
    "max_ext_len": 0,
}


class Message(NamedTuple):
    """One message, checked against the table."""

    name: str
    body: dict[str, Any]
    epoch: int
    seq: int
    correlation: int = 0
    reply: bool = False
    error: bool = False


def encode(
    name: str,
    body: Mapping[str, Any] | None = None,
    *,
    epoch: int,
    seq: int,
    correlation: int = 0,
    reply: bool = False,
    error: bool = False,
) -> bytes:
    """The bytes of one message. Raises ProtocolError when `body` is not what the table says."""
    kind = MESSAGES.get(name)
    if kind is None:
        raise ProtocolError(f"there is no message {name!r}", field="type")
    content = dict(body or {})
    _structure(kind, reply, error).check(content, name)
    packed: bytes = msgpack.packb(content)
    if len(packed) > MAX_BODY:
        raise ProtocolError(f"{name}: {len(packed)} bytes, at most {MAX_BODY}", field="length")
    flags = (FLAG_REPLY if reply else 0) | (FLAG_ERROR if error else 0)
    header = HEADER.pack(MAGIC, VERSION, kind.number, flags, 0, epoch, seq, correlation, len(packed))
    return seal(header, packed)


def seal(header: bytes, body: bytes) -> bytes:
    """A message of a header without its checksum, and a body."""
    return header + CHECKSUM.pack(zlib.crc32(body, zlib.crc32(header))) + body


def decode(data: bytes) -> Message:
    """One message from its bytes. Raises ProtocolError naming the first field that is wrong."""
    if len(data) < HEADER_SIZE:
        raise ProtocolError(f"{len(data)} bytes are no message; a header has {HEADER_SIZE}", field="header")
    magic, version, number, flags, reserved, epoch, seq, correlation, length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"magic {magic!r} instead of {MAGIC!r}", field="magic")
    if version != VERSION:
        raise ProtocolError(f"version {version}, this side speaks {VERSION}", field="version", value=version)
    kind = _BY_NUMBER.get(number)
    if kind is None:
        raise ProtocolError(f"there is no message type {number}", field="type", value=number)
    if CHECKSUM.unpack_from(data, HEADER.size)[0] != zlib.crc32(data[HEADER_SIZE:], zlib.crc32(data[: HEADER.size])):
        raise ProtocolError(f"{kind.name}: the checksum is another's: it was garbled", field="checksum")
    if reserved:
        raise ProtocolError(f"{kind.name}: reserved bits are set", field="reserved")
    if flags not in _FLAGS:
        raise ProtocolError(f"{kind.name}: flags {flags:#x}", field="flags", value=flags)
    if length != len(data) - HEADER_SIZE or length > MAX_BODY:
        raise ProtocolError(f"{kind.name}: length {length}, {len(data) - HEADER_SIZE} bytes follow", field="length")
    reply, error = flags & FLAG_REPLY != 0, flags & FLAG_ERROR != 0
    if length <= SMALL:
        body = _small_body(kind, reply, error, data[HEADER_SIZE:]).copy()
    else:
        body = _body(kind, reply, error, data[HEADER_SIZE:])
    return Message(kind.name, body, epoch, seq, correlation, reply, error)


def message_fields(data: bytes) -> tuple[int, int, int, int]:
    """Of a message's bytes, for the trace: type, seq, length with the epoch above its 32 bits, flags. Zeros when it has
    no whole header."""
    if len(data) < HEADER_SIZE:
        return 0, 0, len(data), 0
    _, _, number, flags, _, epoch, seq, _, _ = HEADER.unpack_from(data)
    return number, seq, len(data) | epoch << 32, flags


def _body(kind: MessageType, reply: bool, error: bool, data: bytes) -> dict[str, Any]:
    body: dict[str, Any] = _unpack(kind.name, data)
    _structure(kind, reply, error).check(body, kind.name)
    return body


_small_body = lru_cache(256)(_body)  # KICK, CALL and empty answers are the same few bodies over and over


def _structure(kind: MessageType, reply: bool, error: bool) -> Structure:
    if not reply:
        if error:
            raise ProtocolError(f"{kind.name}: a request cannot be an error", field="flags")
        return kind.request
    if kind.answer is None:
        raise ProtocolError(f"{kind.name} is never answered", field="flags")
    return ERROR if error else kind.answer


def _unpack(name: str, body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, object_pairs_hook=_map, **_LIMITS)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises a family of its own, ValueError and RecursionError
        raise ProtocolError(f"{name}: the body is not msgpack: {error}", field="body") from error


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ProtocolError("a field occurs twice", field="body")
    return content
