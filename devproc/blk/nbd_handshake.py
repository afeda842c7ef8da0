"""How a connection to an NBD server begins: fixed newstyle negotiation, encrypted from STARTTLS on if that is wanted.

What comes before encryption is nothing but the wish for it. A server that has none is refused, never used without.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from devproc.blk.nbd_replies import OPT_STRUCTURED, Stream, receive
from proto.errors import BackendError

__all__ = ["Offer", "negotiate"]

_NBDMAGIC, _IHAVEOPT, _REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_EXPORT_NAME, _OPT_STARTTLS, _OPT_GO = 1, 5, 7
_REP_ACK, _REP_INFO, _REP_ERR_UNSUP, _REP_ERR = 1, 3, 0x80000001, 0x80000000
_REFUSALS = {0x80000002: "forbids it", 0x80000005: "wants TLS", 0x80000006: "has no such export"}
_HINTS = {0x80000005: "Use nbds: or nbds+unix:, with certificates=DIR if it has an authority of its own."}
EPROTO, ECONNRESET, ECONNREFUSED = 71, 104, 111


@dataclass(frozen=True)
class Offer:
    """What was negotiated."""

    stream: Stream
    size: int  # bytes of the export
    flags: int  # transmission flags
    structured: bool  # replies may be


def negotiate(sock: socket.socket, name: str, encrypt: Callable[[socket.socket], Stream] | None) -> Offer:
    """Ask for an export. Raises OSError, BackendError; the socket is closed then."""
    try:
        magic, option_magic, flags = struct.unpack(">QQH", receive(sock, 18))
        if magic != _NBDMAGIC or option_magic != _IHAVEOPT or not flags & _FIXED_NEWSTYLE:
            raise BackendError("this is no NBD server of the fixed newstyle", errno=EPROTO)
        zeroes = flags & _NO_ZEROES
        sock.sendall(struct.pack(">I", _FIXED_NEWSTYLE | zeroes))
        if encrypt is None:
            return _ask(sock, name, bool(zeroes))
        _start_tls(sock)
        stream = encrypt(sock)
        try:
            return _ask(stream, name, bool(zeroes))
        except OSError as error:
            # In TLS 1.3 the client is done before the server has looked at who it is.
            reason = getattr(error, "reason", None) or error.strerror or error
            raise ConnectionResetError(ECONNRESET, f"{reason}, once it was encrypted") from error
    except BaseException:
        sock.close()
        raise


def _start_tls(sock: Stream) -> None:
    _option(sock, _OPT_STARTTLS, b"")
    kind, data = _option_reply(sock)
    if kind == _REP_ACK and not data:
        return
    raise BackendError(
        "the server has no encryption", hint="Start it with TLS, or use nbd: or nbd+unix:.", errno=EPROTO
    )


def _ask(sock: Stream, name: str, zeroes: bool) -> Offer:
    word = name.encode()
    _option(sock, OPT_STRUCTURED, b"")
    structured = _option_reply(sock)[0] == _REP_ACK
    _option(sock, _OPT_GO, struct.pack(">I", len(word)) + word + bytes(2))
    found = _go(sock)
    if found is None:  # an old server
        _option(sock, _OPT_EXPORT_NAME, word)
        found = struct.unpack(">QH", receive(sock, 10 if zeroes else 134)[:10])
    return Offer(sock, found[0], found[1], structured)


def _option(sock: Stream, option: int, data: bytes) -> None:
    sock.sendall(struct.pack(">QII", _IHAVEOPT, option, len(data)) + data)


def _option_reply(sock: Stream) -> tuple[int, bytes]:
    """One reply to an option: its type and its data."""
    magic, _, kind, size = struct.unpack(">QIII", receive(sock, 20))
    if magic != _REPLY_MAGIC or size > 1 << 16:
        raise BackendError("the server does not keep to the NBD protocol", errno=EPROTO)
    return kind, receive(sock, size)


def _go(sock: Stream) -> tuple[int, int] | None:
    """The replies to NBD_OPT_GO. None: the server does not know it."""
    found: tuple[int, int] | None = None
    while True:
        kind, data = _option_reply(sock)
        if kind == _REP_ACK:
            if found is None:
                raise BackendError("the server did not say how large the export is", errno=EPROTO)
            return found
        if kind == _REP_ERR_UNSUP:
            return None
        if kind & _REP_ERR:
            said = data.decode(errors="replace")
            text = f"the server {_REFUSALS.get(kind, f'refuses: {kind:#x}')} {said}".rstrip()
            raise BackendError(text, hint=_HINTS.get(kind, ""), errno=ECONNREFUSED)
        if kind == _REP_INFO and len(data) == 12 and data[:2] == b"\0\0":
            found = struct.unpack(">QH", data[2:])
