"""`stream:unix:PATH` and `stream:tcp:HOST:PORT`, `,server` to listen: QEMU's `-netdev stream` framing.

A frame is preceded by its length, four bytes, big-endian; nothing else is said. QEMU, passt and gvproxy can be the
other end. The link is up while there is a connection: a client tries again until there is one, a server takes one at a
time. A connection whose lengths make no sense is closed. TCP segments that came together reach the guest as one large
frame (`devproc.net.gather`). While the guest does not keep up, nothing is read; what the other end does not keep up
with is lost beyond BACKLOG.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from devproc.net.backend import Target, Wire
from devproc.net.gather import gather
from devproc.net.offload import ETHERNET, FRAME_MAX, HEADER
from proto.errors import ConfigError

__all__ = ["Deframer", "StreamPeer", "parse_address"]

PREFIX = 4
RETRY = 0.2  # seconds between two attempts to connect
CHUNK = 1 << 18
BACKLOG = 1 << 20  # bytes that may wait for a slow other end; then frames are dropped

Address = tuple[socket.AddressFamily, str | tuple[str, int]]


def parse_address(text: str) -> Address:
    """`unix:PATH` or `tcp:HOST:PORT`. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdigit() and 0 < int(port) < 65536:
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host.strip("[]"), int(port))
    raise ConfigError(f"stream:{text}: expected unix:PATH or tcp:HOST:PORT", value=text)


class Deframer:
    """Bytes of a connection to frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The frames that are whole now. Raises ValueError for a length that no frame has."""
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= PREFIX:
            length = int.from_bytes(self._buffer[at : at + PREFIX], "big")
            if length > FRAME_MAX:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) - at < PREFIX + length:
                break
            frames.append(bytes(self._buffer[at + PREFIX : at + PREFIX + length]))
            at += PREFIX + length
        del self._buffer[:at]
        return frames


class StreamPeer:
    """One connection at a time."""

    def __init__(self, target: Target) -> None:
        self._name = target.target
        self._family, self._address = parse_address(target.target)
        self._serving = target.flag("server")
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._connecting = False
        self._retry_at = 0.0
        self._deframer = Deframer()
        self._backlog = bytearray()  # to the other end
        self._messages: deque[tuple[bytes, bytes]] = deque()  # to the guest: headers and frames

    def start(self, wire: Wire) -> None:
        self._wire = wire
        wire.link(False)
        if self._serving:
            self._listen()
        else:
            self._connect()

    def transmit(self, message: memoryview) -> None:
        if self._connection is None or self._connecting or len(self._backlog) > BACKLOG:
            return
        frame = message[HEADER:]
        prefix = len(frame).to_bytes(PREFIX, "big")
        if self._backlog:
            self._backlog += prefix
            self._backlog += frame
            return
        try:
            sent = self._connection.sendmsg((prefix, frame))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent < PREFIX + len(frame):
            self._backlog += (prefix + bytes(frame))[sent:]

    def poll(self) -> tuple[Sequence[tuple[int, int]], float | None]:
        watched = []
        timeout = None
        if self._connection is not None:
            writing = select.POLLOUT if self._connecting or self._backlog else 0
            reading = 0 if self._messages else select.POLLIN
            watched.append((self._connection.fileno(), reading | writing))
        elif self._listener is not None:
            watched.append((self._listener.fileno(), select.POLLIN))
        else:
            timeout = max(0.0, self._retry_at - time.monotonic())
        return watched, timeout

    def ready(self, events: dict[int, int]) -> None:
        if self._connection is None:
            if self._listener is None:
                if time.monotonic() >= self._retry_at:
                    self._connect()
            elif self._listener.fileno() in events:
                self._accept()
            return
        seen = events.get(self._connection.fileno(), 0)
        if self._connecting:
            if seen:
                self._connected(self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            return
        if seen & select.POLLOUT:
            self._write_backlog()
        self._give()
        if seen & ~select.POLLOUT and not self._messages and self._connection is not None:
            self._read()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._listener is not None:
            self._listener.close()
            if self._family == socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    os.unlink(str(self._address))

    # -- connections -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            if self._family == socket.AF_UNIX:
                _remove_stale(str(self._address))
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise ConfigError(f"cannot listen on {self._name}: {(error.strerror or str(error)).lower()}") from error
        listener.setblocking(False)
        self._listener = listener

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._connection, _ = self._listener.accept()
            self._connection.setblocking(False)
            self._connected(0)

    def _connect(self) -> None:
        self._connection = socket.socket(self._family, socket.SOCK_STREAM)
        self._connection.setblocking(False)
        error = self._connection.connect_ex(self._address)
        self._connecting = error in (11, 115)  # EAGAIN, EINPROGRESS
        if not self._connecting:
            self._connected(error)

    def _connected(self, error: int) -> None:
        self._connecting = False
        if error:
            self._drop()
            return
        assert self._connection is not None
        if self._family != socket.AF_UNIX:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deframer, self._backlog = Deframer(), bytearray()
        self._wire.link(True)

    def _drop(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        self._retry_at = time.monotonic() + RETRY

    def _lost(self, why: object) -> None:
        self._wire.log(f"{self._name}: the connection is gone: {why}")
        self._drop()
        self._wire.link(False)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(CHUNK)
            self._messages.extend(gather(frame for frame in self._deframer.feed(data) if len(frame) >= ETHERNET))
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._lost(error)
            return
        self._give()
        if not data:
            self._lost("the other end closed it")

    def _give(self) -> None:
        """Frames to the guest, as far as there is room; nothing more is read until all are there."""
        while self._messages:
            header, frame = self._messages[0]
            if not self._wire.send(frame, header):
                break
            self._messages.popleft()

    def _write_backlog(self) -> None:
        assert self._connection is not None
        try:
            del self._backlog[: self._connection.send(self._backlog)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(error)


def _remove_stale(path: str) -> None:
    """A socket that nobody listens on any more is in the way."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(FileNotFoundError):
        if probe.connect_ex(path) == 111:  # ECONNREFUSED
            os.unlink(path)
