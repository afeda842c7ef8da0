"""What the tests of `bulkhead mirror` and `bulkhead commit` look at."""

from __future__ import annotations

from typing import Any

from devproc.blk.backend import open_backend
from launcher.control import connect, request


def content(uri: str) -> bytes:
    """All of a disk."""
    backend = open_backend(uri, read_only=True)
    data = bytearray(backend.size)
    backend.preadv([memoryview(data)], 0)
    backend.close()
    return bytes(data)


def status() -> dict[str, Any]:
    """How far the copying of blk0 of vm1 is."""
    with connect("vm1") as channel:
        return request(channel, "MIRRORED", id="blk0")
