"""GETLK, SETLK, SETLKW, FLUSH: locks of byte ranges and of whole files, kept by the host's kernel."""

from __future__ import annotations

import errno
import fcntl
import struct

from devproc.fs.fuse.messages import Header, Opcode
from devproc.fs.fuse.session import Session, answers
from devproc.fs.locks import END, Lock
from devproc.fs.tree import fail

LK_FLOCK = 1
# Linux's numbers on the guest's architecture; the host's may be others.
KINDS = {0: fcntl.F_RDLCK, 1: fcntl.F_WRLCK, 2: fcntl.F_UNLCK}
NUMBERS = {kind: number for number, kind in KINDS.items()}
_LOCK = struct.Struct("<QQII")


@answers(Opcode.GETLK)
def getlk(session: Session, header: Header, fh: int, owner: int, start: int, last: int, kind: int, *rest: int) -> bytes:
    file = session.file(session.nodes.handle(fh))
    found = session.locks.test(file, owner, _lock(start, last, kind))
    if found is None:
        return _LOCK.pack(start, last, NUMBERS[fcntl.F_UNLCK], 0)
    lock, pid = found
    return _LOCK.pack(lock.start, lock.last, NUMBERS[lock.kind], pid)


@answers(Opcode.SETLK)
def setlk(session: Session, header: Header, *fields: int) -> bytes:
    if not _set(session, *fields):
        fail(errno.EAGAIN)
    return b""


@answers(Opcode.SETLKW)
def setlkw(session: Session, header: Header, *fields: int) -> bytes:
    """Answered when the lock is there."""
    if not _set(session, *fields):
        session.wait(header, lambda: _set(session, *fields))
    return b""


@answers(Opcode.FLUSH)
def flush(session: Session, header: Header, fh: int, unused: int, padding: int, owner: int) -> bytes:
    """A program closed the file: its locks there are gone."""
    handle = session.nodes.handle(fh)
    session.locks.release(session.identity(session.nodes.get(handle.node)), owner)
    session.waiting.look()
    return b""


def _set(session: Session, fh: int, owner: int, start: int, last: int, kind: int, pid: int, flags: int, _: int) -> bool:
    file = session.file(session.nodes.handle(fh))
    lock = _lock(start, last, kind)
    done = session.locks.set(file, owner, lock, pid=pid, whole=bool(flags & LK_FLOCK))
    if lock.kind == fcntl.F_UNLCK:
        session.waiting.look()
    return done


def _lock(start: int, last: int, kind: int) -> Lock:
    return Lock(KINDS.get(kind, -1), start, min(last, END))
