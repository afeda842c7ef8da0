"""The only place where a disk's backend makes a connection, so that it can move out of the device's process.

Three functions give a connected stream socket with a timeout; nothing else of the backends touches the network.
"""

from __future__ import annotations

import socket
import ssl

__all__ = ["connect_tcp", "connect_tls", "connect_unix"]


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    sock = socket.create_connection((host, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def connect_tls(host: str, port: int, timeout: float) -> socket.socket:
    """The same, encrypted, the server's name checked against the host's certificates. Raises OSError."""
    sock = connect_tcp(host, port, timeout)
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def connect_unix(path: str, timeout: float) -> socket.socket:
    """A connection to a Unix socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
