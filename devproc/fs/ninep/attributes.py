"""Tgetattr, Tsetattr."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import NOTHING, Session, answers, qid
from devproc.fs.tree import NOW, Changes

GETATTR_BASIC = 0x7FF  # everything up to the times and blocks; not btime, gen, data_version
SECOND = 1_000_000_000
MODE, UID, GID, SIZE, ATIME, MTIME, ATIME_SET, MTIME_SET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x80, 0x100


@answers(Type.GETATTR)
def getattr_(session: Session, number: int, request_mask: int) -> Sequence[Any]:
    seen = session.attributes(session.fid(number))
    times = [part for time in (seen.atime, seen.mtime, seen.ctime) for part in divmod(max(time, 0), SECOND)]
    sizes = (seen.nlink, seen.rdev, seen.size, seen.block_size, seen.blocks)
    return GETATTR_BASIC, qid(seen), seen.mode, seen.uid, seen.gid, *sizes, *times, 0, 0, 0, 0


@answers(Type.SETATTR)
def setattr_(
    session: Session, number: int, valid: int, mode: int, uid: int, gid: int, size: int, *times: int
) -> Sequence[Any]:
    fid = session.fid(number)
    atime, atime_nsec, mtime, mtime_nsec = times
    changes = Changes(
        mode=mode if valid & MODE else None,
        uid=uid if valid & UID else None,
        gid=gid if valid & GID else None,
        size=size if valid & SIZE else None,
        atime=_time(valid, ATIME, ATIME_SET, atime, atime_nsec),
        mtime=_time(valid, MTIME, MTIME_SET, mtime, mtime_nsec),
    )
    if fid.gone and fid.flags is None:
        file = session.nameless.open(fid.identity or NOTHING, os.O_PATH if changes.size is None else os.O_WRONLY)
        try:
            file.change(changes)
        finally:
            file.close()
    elif fid.gone:
        session.file(fid).change(changes)
    else:
        session.tree.change(fid.path, changes)
    return ()


def _time(valid: int, wanted: int, given: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & wanted:
        return None
    return seconds * SECOND + nanoseconds if valid & given else NOW
