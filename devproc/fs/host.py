"""A directory of the host as a tree.

A guest cannot leave it (`devproc.fs.beneath`), owners and modes are mapped (`devproc.fs.mapped`), and files are never
opened with O_APPEND: an append is a write at an offset, which can be done twice.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from devproc.fs import mapped
from devproc.fs.beneath import (
    Beneath,
    allocate,
    birth_time,
    by_descriptor,
    list_directory,
    rename2,
    set_times,
    sync_all,
)
from devproc.fs.tree import NOW, Attributes, Changes, Entry, OpenFile, Owner, Space, fail

__all__ = ["HostTree"]

SECOND = 1_000_000_000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 0x10
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC
OUR_XATTRS = b"user.bulkhead."


class HostFile:
    """An open file of the host."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, buffers: Sequence[memoryview], offset: int) -> int:
        return os.preadv(self.fd, buffers, offset) if buffers else 0

    def write(self, buffers: Sequence[memoryview], offset: int) -> int:
        return os.pwritev(self.fd, buffers, offset) if buffers else 0

    def attributes(self) -> Attributes:
        return mapped.attributes(self.fd)

    def change(self, changes: Changes) -> None:
        if changes.size is not None:
            os.ftruncate(self.fd, changes.size)
        _change(self.fd, changes)

    def sync(self, data_only: bool) -> None:
        os.fdatasync(self.fd) if data_only else os.fsync(self.fd)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """Only what may be done twice: no collapsing nor inserting of ranges."""
        if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            fail(errno.EOPNOTSUPP)
        if mode == 0:
            os.posix_fallocate(self.fd, offset, length)
        else:
            allocate(self.fd, mode, offset, length)

    def seek(self, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            fail(errno.EINVAL)
        return os.lseek(self.fd, offset, whence)

    def descriptor(self) -> int:
        return self.fd

    def born(self) -> int | None:
        return birth_time(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class HostTree:
    """What is below one directory. Raises ConfigError when that cannot be shared."""

    read_only = False

    def __init__(self, directory: str) -> None:
        self._beneath = Beneath(directory)

    def stat(self, path: bytes) -> Attributes:
        with self._beneath.found(path) as fd:
            return mapped.attributes(fd)

    def identity(self, path: bytes) -> tuple[int, int] | None:
        fd = self._beneath.find(path)
        if fd is None:
            return None
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return status.st_dev, status.st_ino

    def open(self, path: bytes, flags: int) -> OpenFile:
        with self._beneath.found(path) as fd:
            return HostFile(_reopen(fd, flags))

    def create(self, path: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        mode = stat.S_IFREG | (mode & mapped.PERMISSIONS)
        with self._beneath.directory_of(path) as (directory, name):
            how = (flags & OPEN_FLAGS) | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(name, how, mapped.host_mode(mode), dir_fd=directory)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                return self.open(path, flags)
            return HostFile(self._begun(fd, directory, mode, 0, owner))

    def temporary(self, directory: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        mode = stat.S_IFREG | (mode & mapped.PERMISSIONS)
        with self._beneath.found(directory) as fd:
            how = (flags & os.O_ACCMODE) | os.O_TMPFILE | os.O_CLOEXEC
            made = os.open(by_descriptor(fd), how, mapped.host_mode(mode))
            return HostFile(self._begun(made, fd, mode, 0, owner))

    def adopt(self, descriptor: int) -> OpenFile:
        return HostFile(descriptor)

    def hold(self, path: bytes) -> int:
        return self._beneath.open(path, os.O_PATH)

    def held(self, descriptor: int, flags: int) -> OpenFile:
        return HostFile(os.dup(descriptor) if flags & os.O_PATH else _reopen(descriptor, flags))

    def link_held(self, descriptor: int, path: bytes) -> None:
        with self._beneath.directory_of(path) as (directory, name):
            os.link(by_descriptor(descriptor), name, dst_dir_fd=directory, follow_symlinks=True)

    def sync(self) -> None:
        fd = self._beneath.open(b"", os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_all(fd)
        finally:
            os.close(fd)

    def entries(self, path: bytes) -> list[Entry]:
        with self._beneath.found(path) as found:
            fd = _reopen(found, os.O_DIRECTORY)
        try:
            seen = list_directory(fd, os.fstat(fd).st_dev)
        finally:
            os.close(fd)
        seen.sort()
        return seen

    def mkdir(self, path: bytes, mode: int, owner: Owner) -> None:
        mode = stat.S_IFDIR | (mode & mapped.PERMISSIONS)
        with self._beneath.directory_of(path) as (directory, name):
            os.mkdir(name, mapped.host_mode(mode), dir_fd=directory)
            os.close(self._begun(self._beneath.open(path, os.O_PATH), directory, mode, 0, owner))

    def mknod(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        """A device, pipe or socket is an empty file on the host, whose attribute says what it is to the guest."""
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            fail(errno.EINVAL)
        mode = (stat.S_IFMT(mode) or stat.S_IFREG) | (mode & mapped.PERMISSIONS)
        with self._beneath.directory_of(path) as (directory, name):
            how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, how, mapped.host_mode(mode), dir_fd=directory)
            try:
                os.close(self._begun(fd, directory, mode, rdev, owner))
            except OSError:
                os.unlink(name, dir_fd=directory)
                raise

    def settle(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        with self._beneath.directory_of(path) as (directory, _), self._beneath.found(path) as fd:
            os.close(self._begun(os.dup(fd), directory, mode, rdev, owner))

    def symlink(self, path: bytes, target: bytes, owner: Owner) -> None:
        with self._beneath.directory_of(path) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def link(self, existing: bytes, path: bytes) -> None:
        with self._beneath.directory_of(existing) as (old, name), self._beneath.directory_of(path) as (new, new_name):
            os.link(name, new_name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)

    def readlink(self, path: bytes) -> bytes:
        with self._beneath.found(path) as fd:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                fail(errno.EINVAL)
            return os.readlink(b"", dir_fd=fd)

    def unlink(self, path: bytes) -> None:
        with self._beneath.directory_of(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def rmdir(self, path: bytes) -> None:
        with self._beneath.directory_of(path) as (directory, name):
            os.rmdir(name, dir_fd=directory)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """A whiteout would be a device on the host."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            fail(errno.EINVAL)
        with self._beneath.directory_of(old) as (here, name), self._beneath.directory_of(new) as (there, new_name):
            rename2(here, name, there, new_name, flags)

    def change(self, path: bytes, changes: Changes) -> None:
        with self._beneath.found(path) as fd:
            if changes.size is not None:
                file = HostFile(_reopen(fd, os.O_WRONLY))
                try:
                    os.ftruncate(file.fd, changes.size)
                finally:
                    file.close()
            _change(fd, changes)

    def space(self) -> Space:
        seen = os.fstatvfs(self._beneath.fd)
        return Space(seen.f_frsize, seen.f_blocks, seen.f_bfree, seen.f_bavail, seen.f_files, seen.f_ffree)

    def get_xattr(self, path: bytes, name: bytes) -> bytes:
        with self._beneath.found(path) as fd:
            return os.getxattr(_xattr_place(fd), _xattr_name(name))

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        with self._beneath.found(path) as fd:
            os.setxattr(_xattr_place(fd), _xattr_name(name), value, flags)

    def list_xattrs(self, path: bytes) -> list[bytes]:
        with self._beneath.found(path) as fd:
            if not _may_have_xattrs(fd):
                return []
            names = [os.fsencode(name) for name in os.listxattr(by_descriptor(fd))]
        return [name for name in names if name.startswith(b"user.") and not name.startswith(OUR_XATTRS)]

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        with self._beneath.found(path) as fd:
            os.removexattr(_xattr_place(fd), _xattr_name(name))

    def close(self) -> None:
        self._beneath.close()

    def _begun(self, fd: int, directory: int, mode: int, rdev: int, owner: Owner) -> int:
        """The descriptor of a new file, which is now what the guest wanted; closed when that fails."""
        try:
            above = mapped.attributes(directory)
            if above.mode & stat.S_ISGID:
                owner = Owner(owner.uid, above.gid)
                mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
            mapped.begin(fd, mode, rdev, owner)
        except OSError:
            os.close(fd)
            raise
        return fd


def _reopen(fd: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for, if it is a regular file or a directory."""
    mode = mapped.kind(fd)
    if stat.S_ISLNK(mode):
        fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP)
    if stat.S_ISDIR(mode):
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            fail(errno.EISDIR)
        return os.open(by_descriptor(fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if flags & os.O_DIRECTORY:
        fail(errno.ENOTDIR)
    if not stat.S_ISREG(mode):
        fail(errno.ENXIO)
    return os.open(by_descriptor(fd), (flags & OPEN_FLAGS) | os.O_CLOEXEC | os.O_NONBLOCK)


def _change(fd: int, changes: Changes) -> None:
    """All but the size."""
    if changes.mode is not None or changes.uid is not None or changes.gid is not None:
        mapped.change(fd, changes.mode, changes.uid, changes.gid)
    if changes.atime is not None or changes.mtime is not None:
        set_times(fd, _time(changes.atime), _time(changes.mtime))


def _time(value: int | None) -> tuple[int, int]:
    if value is None:
        return 0, UTIME_OMIT
    return (0, UTIME_NOW) if value == NOW else divmod(value, SECOND)


def _may_have_xattrs(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _xattr_place(fd: int) -> str:
    if not _may_have_xattrs(fd):
        fail(errno.EPERM)
    return by_descriptor(fd)


def _xattr_name(name: bytes) -> bytes:
    """Only the user's attributes are shared, and not our own."""
    if not name.startswith(b"user.") or b"\0" in name:
        fail(errno.EOPNOTSUPP)
    if name.startswith(OUR_XATTRS):
        fail(errno.EPERM)
    return name
