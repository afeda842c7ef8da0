"""INIT, DESTROY, FORGET, BATCH_FORGET, INTERRUPT, STATFS, SYNCFS: the session itself."""

from __future__ import annotations

import errno
import struct

from devproc.fs.fuse.messages import MAJOR, MINOR, Flag, Header, Opcode
from devproc.fs.fuse.session import Session, answers
from devproc.fs.tree import fail

MAX_WRITE = 1 << 20
PAGE = 4096
CACHED = Flag.DO_READDIRPLUS | Flag.READDIRPLUS_AUTO  # of use only to a guest that may believe what it is told
BACKGROUND = 64  # requests that the guest sends without waiting
_INIT = struct.Struct("<IIIIHHIIHHII24x")
_FORGET = struct.Struct("<QQ")
_STATFS = struct.Struct("<5QIIII24x")


@answers(Opcode.INIT)
def init(session: Session, header: Header, major: int, minor: int, max_readahead: int, flags: int) -> bytes:
    """Every node and handle of the session before is gone. A guest of another major version is told ours, and comes
    again, or not."""
    session.clear()
    if major < MAJOR:
        fail(errno.EPROTO)
    offered = sum(Flag) if session.cache else sum(Flag) & ~CACHED
    accepted = flags & offered
    limits = (BACKGROUND, BACKGROUND * 3 // 4, MAX_WRITE, 1, MAX_WRITE // PAGE)
    return _INIT.pack(MAJOR, min(minor, MINOR) if major == MAJOR else MINOR, max_readahead, accepted, *limits, 0, 0, 0)


@answers(Opcode.DESTROY)
def destroy(session: Session, header: Header) -> bytes:
    session.clear()
    return b""


@answers(Opcode.FORGET)
def forget(session: Session, header: Header, lookups: int) -> None:
    session.nodes.forget(header.nodeid, lookups)


@answers(Opcode.BATCH_FORGET)
def batch_forget(session: Session, header: Header, count: int, padding: int) -> None:
    whole = len(session.rest) // _FORGET.size * _FORGET.size
    for nodeid, lookups in list(_FORGET.iter_unpack(session.rest[:whole]))[:count]:
        session.nodes.forget(nodeid, lookups)


@answers(Opcode.INTERRUPT)
def interrupt(session: Session, header: Header, unique: int) -> None:
    """Only a request that waits for a lock has not been answered before this one was taken."""
    session.waiting.interrupt(unique, errno.EINTR)


@answers(Opcode.STATFS)
def statfs(session: Session, header: Header) -> bytes:
    seen = session.tree.space()
    counts = (seen.blocks, seen.free, seen.available, seen.files, seen.files_free)
    return _STATFS.pack(*counts, seen.block_size, seen.name_max, seen.block_size, 0)


@answers(Opcode.SYNCFS)
def syncfs(session: Session, header: Header, padding: int) -> bytes:
    session.tree.sync()
    return b""
