"""OPENDIR, READDIR, READDIRPLUS."""

from __future__ import annotations

import os

from devproc.fs.fuse.files import _OPENED
from devproc.fs.fuse.listing import EMPTY, Listing, pack
from devproc.fs.fuse.messages import Header, Opcode
from devproc.fs.fuse.nodes import Handle
from devproc.fs.fuse.session import DATA_AT, Session, answers
from devproc.fs.tree import join

ENTRY_SIZE = 128  # struct fuse_entry_out


@answers(Opcode.OPENDIR)
def opendir(session: Session, header: Header, flags: int, open_flags: int) -> bytes:
    file = session.open(header.nodeid, os.O_DIRECTORY)
    return _OPENED.pack(session.nodes.opened(header.nodeid, os.O_DIRECTORY, file).number, 0, 0)


@answers(Opcode.READDIR)
def readdir(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    """Entries from the `offset`th on, as many as fit whole. The directory is read when `offset` is 0, and again by a
    successor; an entry's offset is its place in that."""
    listing = _listing(session, session.nodes.handle(fh), offset)
    return listing.part(offset, min(size, session.request.writable - DATA_AT))


@answers(Opcode.READDIRPLUS)
def readdirplus(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    """The same with what LOOKUP says of each; of "." and "..", and of what has gone meanwhile, nothing."""
    handle = session.nodes.handle(fh)
    room = min(size, session.request.writable - DATA_AT)
    parts: list[bytes] = []
    for name, record in _listing(session, handle, offset).records(offset):
        room -= ENTRY_SIZE + len(record)
        if room < 0:
            break
        parts += [_found(session, handle, name), record]
    return b"".join(parts)


def _listing(session: Session, handle: Handle, offset: int) -> Listing:
    """What is in an open directory; nothing when it was removed."""
    if offset == 0 or handle.listing is None:
        node = session.nodes.get(handle.node)
        session.nodes.listed(handle)
        handle.listing = (_packed(session, handle) or _read(session, node.path)) if node.paths else EMPTY
    return handle.listing


def _packed(session: Session, handle: Handle) -> Listing | None:
    """By machine code, of a directory of the host that machine code can read."""
    if session.packer is None:
        return None
    try:
        return session.packer.pack(session.file(handle).descriptor())
    except OSError:
        return None


def _read(session: Session, path: bytes) -> Listing:
    here = session.tree.stat(path)
    return pack(here.device, here.inode, session.tree.entries(path))


def _found(session: Session, handle: Handle, name: bytes) -> bytes:
    if name in (b".", b".."):
        return bytes(ENTRY_SIZE)
    try:
        return session.entry(join(session.path(handle.node), name))
    except OSError:
        return bytes(ENTRY_SIZE)
