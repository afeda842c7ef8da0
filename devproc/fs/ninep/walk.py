"""Twalk, Tclunk, Tremove: how fids come and go."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.fids import Fid
from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import Session, answers, qid
from devproc.fs.tree import fail, join


@answers(Type.WALK)
def walk(session: Session, number: int, newfid: int, names: list[bytes]) -> Sequence[Any]:
    """A response with fewer qids than names: the walk ended before the name that failed, and there is no new fid."""
    fid = session.fid(number)
    if fid.flags is not None and (names or newfid == number):
        fail(errno.EBADF)  # an open fid can be cloned, and that is all
    if fid.gone and not names and newfid != number:
        session.forget_again(newfid)
        session.fids.add(Fid(newfid, fid.path, fid.uid, identity=fid.identity, gone=True))
        return ([],)
    path, qids = session.path(number), []
    for name in names:
        try:
            path = path.rpartition(b"/")[0] if name == b".." else join(path, name)
            qids.append(qid(session.tree.stat(path)))
        except OSError:
            if not qids:
                raise
            return (qids,)
    if newfid == number:
        fid.path, fid.identity = path, None
        session.fids.changed(fid)
        return (qids,)
    session.forget_again(newfid)
    session.fids.add(Fid(newfid, path, fid.uid))
    return (qids,)


@answers(Type.CLUNK)
def clunk(session: Session, number: int) -> Sequence[Any]:
    """The fid is gone whatever happens; an extended attribute that was written to it is set now."""
    if session.request.again and number not in session.fids:
        return ()  # done by a predecessor
    fid = session.fids.get(number)
    session.remove(fid)
    if fid.new_xattr is not None:
        new = fid.new_xattr
        if new.filled != len(new.value):
            fail(errno.EINVAL)
        if new.value:
            session.tree.set_xattr(fid.path, new.name, bytes(new.value), new.flags)
        else:
            session.tree.remove_xattr(fid.path, new.name)  # how Linux's client removes one
    return ()


@answers(Type.REMOVE)
def remove(session: Session, number: int) -> Sequence[Any]:
    """Remove the file, and clunk the fid even when that fails."""
    path, fid = session.path(number), session.fids.get(number)
    try:
        session.keep_open(path)
        if _directory(session, path):
            session.tree.rmdir(path)
        else:
            session.tree.unlink(path)
        session.fids.unlinked(path)
    finally:
        session.remove(fid)
    return ()


def _directory(session: Session, path: bytes) -> bool:
    """What a predecessor has removed is as good as a file: either is removed once."""
    try:
        return session.tree.stat(path).directory
    except FileNotFoundError:
        if not session.intents.again:
            raise
        return False
