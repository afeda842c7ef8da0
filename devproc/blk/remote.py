"""A disk that another host serves: `bulkhead serve` there, a relay here.

The name of such a disk has its place in the grammar of backends; the disk itself is whole, with its queues and its
configuration, on the other host, and so it is no backend that something else could stand on.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from devproc.blk.backend import BlockBackend
from devproc.properties import FilePath, Property
from proto.errors import ConfigError

__all__ = ["Remote", "place_of"]

PORT = 5757


class Remote:
    """Its parameters."""

    keys = Property(FilePath, "", "the directory of `bulkhead keys create`, or what of it this host has")

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> BlockBackend:
        """Never: raises ConfigError."""
        raise ConfigError(
            f"remote:{target} is a whole device, on which nothing can stand",
            hint="Filters and overlays are given to `bulkhead serve`, where the disk is.",
        )


def place_of(target: str) -> str:
    """The ZeroMQ endpoint of `//HOST[:PORT]`. Raises ConfigError."""
    try:
        parts = urlsplit(f"tcp:{target}")
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError as error:
        raise ConfigError(f"remote:{target}: {error}") from error
    if not host or parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"remote:{target}: not HOST:PORT", hint="For example: remote:keys=keys://server:5757")
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
