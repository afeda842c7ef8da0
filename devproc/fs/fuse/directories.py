"""OPENDIR, READDIR."""

from __future__ import annotations

import os
import struct

from devproc.fs.fuse.files import _OPENED
from devproc.fs.fuse.messages import Header, Opcode
from devproc.fs.fuse.session import DATA_AT, Session, answers
from devproc.fs.tree import Entry, number_of

DT_DIR = 4
_ENTRY = struct.Struct("<QQII")


@answers(Opcode.OPENDIR)
def opendir(session: Session, header: Header, flags: int, open_flags: int) -> bytes:
    file = session.tree.open(session.path(header.nodeid), os.O_DIRECTORY)
    return _OPENED.pack(session.nodes.opened(header.nodeid, os.O_DIRECTORY, file).number, 0, 0)


@answers(Opcode.READDIR)
def readdir(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    """Entries from the `offset`th on, as many as fit whole. The directory is read when `offset` is 0, and again by a
    successor; an entry's offset is its place in that."""
    handle = session.nodes.handle(fh)
    if offset == 0 or handle.listing is None:
        path = session.path(handle.node)
        here = session.tree.stat(path)
        dots = [Entry(name, here.device, here.inode, DT_DIR) for name in (b".", b"..")]
        handle.listing = dots + session.tree.entries(path)
    room = min(size, session.request.writable - DATA_AT)
    parts: list[bytes] = []
    for place in range(offset, len(handle.listing)):
        entry = handle.listing[place]
        number = number_of(entry.device, entry.inode)
        record = _ENTRY.pack(number, place + 1, len(entry.name), entry.kind) + entry.name
        record += bytes(-len(record) % 8)
        if len(record) > room:
            break
        room -= len(record)
        parts.append(record)
    return b"".join(parts)
