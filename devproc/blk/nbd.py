"""`nbd:[timeout=10:][patience=30:]//HOST[:PORT][/EXPORT]` and `nbd+unix:[…]///[EXPORT]?socket=PATH`: a client of the
network block device protocol (fixed newstyle, simple and structured replies; doc/proto.md of the NBD project), and the
same over TLS, `nbds:[certificates=DIR:][hostname=NAME:]…` and `nbds+unix:…`.

Many requests are on their way at once over one connection. A connection that breaks, or a server that does not answer
within `timeout` seconds, is replaced by a new one and what was on its way is sent again, for `patience` seconds; then
it is an error of that request. An export that comes back with another size is an error for good.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any

from devproc.blk.buffers import cut, gather, length, scatter
from devproc.blk.nbd_handshake import negotiate
from devproc.blk.nbd_replies import Pending, Stream, answered
from devproc.blk.network import connect_tcp, connect_unix
from devproc.properties import FilePath, Property
from proto.errors import BackendError, BackendGone, ConfigError
from proto.virtio import BLK_SECTOR_SIZE

__all__ = ["Nbd", "NbdUnix", "Nbds", "NbdsUnix"]

PORT = 10809
LOCALHOST = "localhost"  # whose certificate a server on a Unix socket has, if nothing else is said
WORKERS = 16
LONGEST = 4 << 20  # bytes of one request; servers take at least 32 MiB
PAUSE, LONGEST_PAUSE = 0.05, 1.0
_REQUEST_MAGIC = 0x25609513
_REFUSED = "Perhaps the server wants to know who we are: client-cert.pem and client-key.pem in certificates=DIR."
_REQUEST = struct.Struct(">IHHQQI")


class Command(IntEnum):
    """Request types."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Export(IntFlag):
    """Transmission flags: what the export can do."""

    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64


_FUA, _NO_HOLE = 1, 2  # flags of a request

Encrypt = Callable[[socket.socket], Stream]


class _Lost(Exception):
    """The connection broke; what was asked may or may not have been done."""


class _Connection:
    """One negotiated connection: senders on any thread, one reader of its own."""

    def __init__(self, sock: socket.socket, name: str, encrypt: Encrypt | None) -> None:
        offer = negotiate(sock, name, encrypt)
        self.size, self.flags, self._structured = offer.size, Export(offer.flags & sum(Export)), offer.structured
        self._sock = offer.stream
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._cookies = itertools.count(1)
        self.broken = False
        self._sock.settimeout(None)
        threading.Thread(target=self._read, name="nbd", daemon=True).start()

    def call(self, command: Command, flags: int, offset: int, size: int, payload: bytes, timeout: float) -> bytes:
        """One request and its reply. Raises _Lost, BackendError."""
        pending = Pending(offset, size if command == Command.READ else 0)
        with self._lock:
            if self.broken:
                raise _Lost("broken")
            cookie = next(self._cookies)
            self._pending[cookie] = pending
        try:
            with self._sending:
                self._sock.sendall(_REQUEST.pack(_REQUEST_MAGIC, flags, command, cookie, offset, size) + payload)
        except OSError as error:
            self.drop()
            raise _Lost(str(error)) from error
        if not pending.done.wait(timeout):
            self.drop()
            raise _Lost(f"no answer within {timeout} s")
        if pending.lost:
            raise _Lost("the connection broke")
        if pending.error:
            what = f"{command.name.lower()} of {size} bytes at {offset}: {os.strerror(pending.error)}"
            raise BackendError(f"the NBD server refused {what}", errno=pending.error)
        return bytes(pending.data)

    def drop(self) -> None:
        """Break the connection: everything on its way is lost."""
        with self._lock:
            self.broken = True
            pending, self._pending = self._pending, {}
        for request in pending.values():
            request.lost = True
            request.done.set()
        with contextlib.suppress(OSError):  # it broke by itself
            self._sock.shutdown(socket.SHUT_RDWR)

    def goodbye(self) -> None:
        """An orderly end."""
        with contextlib.suppress(OSError), self._sending:  # the server may have gone first
            self._sock.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        self.drop()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # what was on its way is told below
            while True:
                cookie = answered(self._sock, self._find, self._structured)
                if cookie is None:
                    break  # out of step: nothing that follows can be understood
                with self._lock:
                    pending = self._pending.pop(cookie, None)
                if pending is not None:
                    pending.done.set()
        self.drop()
        self._sock.close()

    def _find(self, cookie: int) -> Pending | None:
        with self._lock:
            return self._pending.get(cookie)


