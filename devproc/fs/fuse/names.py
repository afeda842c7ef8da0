"""LOOKUP, MKDIR, MKNOD, SYMLINK, LINK, READLINK, UNLINK, RMDIR, RENAME, RENAME2: names in directories."""

from __future__ import annotations

from devproc.fs.fuse.messages import Header, Opcode
from devproc.fs.fuse.session import Session, answers
from devproc.fs.tree import join

RENAME_EXCHANGE = 2


@answers(Opcode.LOOKUP)
def lookup(session: Session, header: Header, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    try:
        return session.entry(path)
    except FileNotFoundError:
        session.nodes.unlinked(path)  # what the guest knew there has gone on the host
        raise


@answers(Opcode.MKDIR)
def mkdir(session: Session, header: Header, mode: int, umask: int, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    session.tree.mkdir(path, mode, session.owner(header))
    return session.entry(path)


@answers(Opcode.MKNOD)
def mknod(session: Session, header: Header, mode: int, rdev: int, umask: int, padding: int, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    session.tree.mknod(path, mode, rdev, session.owner(header))
    return session.entry(path)


@answers(Opcode.SYMLINK)
def symlink(session: Session, header: Header, name: bytes, target: bytes) -> bytes:
    """The target is the guest's business: nothing here ever follows it."""
    path = join(session.path(header.nodeid), name)
    session.tree.symlink(path, target, session.owner(header))
    return session.entry(path)


@answers(Opcode.LINK)
def link(session: Session, header: Header, existing: int, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    node = session.nodes.get(existing)
    if node.paths:
        session.tree.link(node.path, path)
    else:
        session.tree.link_held(session.nameless.descriptor(node.identity), path)
    return session.entry(path)


@answers(Opcode.READLINK)
def readlink(session: Session, header: Header) -> bytes:
    return session.tree.readlink(session.path(header.nodeid))


@answers(Opcode.UNLINK)
def unlink(session: Session, header: Header, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    session.keep_open(path)
    session.tree.unlink(path)
    session.nodes.unlinked(path)
    return b""


@answers(Opcode.RMDIR)
def rmdir(session: Session, header: Header, name: bytes) -> bytes:
    path = join(session.path(header.nodeid), name)
    session.keep_open(path)
    session.tree.rmdir(path)
    session.nodes.unlinked(path)
    return b""


@answers(Opcode.RENAME)
def rename(session: Session, header: Header, newdir: int, old: bytes, new: bytes) -> bytes:
    _move(session, join(session.path(header.nodeid), old), join(session.path(newdir), new), 0)
    return b""


@answers(Opcode.RENAME2)
def rename2(session: Session, header: Header, newdir: int, flags: int, padding: int, old: bytes, new: bytes) -> bytes:
    _move(session, join(session.path(header.nodeid), old), join(session.path(newdir), new), flags)
    return b""


def _move(session: Session, old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2), which does nothing when both names are the same file's."""
    again = session.intents.again
    if not flags & RENAME_EXCHANGE and old != new:
        session.keep_open(new)
    session.tree.rename(old, new, flags)
    if flags & RENAME_EXCHANGE:
        if not again:  # what a predecessor may have exchanged already, the next LOOKUP finds out
            session.nodes.exchanged(old, new)
    elif old != new and not _there(session, old):
        session.nodes.renamed(old, new, again)


def _there(session: Session, path: bytes) -> bool:
    try:
        session.tree.stat(path)
    except OSError:
        return False
    return True
