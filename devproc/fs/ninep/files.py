"""Tlopen, Tlcreate, Tread, Twrite, Tfsync: regular files. Data moves between the file and guest memory directly."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.fids import Fid
from devproc.fs.ninep.messages import HEADER, Type
from devproc.fs.ninep.session import NOTHING, Session, answers, qid
from devproc.fs.tree import OpenFile, Owner, fail, join

# 9P2000.L numbers its open flags itself; they are those of x86 and of every architecture without its own.
OPEN_FLAGS = {0o1: os.O_WRONLY, 0o2: os.O_RDWR, 0o1000: os.O_TRUNC, 0o200: os.O_EXCL, 0o200000: os.O_DIRECTORY}
READ_AT = HEADER.size + 4  # where the data of Rread begins
WRITE_AT = HEADER.size + 16  # and that of Twrite
KEPT_FLAGS = os.O_ACCMODE | os.O_DIRECTORY  # what a successor opens a file with


def host_flags(flags: int) -> int:
    """Those that mean something here: never O_APPEND, O_DIRECT, O_NOATIME."""
    return sum(host for bit, host in OPEN_FLAGS.items() if flags & bit)


@answers(Type.LOPEN)
def lopen(session: Session, number: int, flags: int) -> Sequence[Any]:
    fid = session.fid(number)
    if fid.flags is not None and not session.intents.again:
        fail(errno.EBUSY)
    wanted = host_flags(flags)
    file = session.nameless.open(fid.identity or NOTHING, wanted) if fid.gone else session.tree.open(fid.path, wanted)
    return _opened(session, fid, fid.path, file, wanted)


@answers(Type.LCREATE)
def lcreate(session: Session, number: int, name: bytes, flags: int, mode: int, gid: int) -> Sequence[Any]:
    """Make a file in the directory; the fid becomes that file, open."""
    fid, directory = session.fid(number), session.path(number)
    if fid.flags is not None:
        fail(errno.EBUSY)
    path, wanted = join(directory, name), host_flags(flags)
    file = session.tree.create(path, wanted, mode, Owner(fid.uid, gid))
    return _opened(session, fid, path, file, wanted)


def _opened(session: Session, fid: Fid, path: bytes, file: OpenFile, flags: int) -> Sequence[Any]:
    seen = file.attributes()
    fid.path, fid.file, fid.flags, fid.identity = path, file, flags & KEPT_FLAGS, (seen.device, seen.inode)
    session.fids.changed(fid)
    return qid(seen), 0  # iounit 0: as much as fits a message


@answers(Type.READ)
def read(session: Session, number: int, offset: int, count: int) -> Sequence[Any]:
    fid = session.fids.get(number)
    count = min(count, session.room - READ_AT)
    if fid.xattr is not None:
        data = fid.xattr[offset : offset + count]
        session.request.write_at(READ_AT, data)
        return (len(data),)
    if offset + count > 1 << 63:
        fail(errno.EINVAL)
    done = session.file(fid).read(session.request.views(READ_AT, count), offset)
    session.request.written = READ_AT + done
    return (done,)


@answers(Type.WRITE)
def write(session: Session, number: int, offset: int, count: int) -> Sequence[Any]:
    fid = session.fids.get(number)
    if count > session.size - WRITE_AT:
        fail(errno.EINVAL)
    if fid.new_xattr is not None:
        new = fid.new_xattr
        if offset + count > len(new.value):
            fail(errno.ENOSPC)
        new.value[offset : offset + count] = session.request.read(count)
        new.filled = max(new.filled, offset + count)
        return (count,)
    if offset + count > 1 << 63:
        fail(errno.EFBIG)
    return (session.file(fid).write(session.request.views_readable(WRITE_AT, count), offset),)


@answers(Type.FSYNC)
def fsync(session: Session, number: int, datasync: int) -> Sequence[Any]:
    session.file(session.fid(number)).sync(bool(datasync))
    return ()
