"""What stands behind a disk: a few functions, chosen by URI (`devproc.blk.uri` has the grammar).

A backend that wraps another (a filter, an overlay) implements the same protocol and calls the one below it. Offsets
and lengths are bytes, whole sectors, already checked against `size`. Functions raise OSError or BackendError for this
request alone, BackendGone when no later one can succeed. Everything may be done twice: after a crash, requests come
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from devproc.blk.uri import parse_uri
from proto.errors import ConfigError

__all__ = ["BlockBackend", "let_go", "open_backend", "split_options"]


class BlockBackend(Protocol):
    """The calls of a disk's backend. All on one thread, unless it says that it has `workers`."""

    size: int  # bytes, a multiple of 512
    read_only: bool
    block_size: int  # what the backend prefers to be read and written in
    identity: str  # at most 20 characters, for GET_ID
    descriptor: int | None  # a plain file or block device, for the machine-code path; None: only these functions
    workers: int  # calls that it gains from having at once, each on a thread of its own; 1: one after the other
    stamp: str  # differs when the contents were changed by others; "" when nobody can tell

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers."""

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        """Write the buffers; `durable`: stored when this returns."""

    def flush(self) -> None:
        """Everything written is stored when this returns."""

    def discard(self, offset: int, length: int) -> None:
        """The contents are no longer needed. Doing nothing is right."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """The range reads as zeroes afterwards; `unmap` allows giving the space back."""

    def close(self) -> None:
        """Let go of everything."""


def let_go(backend: BlockBackend) -> None:
    """Close a backend that a successor on this host goes on with. What was written is in the host's cache, where the
    successor finds it: nothing need be stored first, which may take long while a guest waits. Backends for which
    closing means storing have a `let_go` of their own."""
    getattr(backend, "let_go", backend.close)()


_OPTIONS = frozenset({"ro"})


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """`URI[,option[=value]]…`: options are taken off the end, so that a path may contain commas."""
    options: dict[str, str] = {}
    while "," in text:
        head, tail = text.rsplit(",", 1)
        name, _, value = tail.partition("=")
        if name not in _OPTIONS:
            break
        text, options[name] = head, value or "on"
    return text, options


def open_backend(text: str, *, read_only: bool = False) -> BlockBackend:
    """Open what the URI names. Raises ConfigError, its hint saying what to do, or BackendError."""
    text, options = split_options(text)
    if not text or text == "file:":
        raise ConfigError(f"the disk {text!r} names no file", hint="A disk is given as file:PATH[,ro].")
    uri = parse_uri(text)
    values = uri.values()
    opener: Any = uri.kind.load()
    backend: BlockBackend = opener.open(uri.target, values, read_only or options.get("ro", "off") == "on")
    return backend
