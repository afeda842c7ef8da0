"""Tlock, Tgetlock: byte ranges, kept by the host's kernel. Who asks is told from client and process.

Linux's client keeps the locks among its own programs before it asks, so what comes here is for everybody else: programs
of the host, and other guests.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
from collections.abc import Sequence
from typing import Any

from devproc.fs.locks import END, Lock
from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import Session, answers
from devproc.fs.tree import OpenFile, fail

SUCCESS, BLOCKED = 0, 1
BLOCK = 1  # flag of Tlock: wait
KINDS = {0: fcntl.F_RDLCK, 1: fcntl.F_WRLCK, 2: fcntl.F_UNLCK}
NUMBERS = {kind: number for number, kind in KINDS.items()}


@answers(Type.LOCK)
def lock(session: Session, number: int, kind: int, flags: int, *where: Any) -> Sequence[Any]:
    """With BLOCK, answered when the lock is there."""
    if _set(session, number, kind, *where):
        return (SUCCESS,)
    if not flags & BLOCK:
        return (BLOCKED,)
    session.wait(lambda: (SUCCESS,) if _set(session, number, kind, *where) else None, Type.LOCK)
    return (BLOCKED,)


@answers(Type.GETLOCK)
def getlock(session: Session, number: int, kind: int, start: int, length: int, *owner: Any) -> Sequence[Any]:
    wanted = _lock(kind, start, length)
    if wanted.kind == fcntl.F_UNLCK:
        fail(errno.EINVAL)
    found = session.locks.test(_file(session, number), _owner(*owner), wanted)
    if found is None:
        return NUMBERS[fcntl.F_UNLCK], start, length, *owner
    there, pid = found
    size = 0 if there.last == END else there.last - there.start + 1
    return NUMBERS[there.kind], there.start, size, pid, owner[1]


def _set(session: Session, number: int, kind: int, start: int, length: int, proc_id: int, client_id: bytes) -> bool:
    wanted = _lock(kind, start, length)
    done = session.locks.set(_file(session, number), _owner(proc_id, client_id), wanted, pid=proc_id)
    if wanted.kind == fcntl.F_UNLCK:
        session.waiting.look()
    return done


def _file(session: Session, number: int) -> OpenFile:
    return session.file(session.fid(number))


def _lock(kind: int, start: int, length: int) -> Lock:
    """Length 0 is up to the end, wherever that will be."""
    if kind not in KINDS or start > END:
        fail(errno.EINVAL)
    return Lock(KINDS[kind], start, END if length == 0 else min(start + length - 1, END))


def _owner(proc_id: int, client_id: bytes) -> int:
    """One number for a process of a client."""
    digest = hashlib.blake2b(proc_id.to_bytes(4, "little") + client_id, digest_size=8)
    return int.from_bytes(digest.digest(), "little")
