"""A device process before it is any device: what it can do beforehand, so that becoming one takes milliseconds.

The keeper's PREPARE{devices, backends} names what its machine has. Importing that, and mapping the machine code, is
nearly all of the time that a process takes to start. Nothing is opened and no thread is started: what a device may
touch is decided by its START. Files of the user's own are not imported here, so they are always read anew.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Iterable

from proto.errors import BulkheadError

__all__ = ["prepare", "sources"]

PACKAGES = ("devproc", "native", "proto")


def prepare(devices: Iterable[str], backends: Iterable[str]) -> None:
    """Import all that devices of these names with backends of these URIs will need. What cannot be is left: START
    will say why."""
    from devproc.engine import load_engine
    from devproc.registry import DEVICES

    importlib.import_module("devproc.runtime")
    load_engine()
    for name in devices:
        if name in DEVICES:
            importlib.import_module(DEVICES[name].partition(":")[0])
    for backend in backends:
        with contextlib.suppress(BulkheadError):
            _import_disk(backend)
    gc.collect()
    gc.freeze()  # what is here stays: a collection need not look at it, nor dirty its pages


def _import_disk(text: str) -> None:
    """The modules of a disk's URI, filters and what is below them."""
    from devproc.blk.uri import parse_uri

    uri = parse_uri(text)
    uri.kind.load()
    if uri.kind.target == "uri":
        _import_disk(uri.target)


def sources() -> dict[str, int]:
    """The files of this project that are imported now, with their times of modification: when one is another's, this
    process runs old code."""
    files = {
        module.__file__
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in PACKAGES and module.__file__ is not None
    }
    return {path: os.stat(path).st_mtime_ns for path in files if os.path.exists(path)}
