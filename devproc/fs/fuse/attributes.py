"""GETATTR, STATX, SETATTR, and extended attributes: SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR."""

from __future__ import annotations

import contextlib
import errno
import os

from devproc.fs.beneath import birth_time
from devproc.fs.fuse.messages import SECOND, Header, Opcode
from devproc.fs.fuse.session import Session, answers
from devproc.fs.tree import NOW, Changes, fail

GETATTR_FH = 1
MODE, UID, GID, SIZE, ATIME, MTIME, FH, ATIME_NOW, MTIME_NOW = 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x100


@answers(Opcode.GETATTR)
def getattr_(session: Session, header: Header, flags: int, padding: int, fh: int) -> bytes:
    if flags & GETATTR_FH:
        return session.attr_out(session.file(session.nodes.handle(fh)).attributes())
    return session.attr_out(session.attributes(header.nodeid))


@answers(Opcode.STATX)
def statx(session: Session, header: Header, flags: int, padding: int, fh: int, *wanted: int) -> bytes:
    """What GETATTR says, and when the file was made."""
    if flags & GETATTR_FH:
        file = session.file(session.nodes.handle(fh))
        return session.statx_out(file.attributes(), file.born())
    seen, node, born = session.attributes(header.nodeid), session.nodes.get(header.nodeid), None
    if node.paths:
        with contextlib.suppress(OSError):  # a tree that cannot hold says no birth
            fd = session.tree.hold(node.path)
            try:
                born = birth_time(fd)
            finally:
                os.close(fd)
    return session.statx_out(seen, born)


@answers(Opcode.SETATTR)
def setattr_(session: Session, header: Header, valid: int, padding: int, fh: int, size: int, *fields: int) -> bytes:
    _, atime, mtime, _, atimensec, mtimensec, _, mode, _, uid, gid, _ = fields
    changes = Changes(
        mode=mode if valid & MODE else None,
        uid=uid if valid & UID else None,
        gid=gid if valid & GID else None,
        size=size if valid & SIZE else None,
        atime=_time(valid, ATIME, ATIME_NOW, atime, atimensec),
        mtime=_time(valid, MTIME, MTIME_NOW, mtime, mtimensec),
    )
    if valid & FH:
        session.file(session.nodes.handle(fh)).change(changes)
    elif session.nodes.get(header.nodeid).paths:
        session.tree.change(session.path(header.nodeid), changes)
    else:
        session.open_file(header.nodeid).change(changes)
    return session.attr_out(session.attributes(header.nodeid))


@answers(Opcode.SETXATTR)
def setxattr(session: Session, header: Header, size: int, flags: int, name: bytes) -> bytes:
    if size > len(session.rest):
        fail(errno.EINVAL)
    session.tree.set_xattr(session.path(header.nodeid), name, session.rest[:size], flags)
    return b""


@answers(Opcode.GETXATTR)
def getxattr(session: Session, header: Header, size: int, padding: int, name: bytes) -> bytes:
    return _sized(session.tree.get_xattr(session.path(header.nodeid), name), size)


@answers(Opcode.LISTXATTR)
def listxattr(session: Session, header: Header, size: int, padding: int) -> bytes:
    names = session.tree.list_xattrs(session.path(header.nodeid))
    return _sized(b"".join(name + b"\0" for name in names), size)


@answers(Opcode.REMOVEXATTR)
def removexattr(session: Session, header: Header, name: bytes) -> bytes:
    session.tree.remove_xattr(session.path(header.nodeid), name)
    return b""


def _sized(value: bytes, size: int) -> bytes:
    """The value, or, to a guest that gives 0, how long it is."""
    if size == 0:
        return len(value).to_bytes(8, "little")
    return value if len(value) <= size else fail(errno.ERANGE)


def _time(valid: int, wanted: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & wanted:
        return None
    return NOW if valid & now else seconds * SECOND + nanoseconds
