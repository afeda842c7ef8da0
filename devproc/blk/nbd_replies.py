"""What an NBD server answers to requests: simple replies, and structured ones, which come in pieces.

A structured reply says of each piece of a read where it belongs, or that there are only zeroes, and may report an error
in its middle without breaking the connection. What a server sends is checked against what was asked: nothing is written
outside a request's own bytes, and a read that was not filled whole is an error.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["OPT_STRUCTURED", "Pending", "Stream", "answered", "receive"]

OPT_STRUCTURED = 8
SIMPLE, STRUCTURED = 0x67446698, 0x668E33EF
NONE, DATA, HOLE, ERROR, ERROR_OFFSET = 0, 1, 2, 0x8001, 0x8002
DONE = 1  # flag of a piece: the last one
PIECE_MAX = (4 << 20) + 8  # bytes: as much as is asked for at once, and its offset
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERRORS = (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN)  # those that the protocol has
_SIMPLE, _PIECE = struct.Struct(">IQ"), struct.Struct(">HHQI")


class Stream(Protocol):
    """A socket, or what is like one."""

    def recv_into(self, view: memoryview, /) -> int: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


@dataclass
class Pending:
    """A request on its way."""

    offset: int
    size: int  # bytes that a successful reply carries
    done: threading.Event = field(default_factory=threading.Event)
    data: bytes | bytearray = b""
    filled: int = 0  # bytes of a structured reply that came
    error: int = 0
    lost: bool = False


def answered(sock: Stream, find: Callable[[int], Pending | None], structured: bool) -> int | None:
    """Read one reply, or one piece of one, into the request that `find` gives for its cookie. Returns the cookie of a
    request that is complete, 0 for none yet, None when the server does not keep to the protocol. Raises OSError."""
    (magic,) = struct.unpack(">I", receive(sock, 4))
    if magic == SIMPLE:
        error, cookie = _SIMPLE.unpack(receive(sock, _SIMPLE.size))
        pending = find(cookie)
        if pending is None:
            return None
        pending.error = _known(error)
        if not error and pending.size:
            pending.data = receive(sock, pending.size)
        return int(cookie)
    if magic != STRUCTURED or not structured:
        return None
    flags, kind, cookie, size = _PIECE.unpack(receive(sock, _PIECE.size))
    pending = find(cookie)
    if pending is None or size > PIECE_MAX or not _take(sock, pending, kind, size):
        return None
    if not flags & DONE:
        return 0
    if not pending.error and pending.filled != pending.size:
        pending.error = EIO
    return int(cookie)


def _take(sock: Stream, pending: Pending, kind: int, size: int) -> bool:
    """One piece. False when it is none, or does not belong to the request."""
    if kind == NONE:
        return size == 0
    content = receive(sock, size)
    if kind >> 15:
        pending.error = pending.error or (_known(int.from_bytes(content[:4], "big")) or EIO)
        return size >= 6
    if kind == HOLE and size == 12:
        at, length = struct.unpack(">QI", content)
        return _place(pending, at, b"", length)
    if kind == DATA and size > 8:
        return _place(pending, int.from_bytes(content[:8], "big"), content[8:], size - 8)
    return False


def _place(pending: Pending, at: int, data: bytes, length: int) -> bool:
    start = at - pending.offset
    if start < 0 or length == 0 or pending.filled + length > pending.size or start + length > pending.size:
        return False
    if not pending.filled:
        pending.data = bytearray(pending.size)
    if data:
        assert isinstance(pending.data, bytearray)
        pending.data[start : start + length] = data
    pending.filled += length
    return True


def _known(error: int) -> int:
    """An error as the protocol has it: anything else is EIO."""
    return error if error == 0 or error in ERRORS else EIO


def receive(sock: Stream, size: int) -> bytes:
    """Exactly so many bytes. Raises OSError, also at the end of the connection."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = sock.recv_into(view[done:])
        if not count:
            raise ConnectionResetError(104, "the server closed the connection")
        done += count
    return bytes(data)
