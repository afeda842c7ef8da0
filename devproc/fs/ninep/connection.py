"""Tversion, Tauth, Tattach, Tflush: the session itself."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, NoReturn

from devproc.fs.ninep.fids import Fid
from devproc.fs.ninep.messages import NO_FID, Type
from devproc.fs.ninep.session import MSIZE_KEY, MSIZE_MAX, MSIZE_MIN, Session, answers, qid
from devproc.fs.tree import ROOT, fail

VERSION = b"9P2000.L"
NO_USER = 0xFFFFFFFF


@answers(Type.VERSION)
def version(session: Session, msize: int, text: bytes) -> Sequence[Any]:
    """A new session: every fid of the one before is gone."""
    if msize < MSIZE_MIN:
        fail(errno.EMSGSIZE)
    session.clear()
    session.msize = min(msize, MSIZE_MAX)
    session.journal.put(MSIZE_KEY, session.msize)
    return session.msize, VERSION if text == VERSION else b"unknown"


@answers(Type.AUTH)
def auth(session: Session, afid: int, uname: bytes, aname: bytes, n_uname: int) -> NoReturn:
    """Nobody has to say who he is: the guest is trusted with what is shared, and with nothing else."""
    fail(errno.EOPNOTSUPP)


@answers(Type.ATTACH)
def attach(session: Session, number: int, afid: int, uname: bytes, aname: bytes, n_uname: int) -> Sequence[Any]:
    """The root, whatever `aname` says. Files that are made through it belong to n_uname."""
    if afid != NO_FID:
        fail(errno.EOPNOTSUPP)
    root = qid(session.tree.stat(ROOT))
    session.forget_again(number)
    session.fids.add(Fid(number, ROOT, 0 if n_uname == NO_USER else n_uname))
    return (root,)


@answers(Type.FLUSH)
def flush(session: Session, oldtag: int) -> Sequence[Any]:
    """Only a request that waits for a lock has not been answered before this one was taken."""
    session.waiting.interrupt(oldtag, errno.EINTR)
    return ()
