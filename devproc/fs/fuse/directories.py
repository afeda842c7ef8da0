"""OPENDIR, READDIR, READDIRPLUS."""

from __future__ import annotations

import os
import struct

from devproc.fs.fuse.files import _OPENED
from devproc.fs.fuse.messages import Header, Opcode
from devproc.fs.fuse.nodes import Handle
from devproc.fs.fuse.session import DATA_AT, Session, answers
from devproc.fs.tree import Entry, join, number_of

DT_DIR = 4
ENTRY_SIZE = 128  # struct fuse_entry_out
PADDING = [bytes(size) for size in range(8)]
_ENTRY = struct.Struct("<QQII")


@answers(Opcode.OPENDIR)
def opendir(session: Session, header: Header, flags: int, open_flags: int) -> bytes:
    file = session.open(header.nodeid, os.O_DIRECTORY)
    return _OPENED.pack(session.nodes.opened(header.nodeid, os.O_DIRECTORY, file).number, 0, 0)


@answers(Opcode.READDIR)
def readdir(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    """Entries from the `offset`th on, as many as fit whole. The directory is read when `offset` is 0, and again by a
    successor; an entry's offset is its place in that."""
    listing = _listing(session, session.nodes.handle(fh), offset)
    room = min(size, session.request.writable - DATA_AT)
    parts: list[bytes] = []
    for place, entry in enumerate(listing[offset:], offset):
        record = _record(entry, place)
        room -= len(record)
        if room < 0:
            break
        parts.append(record)
    return b"".join(parts)


@answers(Opcode.READDIRPLUS)
def readdirplus(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    """The same with what LOOKUP says of each; of "." and "..", and of what has gone meanwhile, nothing."""
    handle = session.nodes.handle(fh)
    listing = _listing(session, handle, offset)
    room = min(size, session.request.writable - DATA_AT)
    parts: list[bytes] = []
    for place in range(offset, len(listing)):
        record = _record(listing[place], place)
        room -= ENTRY_SIZE + len(record)
        if room < 0:
            break
        parts += [_found(session, handle, listing[place].name), record]
    return b"".join(parts)


def _listing(session: Session, handle: Handle, offset: int) -> list[Entry]:
    """What is in an open directory; nothing when it was removed."""
    if offset == 0 or handle.listing is None:
        node = session.nodes.get(handle.node)
        if not node.paths:
            return []
        here = session.tree.stat(node.path)
        dots = [Entry(name, here.device, here.inode, DT_DIR) for name in (b".", b"..")]
        handle.listing = dots + session.tree.entries(node.path)
    return handle.listing


def _record(entry: Entry, place: int) -> bytes:
    """struct fuse_dirent."""
    name, device, inode, kind = entry
    return _ENTRY.pack(number_of(device, inode), place + 1, len(name), kind) + name + PADDING[-len(name) % 8]


def _found(session: Session, handle: Handle, name: bytes) -> bytes:
    if name in (b".", b".."):
        return bytes(ENTRY_SIZE)
    try:
        return session.entry(join(session.path(handle.node), name))
    except OSError:
        return bytes(ENTRY_SIZE)
