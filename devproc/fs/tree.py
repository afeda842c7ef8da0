"""The interface between a file-system protocol and what is shared: a tree of files, named by path.

A path is bytes: names joined by "/", relative to the root, which is b"". It never contains an empty name, "." or ".."
(`join` sees to that), and a tree never follows a symbolic link: what a link means is for the guest to find out. So a
path is plain data, which a successor of this process can use as well.

Everything raises OSError with a Linux errno. Nothing here is safe for several threads.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, NoReturn, Protocol

__all__ = [
    "NOW",
    "ROOT",
    "Attributes",
    "Changes",
    "Entry",
    "OpenFile",
    "Owner",
    "Space",
    "Tree",
    "fail",
    "join",
    "number_of",
    "open_again",
    "parent",
]

ROOT = b""
NAME_MAX = 255
NOW = -1  # as a time in `Changes`: the present one


class Attributes(NamedTuple):
    """What stat(2) says, as the guest shall see it. Times are nanoseconds."""

    mode: int  # with the type bits
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    device: int  # with `inode`, what tells two files apart
    inode: int
    block_size: int = 4096

    @property
    def directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr is to change; None leaves a thing as it is."""

    mode: int | None = None  # permission bits alone count
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None  # nanoseconds, or NOW
    mtime: int | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a new file belongs to."""

    uid: int = 0
    gid: int = 0


class Entry(NamedTuple):
    """One name in a directory; `kind` is a DT_* number."""

    name: bytes
    device: int
    inode: int
    kind: int


class Space(NamedTuple):
    """What statfs(2) says."""

    block_size: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    name_max: int = NAME_MAX


class OpenFile(Protocol):
    """An open regular file, or a directory; it stays what it is when its name changes or goes."""

    def read(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill the buffers; how many bytes there were."""

    def write(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Write the buffers; how many bytes were taken."""

    def attributes(self) -> Attributes: ...

    def change(self, changes: Changes) -> None: ...

    def sync(self, data_only: bool) -> None:
        """What was written is stored when this returns."""

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""

    def seek(self, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""

    def descriptor(self) -> int:
        """The descriptor behind it. Raises OSError EOPNOTSUPP when there is none."""

    def born(self) -> int | None:
        """When it was made, in nanoseconds; None when that is not known."""

    def close(self) -> None: ...


class Tree(Protocol):
    """What is shared."""

    read_only: bool

    def adopt(self, descriptor: int) -> OpenFile:
        """A descriptor that was opened as this tree would have opened it; it is the file's from now on. Raises OSError
        EOPNOTSUPP when a tree has nothing of the kind."""

    def stat(self, path: bytes) -> Attributes: ...

    def identity(self, path: bytes) -> tuple[int, int] | None:
        """Device and inode of what is at `path`; None when nothing is."""

    def open(self, path: bytes, flags: int) -> OpenFile:
        """Open a regular file or a directory; of `flags`, access mode, O_TRUNC and O_DIRECTORY count. Devices, pipes
        and sockets are not opened: a guest opens its own."""

    def create(self, path: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        """Make a regular file and open it; without O_EXCL in `flags` it may be there already."""

    def temporary(self, directory: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        """Make a regular file without a name (O_TMPFILE) and open it."""

    def hold(self, path: bytes) -> int:
        """A new descriptor that keeps what is at `path` from going when its name goes. Raises OSError EOPNOTSUPP when
        a tree has nothing of the kind."""

    def held(self, descriptor: int, flags: int) -> OpenFile:
        """Open what a descriptor of this tree stands for, with a name or without; with O_PATH, to look at it only."""

    def link_held(self, descriptor: int, path: bytes) -> None:
        """Give what a descriptor stands for a name."""

    def sync(self) -> None:
        """All that was written to the tree is stored when this returns."""

    def entries(self, path: bytes) -> list[Entry]:
        """What is in a directory, without "." and "..", by name."""

    def mkdir(self, path: bytes, mode: int, owner: Owner) -> None: ...

    def mknod(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None: ...

    def settle(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        """What `create`, `mkdir` or `mknod` of a predecessor has made, and perhaps no more than that, becomes what the
        guest wanted. `mode` has the type bits."""

    def symlink(self, path: bytes, target: bytes, owner: Owner) -> None: ...

    def link(self, existing: bytes, path: bytes) -> None: ...

    def readlink(self, path: bytes) -> bytes: ...

    def unlink(self, path: bytes) -> None: ...

    def rmdir(self, path: bytes) -> None: ...

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """renameat2(2), with its flags."""

    def change(self, path: bytes, changes: Changes) -> None: ...

    def space(self) -> Space: ...

    def get_xattr(self, path: bytes, name: bytes) -> bytes: ...

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None: ...

    def list_xattrs(self, path: bytes) -> list[bytes]: ...

    def remove_xattr(self, path: bytes, name: bytes) -> None: ...

    def close(self) -> None: ...


def fail(number: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory. Raises OSError for what is not a name."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        fail(errno.EINVAL)
    if len(name) > NAME_MAX:
        fail(errno.ENAMETOOLONG)
    return directory + b"/" + name if directory else name


def parent(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name of a path. Raises OSError for the root, which has none."""
    if not path:
        fail(errno.EBUSY)
    directory, _, name = path.rpartition(b"/")
    return directory, name


def number_of(device: int, inode: int) -> int:
    """One number for device and inode: the inode, its upper bits stirred by the device."""
    return inode ^ _stir(device)


@cache
def _stir(device: int) -> int:
    return zlib.crc32(device.to_bytes(8, "little")) << 32


def open_again(tree: Tree, path: bytes, flags: int, identity: tuple[int, int] | None) -> OpenFile:
    """Open a file as a predecessor of this process had it open. Raises OSError: ESTALE when another one, by device and
    inode, has its path by now."""
    file = tree.open(path, flags)
    seen = file.attributes()
    if (seen.device, seen.inode) != identity:
        file.close()
        fail(errno.ESTALE)
    return file
