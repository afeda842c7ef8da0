"""The far end of the serial line: a descriptor from the client, a pseudo-terminal, a socket, a file, or nothing.

Bytes move only as fast as both sides take them. What the guest transmits stays in the UART's ring until the sink has
taken it, so that a slow sink slows the guest and loses nothing; what comes in is read only when the UART has room, so
that pasting a large text stops the sender and not the guest. A socket without a client and a pseudo-terminal without
a reader discard, as a serial line without a cable does; but the next client of a socket gets the last of what was said
before it came.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import tty
from collections.abc import Iterator
from typing import Protocol

from proto.errors import ConfigError

CHUNK = 4096  # bytes moved at a time
MISSED = 1 << 16  # bytes kept for a socket's next client


class SerialPort(Protocol):
    """What the console needs of a UART: the two rings seen from outside."""

    def take(self, limit: int) -> bytes:
        """Remove up to `limit` transmitted bytes, oldest first."""

    def give(self, data: bytes) -> int:
        """Offer received bytes; returns how many were accepted."""


class Console:
    """Pumps bytes between a UART and one descriptor pair; owned by the link thread, never blocks."""

    def __init__(self, port: SerialPort) -> None:
        self.port = port
        self.source = -1  # descriptor to read from, -1 when there is none now
        self.sink = -1  # descriptor to write to, -1 discards
        self.outgoing = b""  # taken from the UART, not yet taken by the sink
        self.incoming = b""  # read from the source, not yet taken by the UART
        self.location = ""  # what the user is told: the pty's name, the socket's path

    def interests(self) -> Iterator[tuple[int, int]]:
        """The descriptors to poll now, with their events."""
        if self.source >= 0 and not self.incoming:
            yield self.source, select.POLLIN
        if self.sink >= 0 and self.outgoing:
            yield self.sink, select.POLLOUT

    def ready(self, descriptor: int, events: int) -> None:
        """Called by the link thread when a descriptor of `interests` is ready."""
        if descriptor == self.source and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._read()
        if descriptor == self.sink and events & (select.POLLOUT | select.POLLHUP | select.POLLERR):
            self.transmit()

    def transmit(self) -> None:
        """Move what the guest has sent to the sink, as far as the sink takes it."""
        while True:
            if not self.outgoing:
                self.outgoing = self.port.take(CHUNK)
                if not self.outgoing:
                    return
            if self.sink < 0:
                self._discard(self.outgoing)
                self.outgoing = b""
                continue
            try:
                written = os.write(self.sink, self.outgoing)
            except BlockingIOError:
                return
            except OSError as error:
                self._gone(error)
                continue
            self.outgoing = self.outgoing[written:]

    def receive(self) -> None:
        """Give the UART what it had no room for; called when room appeared."""
        if self.incoming:
            self.incoming = self.incoming[self.port.give(self.incoming) :]

    def close(self) -> None:
        """Write out what is left, within reason, and close."""
        if self.sink >= 0:
            deadline = 50
            self.transmit()
            while self.outgoing and deadline:
                select.select([], [self.sink], [], 0.02)
                self.transmit()
                deadline -= 1
        self._close()

    def _read(self) -> None:
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error)
            return
        if not data:
            self._gone(None)
            return
        self.incoming = data
        self.receive()

    def _discard(self, data: bytes) -> None:
        """Nobody is there to take it."""

    def _gone(self, error: OSError | None) -> None:
        """The other side closed: nothing more comes in, and what goes out is discarded."""
        self._close()

    def _close(self) -> None:
        for descriptor in {self.source, self.sink}:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self.source = self.sink = -1


class DescriptorConsole(Console):
    """A stream that the keeper handed over: the client's socket, or one end of a pipe."""

    def __init__(self, port: SerialPort, descriptor: int) -> None:
        super().__init__(port)
        os.set_blocking(descriptor, False)
        self.source = self.sink = descriptor


class FileConsole(Console):
    """Output appended to a file; no input. A full disk is reported once and the rest is discarded."""

    def __init__(self, port: SerialPort, path: str) -> None:
        super().__init__(port)
        try:
            self.sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"--serial file:{path}: {error.strerror}") from error
        self.location = path


class PtyConsole(Console):
    """A pseudo-terminal whose name is shown to the user; survives readers that come and go."""

    def __init__(self, port: SerialPort) -> None:
        super().__init__(port)
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.location = os.ttyname(slave)
        self._slave = slave  # kept open, so that the master never sees a hang-up
        self.source = self.sink = master

    def transmit(self) -> None:
        super().transmit()
        if len(self.outgoing) >= CHUNK:  # nobody reads: a line without a cable
            self.outgoing = b""

    def _close(self) -> None:
        super()._close()
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1


class SocketConsole(Console):
    """A listening Unix socket, one client at a time; the next one may connect when the first has gone."""

    def __init__(self, port: SerialPort, path: str) -> None:
        super().__init__(port)
        self.location = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.setblocking(False)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
                    os.unlink(path)
            self.listener.bind(path)
        except OSError as error:
            self.listener.close()
            reason = "already in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise ConfigError(f"--serial socket:{path}: {reason}") from error
        os.chmod(path, 0o600)
        self.listener.listen(1)
        self._missed = b""

    def interests(self) -> Iterator[tuple[int, int]]:
        if self.source < 0:
            yield self.listener.fileno(), select.POLLIN
        yield from super().interests()

    def ready(self, descriptor: int, events: int) -> None:
        if descriptor == self.listener.fileno():
            with contextlib.suppress(BlockingIOError):
                client, _ = self.listener.accept()
                client.setblocking(False)
                self.source = self.sink = client.detach()
                self.outgoing, self._missed = self._missed + self.outgoing, b""
                self.transmit()
            return
        super().ready(descriptor, events)

    def _discard(self, data: bytes) -> None:
        self._missed = (self._missed + data)[-MISSED:]

    def close(self) -> None:
        super().close()
        self.listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.location)


def _answers(path: str) -> bool:
    """True when somebody listens on the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def open_console(port: SerialPort, serial: dict[str, str], descriptor: int | None) -> Console:
    """The console that START's `serial` describes: {"kind": "fd"|"pty"|"socket"|"file"|"none", "path": …}.

    Raises ConfigError when the path cannot be used.
    """
    kind = serial.get("kind", "none")
    if kind == "fd" and descriptor is not None:
        return DescriptorConsole(port, descriptor)
    if kind == "pty":
        return PtyConsole(port)
    if kind == "socket":
        return SocketConsole(port, serial["path"])
    if kind == "file":
        return FileConsole(port, serial["path"])
    if kind == "none":
        return Console(port)
    raise ConfigError(f"serial kind {kind!r} is none of fd, pty, socket, file, none")
