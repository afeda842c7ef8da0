"""Lists of buffers, as a request brings them: cut, joined and filled."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut", "fill", "gather", "length", "scatter"]

Bytes = bytes | bytearray | memoryview


def length(buffers: Sequence[memoryview]) -> int:
    """Bytes in all."""
    return sum(len(buffer) for buffer in buffers)


def cut(buffers: Sequence[memoryview], start: int, size: int) -> list[memoryview]:
    """The `size` bytes from `start` on, without a copy."""
    found = []
    for buffer in buffers:
        if start < len(buffer) and size > 0:
            part = buffer[start : start + size]
            found.append(part)
            size -= len(part)
            start = 0
        else:
            start -= min(len(buffer), start)
    return found


def gather(buffers: Sequence[memoryview]) -> bytes:
    """A copy of everything, in one piece."""
    return b"".join(buffers)


def scatter(buffers: Sequence[memoryview], data: Bytes) -> None:
    """Copy `data` into the buffers, which have room for it."""
    view, done = memoryview(data), 0
    for buffer in buffers:
        part = view[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)


def fill(buffers: Sequence[memoryview]) -> None:
    """Zeroes everywhere."""
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))
