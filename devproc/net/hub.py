"""`hub:PATH`: several machines on one segment; the switch meets them at a Unix socket.

Whoever comes first is the switch for all; should it end, another takes over, and frames are lost for a moment. Who it
is, is settled by a lock on PATH.lock. A message on the socket (SEQPACKET) is what the device sends: `NetHeader` and
frame, so that large frames and unfinished checksums need no work between machines. Learned addresses decide where a
frame goes; one whose destination is not known goes to everybody. A machine that does not keep up loses frames.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Sequence

from devproc.net.backend import Target, Wire
from devproc.net.offload import ETHERNET, FRAME_MAX, HEADER
from proto.errors import ConfigError

__all__ = ["HubPeer"]

MESSAGE_MAX = HEADER + FRAME_MAX
RETRY = 0.05  # seconds until somebody else is looked for again
BATCH = 64
LEARNED_MAX = 4096
BUFFER = 1 << 20  # bytes a slow machine may be behind


class HubPeer:
    """A member of the segment, and perhaps its switch."""

    def __init__(self, target: Target) -> None:
        self._path = target.target
        self._lock: int | None = None
        self._listener: socket.socket | None = None  # we are the switch
        self._switch: socket.socket | None = None  # somebody else is
        self._ports: dict[int, socket.socket] = {}  # the others, by descriptor
        self._learned: dict[bytes, int] = {}  # address → descriptor; OURS is this machine
        self._retry_at = 0.0
        self._buffer = memoryview(bytearray(MESSAGE_MAX))

    def start(self, wire: Wire) -> None:
        self._wire = wire
        try:
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"hub:{self._path}: {(error.strerror or str(error)).lower()}") from error
        self._join()

    def transmit(self, message: memoryview) -> None:
        if self._switch is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._switch.send(message)
        elif self._listener is not None:
            self._forward(message, OURS)

    def poll(self) -> tuple[Sequence[tuple[int, int]], float | None]:
        if self._switch is not None:
            return [(self._switch.fileno(), select.POLLIN)], None
        if self._listener is not None:
            return [(fd, select.POLLIN) for fd in (self._listener.fileno(), *self._ports)], None
        return [], max(0.0, self._retry_at - time.monotonic())

    def ready(self, events: dict[int, int]) -> None:
        if self._switch is not None:
            if events and not self._receive(self._switch, None):
                self._switch.close()
                self._switch = None
                self._join()
        elif self._listener is not None:
            if events.pop(self._listener.fileno(), 0):
                self._accept()
            for fd in events:
                if fd in self._ports and not self._receive(self._ports[fd], fd):
                    self._leave(fd)
        elif time.monotonic() >= self._retry_at:
            self._join()

    def close(self) -> None:
        for connection in (self._switch, *self._ports.values()):
            if connection is not None:
                connection.close()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._listener.close()
        if self._lock is not None:
            os.close(self._lock)

    # -- who is the switch -----------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Connect to the switch, or become it; if neither is possible now, try again soon."""
        if not self._connect() and not self._become_switch():
            self._wire.link(False)
            self._retry_at = time.monotonic() + RETRY
            return
        self._wire.link(True)

    def _connect(self) -> bool:
        connection = _socket()
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return False
        self._switch = connection
        return True

    def _become_switch(self) -> bool:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        listener = _socket()
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # a predecessor's: it held the lock, and is gone
            listener.bind(self._path)
            listener.listen(64)
        except OSError as error:
            listener.close()
            raise ConfigError(f"hub:{self._path}: {(error.strerror or str(error)).lower()}") from error
        self._listener = listener
        return True

    # -- the switch ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            self._ports[connection.fileno()] = connection

    def _leave(self, fd: int) -> None:
        self._ports.pop(fd).close()
        self._learned = {mac: port for mac, port in self._learned.items() if port != fd}

    def _receive(self, connection: socket.socket, port: int | None) -> bool:
        """Some messages of a connection: forward them, or, as a member, give them to the device. False at its end."""
        for _ in range(BATCH):
            try:
                size = connection.recv_into(self._buffer)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if size == 0:
                return False
            if size < HEADER + ETHERNET:
                continue
            message = self._buffer[:size]
            if port is None:
                self._give(message)
            else:
                self._forward(message, port)
        return True

    def _give(self, message: memoryview) -> None:
        self._wire.send(message[HEADER:], bytes(message[:HEADER]))

    def _forward(self, message: memoryview, origin: int) -> None:
        destination, source = bytes(message[HEADER : HEADER + 6]), bytes(message[HEADER + 6 : HEADER + 12])
        if not source[0] & 1 and (source in self._learned or len(self._learned) < LEARNED_MAX):
            self._learned[source] = origin
        known = None if destination[0] & 1 else self._learned.get(destination)
        for port in (OURS, *self._ports) if known is None else (known,):
            if port == origin:
                continue
            if port == OURS:
                self._give(message)
            else:
                with contextlib.suppress(OSError):  # full, or gone: its end-of-file comes
                    self._ports[port].send(message)


OURS = -1


def _socket() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return connection
