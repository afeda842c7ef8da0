"""Requests of a v86fs guest: taken apart, given to the adapter, and answered when it replies, in whatever order.

A message that is none (shorter than its header, of an unknown type, of another length than it says) is answered with
type 0xff where there is room, and with an empty buffer where there is not, and is a line in the log; nothing of it is
carried out. Nor is a request whose buffer has no room for the shortest response.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from devproc.fs.intents import Intents
from devproc.fs.v86fs.messages import (
    HEADER,
    READ_AT,
    REQUESTS,
    WRITE_AT,
    Listed,
    Type,
    decode,
    encode_error,
    encode_response,
    listed_size,
)
from devproc.request import Request
from proto.errors import BackendError

__all__ = ["Session"]

MESSAGE_MAX = 1 << 18  # bytes of a request without WRITE's data; four names of 64 KiB are the most there can be
SHORTEST = {kind: len(encode_response(kind, 0, errno.EIO)) for kind in REQUESTS}
TAPPED = frozenset({Type.MOUNT, Type.OPEN, Type.CLOSE, Type.READ})  # told to the log's lowest level
DEBUG, WARNING = 10, 30

# Requests that must not be carried out twice: their responses are kept.
ONCE = frozenset({Type.CREATE, Type.MKDIR, Type.SYMLINK, Type.UNLINK, Type.RENAME, Type.OPEN, Type.CLOSE})


class Reply:
    """The one answer to a request."""

    def __init__(self, request: Request, kind: int, tag: int) -> None:
        self.again = request.again
        self.response: bytes | None = None  # once it is there
        self._request = request
        self._kind = kind
        self._tag = tag

    def __call__(self, status: int, *fields: Any) -> None:
        """Raises RuntimeError for a second answer."""
        if self.response is not None:
            raise RuntimeError(f"{Type(self._kind).name} was answered twice")
        request, kind, data = self._request, self._kind, 0
        if not status and kind == Type.READ:
            data = int(fields[0])
            request.written = READ_AT + data
        if not status and kind == Type.READDIR:
            fields = (_fitting(fields[0], request.writable - READ_AT),)
        response = encode_response(kind, self._tag, status, fields, data)
        if len(response) > request.writable:
            response = encode_response(kind, self._tag, errno.ERANGE)
        self.give(response)

    def give(self, response: bytes) -> None:
        """The whole response, but for READ's data, which is there."""
        self.response = response
        self._request.write_at(0, response)
        if self._request.deferred:
            self._request.finish()


class Session:
    """The requests of both queues. `adapters` are asked in turn who has a method for a request."""

    def __init__(self, adapters: Iterable[Any], intents: Intents, log: Callable[[str, int], None]) -> None:
        self._methods = {kind: _method(adapters, kind.name.lower()) for kind in REQUESTS}
        self._intents = intents
        self._log = log

    def handle(self, request: Request) -> None:
        """Answer one request, or defer it until its reply is there."""
        head = request.read(HEADER.size)
        size, kind, tag = HEADER.unpack(head) if len(head) == HEADER.size else (0, -1, 0)
        try:
            fields, message = _take(request, size, kind)
        except ValueError as error:
            self._refuse(request, tag, error)
            return
        reply = Reply(request, kind, tag)
        if kind in TAPPED:
            self._log(f"{Type(kind).name.lower()} {fields}", DEBUG)
        if kind not in ONCE:
            self._ask(reply, kind, fields)
        elif (known := self._intents.begin(request, head + message)) is not None:
            reply.give(known)
        else:
            with self._intents.together():
                self._ask(reply, kind, fields)
                if reply.response is not None:
                    self._intents.finish(reply.response)
        if reply.response is None:
            request.defer()

    def _ask(self, reply: Reply, kind: int, fields: list[Any]) -> None:
        try:
            self._methods[Type(kind)](reply, *fields)
        except OSError as error:
            reply(error.errno or errno.EIO)
        except BackendError:
            reply(errno.ENFILE)
        except (ValueError, OverflowError):  # a number or text that the host's calls cannot even be given
            reply(errno.EINVAL)

    def _refuse(self, request: Request, tag: int, error: ValueError) -> None:
        self._log(f"queue {request.queue} head {request.head}: not a request: {error}", WARNING)
        response = encode_error(tag, errno.EINVAL)
        if request.writable >= len(response):
            request.write_at(0, response)


def _take(request: Request, size: int, kind: int) -> tuple[list[Any], bytes]:
    """The fields of a request, with buffers for its data, and the bytes they came from. Raises ValueError."""
    if kind < 0:
        raise ValueError("shorter than a header")
    if kind not in REQUESTS:
        raise ValueError(f"there is no type {kind:#x}")
    if size != request.readable:
        raise ValueError(f"it says {size} bytes, and has {request.readable}")
    if request.writable < SHORTEST[Type(kind)]:
        raise ValueError(f"{request.writable} bytes are no room for the response")
    if kind != Type.WRITE and size > MESSAGE_MAX:
        raise ValueError(f"{size} bytes are too many")
    message = request.read(WRITE_AT - HEADER.size if kind == Type.WRITE else -1)
    fields = decode(kind, message)
    if kind == Type.WRITE:
        if fields[2] != size - WRITE_AT:
            raise ValueError(f"it says {fields[2]} bytes of data, and has {size - WRITE_AT}")
        fields.append(request.views_readable(WRITE_AT, fields[2]))
    elif kind == Type.READ:
        fields[2] = min(fields[2], request.writable - READ_AT)
        fields.append(request.views(READ_AT, fields[2]))
    return fields, message


def _method(adapters: Iterable[Any], name: str) -> Callable[..., None]:
    found: Callable[..., None] = next(getattr(adapter, name) for adapter in adapters if hasattr(adapter, name))
    return found


def _fitting(entries: Iterable[Listed], room: int) -> list[Listed]:
    """The first entries, as many as fit whole."""
    fitting = []
    for entry in entries:
        room -= listed_size(entry)
        if room < 0:
            break
        fitting.append(entry)
    return fitting
