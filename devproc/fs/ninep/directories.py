"""Treaddir, Tstatfs."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.files import READ_AT
from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import QTDIR, QTFILE, QTSYMLINK, Session, answers
from devproc.fs.tree import Entry, fail, number_of

V9FS_MAGIC = 0x01021997
DT_DIR, DT_LNK = 4, 10
QID_KINDS = {DT_DIR: QTDIR, DT_LNK: QTSYMLINK}
_ENTRY = struct.Struct("<BIQQBH")  # qid, offset, type, length of the name


@answers(Type.READDIR)
def readdir(session: Session, number: int, offset: int, count: int) -> Sequence[Any]:
    """Entries from the `offset`th on, as many as fit whole. The directory is read when `offset` is 0, and again by a
    successor; an entry's offset is its place in that."""
    fid = session.fid(number)
    if fid.flags is None:
        fail(errno.EBADF)
    if offset == 0 or fid.listing is None:
        if fid.gone:
            return (0,)
        here = session.tree.stat(fid.path)
        dots = [Entry(name, here.device, here.inode, DT_DIR) for name in (b".", b"..")]
        fid.listing = dots + session.tree.entries(fid.path)
        session.fids.listed(fid)
    room = min(count, session.room - READ_AT)
    parts: list[bytes] = []
    for place in range(offset, len(fid.listing)):
        entry = fid.listing[place]
        size = _ENTRY.size + len(entry.name)
        if size > room:
            break
        room -= size
        path = number_of(entry.device, entry.inode)
        head = _ENTRY.pack(QID_KINDS.get(entry.kind, QTFILE), 0, path, place + 1, entry.kind, len(entry.name))
        parts += [head, entry.name]
    if not parts and offset < len(fid.listing):
        fail(errno.EINVAL)  # no room for a single one
    data = b"".join(parts)
    session.request.write_at(READ_AT, data)
    return (len(data),)


@answers(Type.STATFS)
def statfs(session: Session, number: int) -> Sequence[Any]:
    session.fid(number)
    seen = session.tree.space()
    counts = (seen.blocks, seen.free, seen.available, seen.files, seen.files_free)
    return V9FS_MAGIC, seen.block_size, *counts, 0, seen.name_max
