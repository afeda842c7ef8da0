"""Sockets at which a machine is served to tools: gdb, QMP, metrics. Opened by the keeper, so that they outlive the
processes that serve them, and a reset of the guest.

`where` is a TCP port on loopback, HOST:PORT, or the path of a Unix socket (it contains a slash), which only the user
can open.
"""

from __future__ import annotations

import contextlib
import os
import socket

from proto.errors import ConfigError

__all__ = ["Listener", "parse_where"]

LOOPBACK = "127.0.0.1"


def parse_where(where: str, option: str) -> tuple[str, int]:
    """Host and port; of a Unix socket the path and -1. Raises ConfigError that names the option."""
    if "/" in where:
        return where, -1
    host, _, port = where.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"{option} {where}: expected a port, HOST:PORT, or the path of a socket", hint=f"For example: {option} 1234"
        )
    return host.strip("[]") or LOOPBACK, int(port)


class Listener:
    """A listening socket; `location` is where clients find it."""

    def __init__(self, where: str, option: str) -> None:
        """Open it. Raises ConfigError when that is not possible."""
        host, port = parse_where(where, option)
        self._path = host if port < 0 else ""
        self._inode = 0
        family = socket.AF_UNIX if port < 0 else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if port < 0:
                self.socket.bind(host)
                self._inode = os.stat(host).st_ino
                os.chmod(host, 0o600)
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind((host, port))
            self.socket.listen()
        except OSError as error:
            self.close()
            raise ConfigError(
                f"{option} {where}: {(error.strerror or str(error)).lower()}", hint=f"{option} 0 takes any free port."
            ) from error
        self.location = host if port < 0 else ":".join(str(part) for part in self.socket.getsockname()[:2])

    def close(self) -> None:
        """Stop listening; a Unix socket that is still ours goes."""
        self.socket.close()
        if self._inode:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
