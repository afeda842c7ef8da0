"""Txattrwalk, Txattrcreate: extended attributes are read and written through fids of their own."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from devproc.fs.ninep.fids import Fid, NewXattr
from devproc.fs.ninep.messages import Type
from devproc.fs.ninep.session import Session, answers
from devproc.fs.tree import fail

XATTR_SIZE_MAX = 65536


@answers(Type.XATTRWALK)
def xattrwalk(session: Session, number: int, newfid: int, name: bytes) -> Sequence[Any]:
    """`newfid` reads the attribute, or, without a name, the list of them. Answers its size."""
    path, uid = session.path(number), session.fid(number).uid
    if name:
        value = session.tree.get_xattr(path, name)
    else:
        value = b"".join(each + b"\0" for each in session.tree.list_xattrs(path))
    session.forget_again(newfid)
    session.fids.add(Fid(newfid, path, uid, xattr=value))
    return (len(value),)


@answers(Type.XATTRCREATE)
def xattrcreate(session: Session, number: int, name: bytes, size: int, flags: int) -> Sequence[Any]:
    """The fid becomes one that takes `size` bytes, and sets the attribute when it is clunked."""
    fid = session.fid(number)
    session.path(number)
    if fid.flags is not None:
        fail(errno.EBUSY)
    if size > XATTR_SIZE_MAX:
        fail(errno.E2BIG)
    fid.new_xattr = NewXattr(name, flags, bytearray(size))
    session.fids.changed(fid)
    return ()