class Nbd:
    """An export of an NBD server."""

    timeout = Property(int, 10, "seconds that the server may take for an answer", minimum=1, maximum=3600)
    patience = Property(int, 30, "seconds during which a request is sent again", minimum=0, maximum=86400)

    scheme = "nbd"

    def __init__(
        self,
        connect: Callable[[float], socket.socket],
        name: str,
        where: str,
        values: dict[str, Any],
        encrypt: Encrypt | None = None,
    ) -> None:
        self.__dict__.update(values)
        self._connect = connect
        self._encrypt = encrypt
        self._name = name
        self._where = where
        self._lock = threading.Lock()
        self._closed = False
        self._failed, self._why = 0.0, ""  # the last attempt to connect again that failed
        try:
            self._connection = _Connection(connect(self.timeout), name, encrypt)
        except OSError as error:
            hint = _REFUSED if encrypt is not None else ""
            raise ConfigError(f"cannot connect to {where}: {error.strerror or error}", hint=hint) from error
        except BackendError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
        self.size = self._connection.size
        self.flags = self._connection.flags
        if not self.size or self.size % BLK_SECTOR_SIZE:
            self._connection.goodbye()
            raise ConfigError(f"{where} has {self.size} bytes; a disk is a whole number of 512-byte sectors")
        self.read_only = bool(self.flags & Export.READ_ONLY)
        self.block_size = 4096
        self.identity = (name or "nbd")[:20]
        self.descriptor: int | None = None
        self.workers = WORKERS
        self.stamp = ""

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Nbd:
        """The export that the URL names. Raises ConfigError."""
        connect, name = cls.parse(target)
        disk = cls(connect, name, f"{cls.scheme}:{target}", values, cls.encryption(target, values))
        if disk.read_only and not read_only:
            disk.close()
            raise ConfigError(f"{cls.scheme}:{target} is read-only", hint="Use it with ,ro, or below snapshot:.")
        disk.read_only = read_only
        return disk

    @classmethod
    def parse(cls, target: str) -> tuple[Callable[[float], socket.socket], str]:
        """How to connect, and the export's name."""
        try:
            parts = urllib.parse.urlsplit(f"{cls.scheme}:{target}")
            host, port = parts.hostname, parts.port or PORT
        except ValueError as error:
            raise ConfigError(f"{cls.scheme}:{target}: {error}") from error
        if not host:
            hint = f"For a Unix socket: {cls.scheme}+unix:///?socket=PATH"
            raise ConfigError(f"{cls.scheme}:{target} names no host", hint=hint)
        return lambda timeout: connect_tcp(host, port, timeout), urllib.parse.unquote(parts.path.removeprefix("/"))

    @classmethod
    def encryption(cls, target: str, values: dict[str, Any]) -> Encrypt | None:
        """What encrypts a connection, if it shall be. Raises ConfigError."""
        return None

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for at, size in _pieces(length(buffers)):
            scatter(cut(buffers, at, size), self._call(Command.READ, offset + at, size))

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        fua = _FUA if durable and self.flags & Export.SEND_FUA else 0
        for at, size in _pieces(length(buffers)):
            self._call(Command.WRITE, offset + at, size, fua, gather(cut(buffers, at, size)))
        if durable and not fua:
            self.flush()

    def flush(self) -> None:
        if self.flags & Export.SEND_FLUSH:
            self._call(Command.FLUSH, 0, 0)

    def discard(self, offset: int, length: int) -> None:
        if self.flags & Export.SEND_TRIM:
            self._call(Command.TRIM, offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        if self.flags & Export.SEND_WRITE_ZEROES:
            self._call(Command.WRITE_ZEROES, offset, length, 0 if unmap else _NO_HOLE)
            return
        for at, size in _pieces(length):
            self._call(Command.WRITE, offset + at, size, 0, bytes(size))

    def close(self) -> None:
        self._closed = True
        self._connection.goodbye()

    # -- connections -----------------------------------------------------------------------------------------------

    def _call(self, command: Command, offset: int, size: int, flags: int = 0, payload: bytes = b"") -> bytes:
        begin = time.monotonic()
        end = begin + self.patience
        while True:
            connection = self._connected(begin, end)
            try:
                return connection.call(command, flags, offset, size, payload, self.timeout)
            except _Lost as error:
                if self._closed or time.monotonic() > end:
                    raise BackendError(f"{self._where}: {error}", errno=110) from error

    def _connected(self, begin: float, end: float) -> _Connection:
        """The connection, made again if it broke: by whoever comes first, while the others wait."""
        pause = PAUSE
        with self._lock:
            while self._connection.broken:
                if self._failed > begin and (self._closed or time.monotonic() + pause > end):
                    raise BackendError(f"{self._where}: {self._why}", errno=110)
                if self._failed > begin:
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    self._connection = self._again()
                except OSError as error:
                    self._failed, self._why = time.monotonic(), error.strerror or str(error)
            return self._connection

    def _again(self) -> _Connection:
        connection = _Connection(self._connect(self.timeout), self._name, self._encrypt)
        if connection.size != self.size or self.flags & ~connection.flags:
            connection.goodbye()
            raise BackendGone(f"{self._where} is not the export it was: {connection.size} bytes", errno=116)
        return connection


class NbdUnix(Nbd):
    """An export of an NBD server on a Unix socket."""

    scheme = "nbd+unix"

    @classmethod
    def parse(cls, target: str) -> tuple[Callable[[float], socket.socket], str]:
        """How to connect, and the export's name."""
        parts = urllib.parse.urlsplit(f"{cls.scheme}:{target}")
        path = urllib.parse.parse_qs(parts.query).get("socket", [""])[0]
        if not path or parts.netloc:
            raise ConfigError(
                f"{cls.scheme}:{target} names no socket", hint=f"For example: {cls.scheme}:///?socket=/run/nbd.sock"
            )
        return lambda timeout: connect_unix(path, timeout), urllib.parse.unquote(parts.path.removeprefix("/"))


class Nbds(Nbd):
    """An export of an NBD server, encrypted."""

    scheme = "nbds"
    certificates = Property(FilePath, "", "a directory with ca-cert.pem, and client-cert.pem with client-key.pem")
    hostname = Property(str, "", "the name that the server's certificate must have, if not that of the URL")

    @classmethod
    def encryption(cls, target: str, values: dict[str, Any]) -> Encrypt | None:
        from devproc.blk.tls import TlsStream, client_context  # OpenSSL is not for everybody's start

        context = client_context(values["certificates"])
        host = values["hostname"] or urllib.parse.urlsplit(f"{cls.scheme}:{target}").hostname or LOCALHOST
        return lambda sock: TlsStream(sock, context, host)


class NbdsUnix(Nbds, NbdUnix):
    """An export of an NBD server on a Unix socket, encrypted."""

    scheme = "nbds+unix"


def _pieces(size: int) -> list[tuple[int, int]]:
    return [(at, min(LONGEST, size - at)) for at in range(0, size, LONGEST)]
