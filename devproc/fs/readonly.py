"""A tree that nobody can change through it."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from devproc.fs.tree import OpenFile, Tree, fail

__all__ = ["ReadOnly"]

_PASSED = frozenset(
    {"stat", "identity", "entries", "readlink", "space", "get_xattr", "list_xattrs", "hold", "sync", "close"}
)


class ReadOnly:
    """Another tree's reading half; everything else is EROFS. Files are opened for reading, so even a mistake in a
    protocol could not write."""

    read_only = True

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def adopt(self, descriptor: int) -> OpenFile:
        return _ReadOnlyFile(self._tree.adopt(descriptor))

    def open(self, path: bytes, flags: int) -> OpenFile:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            fail(errno.EROFS)
        return _ReadOnlyFile(self._tree.open(path, flags))

    def held(self, descriptor: int, flags: int) -> OpenFile:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            fail(errno.EROFS)
        return _ReadOnlyFile(self._tree.held(descriptor, flags))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name) if name in _PASSED else _refuse


class _ReadOnlyFile:
    _PASSED = frozenset({"read", "attributes", "born", "sync", "seek", "descriptor", "close"})

    def __init__(self, file: OpenFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name) if name in self._PASSED else _refuse


def _refuse(*_: Any) -> NoReturn:
    fail(errno.EROFS)
