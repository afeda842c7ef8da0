"""Tmkdir, Tmknod, Tsymlink, Tlink, Treadlink, Trename, Trenameat, Tunlinkat: names in directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import Session, answers, qid
from devproc.fs.tree import Owner, fail, join

AT_REMOVEDIR = 0x200


@answers(Type.MKDIR)
def mkdir(session: Session, number: int, name: bytes, mode: int, gid: int) -> Sequence[Any]:
    path = join(session.path(number), name)
    session.tree.mkdir(path, mode, Owner(session.fid(number).uid, gid))
    return (qid(session.tree.stat(path)),)


@answers(Type.MKNOD)
def mknod(session: Session, number: int, name: bytes, mode: int, major: int, minor: int, gid: int) -> Sequence[Any]:
    if major >= 1 << 12 or minor >= 1 << 20:
        fail(errno.EINVAL)
    path = join(session.path(number), name)
    session.tree.mknod(path, mode, os.makedev(major, minor), Owner(session.fid(number).uid, gid))
    return (qid(session.tree.stat(path)),)


@answers(Type.SYMLINK)
def symlink(session: Session, number: int, name: bytes, target: bytes, gid: int) -> Sequence[Any]:
    """The target is the guest's business: nothing here ever follows it."""
    path = join(session.path(number), name)
    session.tree.symlink(path, target, Owner(session.fid(number).uid, gid))
    return (qid(session.tree.stat(path)),)


@answers(Type.LINK)
def link(session: Session, directory: int, number: int, name: bytes) -> Sequence[Any]:
    session.tree.link(session.path(number), join(session.path(directory), name))
    return ()


@answers(Type.READLINK)
def readlink(session: Session, number: int) -> Sequence[Any]:
    return (session.tree.readlink(session.path(number)),)


@answers(Type.RENAME)
def rename(session: Session, number: int, directory: int, name: bytes) -> Sequence[Any]:
    _move(session, session.path(number), join(session.path(directory), name))
    return ()


@answers(Type.RENAMEAT)
def renameat(session: Session, olddir: int, oldname: bytes, newdir: int, newname: bytes) -> Sequence[Any]:
    _move(session, join(session.path(olddir), oldname), join(session.path(newdir), newname))
    return ()


@answers(Type.UNLINKAT)
def unlinkat(session: Session, number: int, name: bytes, flags: int) -> Sequence[Any]:
    if flags & ~AT_REMOVEDIR:
        fail(errno.EINVAL)
    path = join(session.path(number), name)
    session.keep_open(path)
    if flags & AT_REMOVEDIR:
        session.tree.rmdir(path)
    else:
        session.tree.unlink(path)
    session.fids.unlinked(path)
    return ()


def _move(session: Session, old: bytes, new: bytes) -> None:
    """rename(2), which does nothing when both names are the same file's."""
    if old != new:
        session.keep_open(new)
    session.tree.rename(old, new)
    if old != new and not _there(session, old):
        session.fids.renamed(old, new, session.intents.again)


def _there(session: Session, path: bytes) -> bool:
    try:
        session.tree.stat(path)
    except OSError:
        return False
    return True
