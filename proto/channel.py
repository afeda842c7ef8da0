"""A channel: the SEQPACKET socket between the keeper and one process it started.

One packet is one message: a kind, a body of plain values (msgpack), and any number of named descriptors beside it.
The child finds its end at the descriptor named in the environment variable BULKHEAD_CHANNEL. End-of-file means that
the other process is gone. Packets arrive whole and in order; a packet larger than MAX_PACKET is refused by the
sender.

This carries supervision (START, READY, STATE, STOP, LOG); what core and device say to each other travels over ZeroMQ
and is described in `proto.messages`.
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from proto.errors import ChannelClosed, ConfigError, DeadlineMissed, ProtocolError

__all__ = ["DEBUGGED", "ENVIRONMENT", "MAX_DESCRIPTORS", "MAX_PACKET", "Channel", "Packet"]

ENVIRONMENT = "BULKHEAD_CHANNEL"
DEBUGGED = "BULKHEAD_DEBUGGED"  # in the environment of a process that runs in somebody's terminal, under a debugger
MAX_PACKET = 128 * 1024
MAX_DESCRIPTORS = 64  # Linux passes at most 253 (SCM_MAX_FD)
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)


@dataclass
class Packet:
    """One received message. The receiver owns the descriptors in `fds` and closes them."""

    kind: str
    body: dict[str, Any]
    fds: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Close every descriptor that nobody has taken out of `fds`."""
        while self.fds:
            os.close(self.fds.popitem()[1])


class Channel:
    """One end. Not thread-safe for receiving; `send` may be called by several threads (one packet is one system
    call)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent = 0
        self.received = 0

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends, neither inheritable."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_PACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def from_environment(cls) -> Channel:
        """The end a child was started with. Raises ConfigError when it was not started by a keeper."""
        text = os.environ.get(ENVIRONMENT, "")
        try:
            sock = socket.socket(fileno=int(text))
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{ENVIRONMENT}={text!r} names no channel",
                hint="This program is started by the keeper; run `bulkhead run` instead.",
            ) from error
        sock.set_inheritable(False)
        return cls(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, kind: str, body: Mapping[str, Any] | None = None, fds: Mapping[str, int] | None = None) -> None:
        """Send one packet. `fds` maps names to descriptors, which stay the caller's.

        Raises ChannelClosed when the other end is gone, ProtocolError when the packet is too large. Blocks when the
        other end does not read (a socket buffer of packets is allowed to pile up).
        """
        named = dict(fds or {})
        data = msgpack.packb([kind, dict(body or {}), list(named)])
        if len(data) > MAX_PACKET or len(named) > MAX_DESCRIPTORS:
            raise ProtocolError(f"packet {kind} is too large: {len(data)} bytes, {len(named)} descriptors", field=kind)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", named.values()))] if named else []
        try:
            self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
            raise ChannelClosed(f"cannot send {kind}: the other end is gone") from error
        self.sent += 1

    def recv(self, timeout: float | None = None) -> Packet:
        """The next packet, waiting at most `timeout` seconds (None: for ever; 0: not at all).

        Raises ChannelClosed at end-of-file, DeadlineMissed when nothing came, ProtocolError for a malformed packet.
        """
        if timeout is not None and not self._readable(timeout):
            raise DeadlineMissed(f"no packet within {timeout} s")
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise ChannelClosed("the other end is gone") from error
        descriptors = _descriptors(ancillary)
        try:
            if not data:
                raise ChannelClosed("the other end is gone")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError("packet is too large or carries too many descriptors")
            packet = _decode(data, descriptors)
        except Exception:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        self.received += 1
        return packet

    def told_to_stop(self) -> bool:
        """Take a packet, if one is there: True when it is STOP, or the other process is gone."""
        try:
            packet = self.recv(0)
        except DeadlineMissed:
            return False
        except ChannelClosed:
            return True
        packet.close()
        return packet.kind == "STOP"

    def close(self) -> None:
        self._sock.close()

    def detach(self) -> int:
        """Give up the descriptor without closing it."""
        return self._sock.detach()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _decode(data: bytes, descriptors: list[int]) -> Packet:
    try:
        kind, body, names = msgpack.unpackb(data)
    except Exception as error:  # msgpack raises a family of its own and ValueError
        raise ProtocolError(f"malformed packet: {error}") from error
    if not isinstance(kind, str) or not isinstance(body, dict) or not isinstance(names, list):
        raise ProtocolError("malformed packet: expected [kind, body, descriptor names]")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ProtocolError(f"packet {kind}: descriptor names {names!r}", field="fds")
    if len(names) != len(descriptors):
        raise ProtocolError(f"packet {kind} names {len(names)} descriptors and carries {len(descriptors)}", field="fds")
    return Packet(kind, body, dict(zip(names, descriptors, strict=True)))
