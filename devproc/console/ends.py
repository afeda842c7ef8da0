"""The host's end of a port: what its bytes come from and go to. Descriptors are the keeper's; nothing here blocks.

stdio    one end of a socket pair, whose other end is the command that started the machine
pty      a pseudo-terminal's master; the keeper holds the slave open, so that it never hangs up
socket   a listening socket, and the client that was accepted, one at a time
file     written at a position; another, or none, read at one
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from devproc.console.note import Note
from proto.errors import ConfigError

__all__ = ["End", "FileEnd", "SocketEnd", "StreamEnd", "make_end"]


class End:
    """One port's. `fd` is what to wait at for bytes and for room, -1 when there is nobody; `listener` where to wait for
    somebody then."""

    fd = -1
    listener = -1

    def read(self, note: Note, size: int) -> bytes:
        """Bytes that came. b"": there will be none. Raises BlockingIOError when there are none now."""
        raise NotImplementedError

    def write(self, note: Note, views: Sequence[memoryview]) -> int:
        """Write some of them. Raises BlockingIOError when there is no room, OSError."""
        return os.writev(self.fd, list(views))

    def stored(self, note: Note, written: int) -> None:
        """So much of what the last `write` took is counted now."""


class StreamEnd(End):
    """One descriptor for both directions: stdio, a pseudo-terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def read(self, note: Note, size: int) -> bytes:
        return os.read(self.fd, size)


class SocketEnd(StreamEnd):
    """A listening socket, and whoever has come."""

    def __init__(self, listener: int, client: int) -> None:
        os.set_blocking(listener, False)
        self.listener = listener
        self._listening = socket.socket(fileno=os.dup(listener))
        if client >= 0:
            super().__init__(client)

    def accept(self) -> bool:
        """Take the next client, if one is there."""
        try:
            client, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        client.setblocking(False)
        self.fd = client.detach()
        return True

    def hang_up(self) -> None:
        """The client is gone."""
        os.close(self.fd)
        self.fd = -1

    def is_closed(self) -> bool:
        """Has the client closed its side, with nothing left to read?"""
        with socket.socket(fileno=os.dup(self.fd)) as client, contextlib.suppress(BlockingIOError):
            return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False


class FileEnd(End):
    """A file that is written, and one that is read. Positions are noted, so a write that is done again writes the same
    bytes at the same place."""

    def __init__(self, output: int, input: int) -> None:
        self.fd = output
        self._input = input
        self._positioned = stat.S_ISREG(os.fstat(output).st_mode)

    def read(self, note: Note, size: int) -> bytes:
        if self._input < 0:
            return b""
        data = os.pread(self._input, size, note.read_at)
        note.read_at += len(data)
        return data

    def write(self, note: Note, views: Sequence[memoryview]) -> int:
        if not self._positioned:
            return super().write(note, views)
        return os.pwritev(self.fd, list(views), note.written_at)

    def stored(self, note: Note, written: int) -> None:
        note.written_at += written


def make_end(kind: str, number: int, descriptors: Mapping[str, int]) -> End:
    """The end of port `number`, of the descriptors that the device was lent. Raises ConfigError when they are not
    there."""
    name = f"port{number}"
    if name not in descriptors:
        raise ConfigError(f"port {number} was given no descriptor", hint="Ports are opened when the machine starts.")
    if kind == "socket":
        return SocketEnd(descriptors[name], descriptors.get(f"{name}.client", -1))
    if kind == "file":
        return FileEnd(descriptors[name], descriptors.get(f"{name}.input", -1))
    return StreamEnd(descriptors[name])
