"""Owners and modes of the guest's, kept without root rights.

On the host every file belongs to the user who runs the machine, and is never setuid, setgid, sticky, a device or a
pipe: what the guest makes of itself must not mean anything there. What it asked for beyond that is in the extended
attribute `user.bulkhead.owner`, as the text "UID GID MODE RDEV HOSTMODE" (MODE octal, with type bits).

Without the attribute, files of that user are the guest's root's, everybody else's are nobody's. When somebody on the
host has changed the permission bits since (they differ from HOSTMODE), the host's count. Symbolic links, and file
systems without user attributes, have only the default owners: chown of a link is accepted and has no effect, the rest
is refused with EPERM.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from devproc.fs.beneath import by_descriptor
from devproc.fs.tree import Attributes, Owner, fail

__all__ = ["ATTRIBUTE", "attributes", "begin", "change", "host_mode"]

ATTRIBUTE = "user.bulkhead.owner"
NOBODY = 65534
PERMISSIONS = 0o7777
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


class _Guest(NamedTuple):
    """What a file is to the guest."""

    uid: int
    gid: int
    mode: int
    rdev: int


def host_mode(mode: int) -> int:
    """The permission bits on the host for those of the guest: its owner here can always get at the file."""
    return (mode & 0o777) | (0o700 if stat.S_ISDIR(mode) else 0o600)


def attributes(fd: int) -> Attributes:
    """What a descriptor (O_PATH too) is open on, as the guest sees it."""
    status = os.fstat(fd)
    guest = _guest(fd, status)
    return Attributes(
        mode=guest.mode,
        uid=guest.uid,
        gid=guest.gid,
        nlink=status.st_nlink,
        rdev=guest.rdev,
        size=status.st_size,
        blocks=status.st_blocks,
        atime=status.st_atime_ns,
        mtime=status.st_mtime_ns,
        ctime=status.st_ctime_ns,
        device=status.st_dev,
        inode=status.st_ino,
        block_size=status.st_blksize,
    )


def kind(fd: int) -> int:
    """The mode alone; of what is no regular file on the host, that of the host."""
    status = os.fstat(fd)
    return _guest(fd, status).mode if stat.S_ISREG(status.st_mode) else status.st_mode


def begin(fd: int, mode: int, rdev: int, owner: Owner) -> None:
    """A new file is this to the guest; it was made with `host_mode(mode)`, and has no attribute yet."""
    status = os.fstat(fd)
    guest = _Guest(owner.uid, owner.gid, mode, rdev)
    if guest != _default(status):
        _store(fd, status, guest)


def change(fd: int, mode: int | None, uid: int | None, gid: int | None) -> None:
    """chmod and chown."""
    status = os.fstat(fd)
    if stat.S_ISLNK(status.st_mode):
        return
    guest = _guest(fd, status)
    if mode is not None:
        guest = guest._replace(mode=stat.S_IFMT(guest.mode) | (mode & PERMISSIONS))
        wanted = host_mode(guest.mode)
        if stat.S_IMODE(status.st_mode) != wanted:
            os.chmod(by_descriptor(fd), wanted)
            status = os.fstat(fd)
    guest = guest._replace(uid=guest.uid if uid is None else uid, gid=guest.gid if gid is None else gid)
    _store(fd, status, guest)


def _default(status: os.stat_result) -> _Guest:
    uid = 0 if status.st_uid == os.geteuid() else NOBODY
    gid = 0 if status.st_gid == os.getegid() else NOBODY
    return _Guest(uid, gid, status.st_mode, status.st_rdev)


def _guest(fd: int, status: os.stat_result) -> _Guest:
    default = _default(status)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return default
    try:
        words = os.getxattr(by_descriptor(fd), ATTRIBUTE).split()
        uid, gid, mode, rdev, host = (int(word, 8 if place in (2, 4) else 10) for place, word in enumerate(words))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return default
    except ValueError:  # not one of ours
        return default
    mode &= 0o177777
    if host != stat.S_IMODE(status.st_mode):
        mode = stat.S_IFMT(mode) | stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(mode) != stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(mode):
        return default
    return _Guest(uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, mode, rdev & 0xFFFFFFFF)


def _store(fd: int, status: os.stat_result, guest: _Guest) -> None:
    """Write the attribute if it says more than its absence."""
    needed = guest != _default(status)
    path = by_descriptor(fd)
    try:
        if needed:
            host = stat.S_IMODE(status.st_mode)
            text = f"{guest.uid} {guest.gid} {guest.mode:o} {guest.rdev} {host:o}"
            os.setxattr(path, ATTRIBUTE, text.encode())
        else:
            os.removexattr(path, ATTRIBUTE)
    except OSError as error:
        if needed and error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            fail(errno.EPERM)
        if needed or error.errno not in _ABSENT:
            raise
