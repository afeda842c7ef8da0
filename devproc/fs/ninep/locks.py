"""Tlock, Tgetlock. The guest's kernel keeps the locks among its own programs before it asks; here every lock is free.
So programs of one guest lock each other out, and those of the host or of another guest do not."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import Session, answers
from devproc.fs.tree import fail

SUCCESS = 0
READ_LOCK, WRITE_LOCK, UNLOCK = 0, 1, 2


@answers(Type.LOCK)
def lock(session: Session, number: int, kind: int, flags: int, *owner: Any) -> Sequence[Any]:
    _check(session, number, kind)
    return (SUCCESS,)


@answers(Type.GETLOCK)
def getlock(session: Session, number: int, kind: int, *owner: Any) -> Sequence[Any]:
    _check(session, number, kind)
    return UNLOCK, *owner


def _check(session: Session, number: int, kind: int) -> None:
    if session.fid(number).flags is None:
        fail(errno.EBADF)
    if kind not in (READ_LOCK, WRITE_LOCK, UNLOCK):
        fail(errno.EINVAL)
