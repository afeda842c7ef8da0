"""What stands behind a disk: a few functions, chosen by URI.

`file:PATH[,ro]` is the default; a text without a known scheme is a path. A backend that wraps another (a filter, an
overlay) implements the same protocol and calls the one below it. Offsets and lengths are bytes, whole sectors,
already checked against `size`. Functions raise OSError or BackendError for this request alone, BackendGone when no
later one can succeed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from proto.errors import ConfigError

__all__ = ["BACKENDS", "BlockBackend", "open_backend", "split_options"]


class BlockBackend(Protocol):
    """The calls of a disk's backend. All on one thread."""

    size: int  # bytes, a multiple of 512
    read_only: bool
    block_size: int  # what the backend prefers to be read and written in
    identity: str  # at most 20 characters, for GET_ID
    descriptor: int | None  # a plain file or block device, for the machine-code path; None: only these functions

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


BACKENDS = {  # scheme: module and function, called with the rest of the URI and its options
    "file": "devproc.blk.file:open_file",
}
_OPTIONS = frozenset({"ro"})


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """`PATH[,option[=value]]…`: options are taken off the end, so that a path may contain commas."""
    options: dict[str, str] = {}
    while "," in text:
        head, tail = text.rsplit(",", 1)
        name, _, value = tail.partition("=")
        if name not in _OPTIONS:
            break
        text, options[name] = head, value or "on"
    return text, options


def open_backend(uri: str, *, read_only: bool = False) -> BlockBackend:
    """Open what `uri` names. Raises ConfigError, its hint saying what to do."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in BACKENDS:
        scheme, rest = "file", uri
    module, name = BACKENDS[scheme].split(":")
    target, options = split_options(rest)
    if not target:
        raise ConfigError(f"the disk {uri!r} names no {scheme}", hint="A disk is given as file:PATH[,ro].")
    opener: Any = getattr(importlib.import_module(module), name)
    backend: BlockBackend = opener(target, read_only or options.get("ro", "off") == "on")
    return backend
