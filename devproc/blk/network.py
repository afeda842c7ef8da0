"""The only place where a disk's backend gets a connection.

Three functions give a connected stream socket with a timeout; nothing else of the backends touches the network. In a
device process the connection is made by its outlet (`devproc.outlet`), outside the sandbox, and arrives as a
descriptor; encryption and protocol stay here. Where there is no outlet (tools, the outlet itself) it is made here.
"""

from __future__ import annotations

import os
import socket
import ssl

from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed

__all__ = ["connect_tcp", "connect_tls", "connect_unix", "use_outlet"]

_outlet: Channel | None = None


def use_outlet(fd: int) -> None:
    """From now on, connections come through this descriptor, which is owned here."""
    global _outlet
    _outlet = Channel(socket.socket(fileno=fd))


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    if _outlet is None:
        sock = socket.create_connection((host, port), timeout)
    else:
        sock = _ask(_outlet, {"host": host, "port": port}, timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def connect_tls(host: str, port: int, timeout: float, context: ssl.SSLContext) -> socket.socket:
    """The same, encrypted, the server and its name verified by `context`. Raises OSError."""
    sock = connect_tcp(host, port, timeout)
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def connect_unix(path: str, timeout: float) -> socket.socket:
    """A connection to a Unix socket. Raises OSError."""
    if _outlet is not None:
        return _ask(_outlet, {"path": path}, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _ask(outlet: Channel, where: dict[str, object], timeout: float) -> socket.socket:
    """Have the outlet connect. The answer comes over a channel of this request's own, so that any thread may ask, and
    the end of the outlet ends the wait; one that is being restarted finds the request when it is there again."""
    ours, theirs = Channel.pair()
    with ours:
        with theirs:
            outlet.send("CONNECT", {**where, "timeout": timeout}, {"answer": theirs.fileno()})
        try:
            packet = ours.recv(timeout + GRACE)
        except DeadlineMissed:
            raise TimeoutError(110, "the outlet does not answer") from None
        except (ChannelClosed, BulkheadError) as error:
            raise ConnectionResetError(104, "the outlet has ended") from error
    try:
        if packet.kind != "CONNECTED":
            number = int(packet.body.get("errno", 5))
            raise OSError(number, str(packet.body.get("text", "")) or os.strerror(number))
        sock = socket.socket(fileno=packet.fds.pop("socket"))
    finally:
        packet.close()
    sock.settimeout(timeout)
    return sock


GRACE = 1.0  # seconds that the outlet may be later than the connection's own deadline
