"""What a recorded share remembered of its guest when the recording began, lent to the device that replays it.

A guest mounts once and then names files by numbers that it was given before: fids, nodes, inodes, handles. SETUP has
these tables (`VirtioDevice.remembered`), and the replay's device takes them over as a successor would. It stands over
another copy of the directory, where a path leads to another inode, so each identity becomes that of its path there.
Files that were open without a name, and locks, are not among them: they are descriptors, which no recording has.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack

from devproc.fs.fuse.counts import COUNTS_SIZE, Counts
from devproc.fs.fuse.device import COUNTS
from devproc.fs.fuse.device import JOURNAL as NODES
from devproc.fs.journal import Journal, make_memory
from devproc.fs.ninep.device import JOURNAL as FIDS
from devproc.fs.tree import Tree
from devproc.fs.v86fs.device import JOURNAL as INODES
from proto.errors import BulkheadError, ConfigError

__all__ = ["lent_tables"]

MOST = 256 << 20  # bytes of tables; more is no recording of ours
NONSENSE = (
    zlib.error,
    BulkheadError,
    msgpack.UnpackException,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OSError,
)
Where = Callable[[bytes, Any], Any]  # a path and its identity then: the identity now


def lent_tables(data: bytes, tree: Tree) -> dict[str, int]:
    """Descriptors that a device over `tree` is lent, by name; the caller closes them. Raises ConfigError."""

    def where(path: bytes, then: Any) -> Any:
        if not isinstance(path, bytes):
            raise TypeError("a path that is no bytes")
        return tree.identity(path) or then

    made: dict[str, int] = {}
    try:
        for name, rows in msgpack.unpackb(zlib.decompressobj().decompress(data, MOST)).items():
            if name in _MADE:
                made[name] = _MADE[name](dict(rows), where)
    except NONSENSE as error:
        for fd in made.values():
            os.close(fd)
        raise ConfigError(f"the recording says nothing sensible of what the guest had: {error}") from error
    return made


def _fids(table: Mapping[int, Any], where: Where) -> int:
    changed = dict(table)
    for number, (path, uid, flags, identity, gone) in ((key, value) for key, value in table.items() if key >= 0):
        changed[number] = [path, uid, flags, where(path, identity) if identity and not gone else identity, gone]
    return _journal(changed)


def _nodes(table: Mapping[int, Any], where: Where) -> int:
    """Of virtio-fs and v86fs: identity, paths and something more. Handles are below 0, what is the session's at 0."""
    changed = dict(table)
    for number, (identity, paths, more) in ((key, value) for key, value in table.items() if key > 0):
        changed[number] = [where(paths[-1], identity) if paths else identity, paths, more]
    return _journal(changed)


def _counts(table: Mapping[int, int], where: Where) -> int:
    fd = make_memory("replay", COUNTS_SIZE)
    with _closed_unless_made(fd), contextlib.closing(Counts(fd)) as counts:
        counts.restore(table)
    return fd


def _journal(table: Mapping[int, Any]) -> int:
    fd = make_memory("replay")
    with _closed_unless_made(fd), contextlib.closing(Journal(fd)) as journal:
        for key, value in table.items():
            journal.put(key, value)
    return fd


@contextlib.contextmanager
def _closed_unless_made(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


_MADE: dict[str, Callable[[Mapping[int, Any], Where], int]] = {
    FIDS: _fids,
    NODES: _nodes,
    INODES: _nodes,
    COUNTS: _counts,
}
