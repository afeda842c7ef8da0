"""OPEN, CREATE, TMPFILE, READ, WRITE, COPY_FILE_RANGE, FSYNC, FALLOCATE, LSEEK, RELEASE: files. Data moves between the
file and guest memory directly."""

from __future__ import annotations

import errno
import os
import struct
from functools import cache

from devproc.fs.fuse.messages import IN_HEADER, REQUESTS, Header, Opcode
from devproc.fs.fuse.session import DATA_AT, Session, answers
from devproc.fs.tree import fail, join

# Linux's numbers of open flags on architectures without their own.
OPEN_FLAGS = {0o1: os.O_WRONLY, 0o2: os.O_RDWR, 0o1000: os.O_TRUNC, 0o200: os.O_EXCL, 0o200000: os.O_DIRECTORY}
KEPT_FLAGS = os.O_ACCMODE | os.O_DIRECTORY  # what a successor opens a file with
WRITE_AT = IN_HEADER.size + REQUESTS[Opcode.WRITE][0].size
FSYNC_DATA = 1
COPY_MAX = 16 << 20  # bytes: other requests wait meanwhile
_OPENED = struct.Struct("<QIi")
_WRITTEN = struct.Struct("<II")


@answers(Opcode.OPEN)
def open_(session: Session, header: Header, flags: int, open_flags: int) -> bytes:
    wanted = _host_flags(flags)
    file = session.open(header.nodeid, wanted)
    return _OPENED.pack(session.nodes.opened(header.nodeid, wanted & KEPT_FLAGS, file).number, 0, 0)


@answers(Opcode.CREATE)
def create(session: Session, header: Header, flags: int, mode: int, umask: int, open_flags: int, name: bytes) -> bytes:
    path, wanted = join(session.path(header.nodeid), name), _host_flags(flags)
    file = session.tree.create(path, wanted, mode, session.owner(header))
    seen = file.attributes()
    node = session.nodes.found(path, seen)
    handle = session.nodes.opened(node.number, wanted & KEPT_FLAGS, file)
    return session.entry_of(node, seen) + _OPENED.pack(handle.number, 0, 0)


@answers(Opcode.TMPFILE)
def tmpfile(session: Session, header: Header, flags: int, mode: int, umask: int, open_flags: int, name: bytes) -> bytes:
    """A file without a name: kept as one whose name went."""
    wanted = _host_flags(flags)
    file = session.tree.temporary(session.path(header.nodeid), wanted, mode, session.owner(header))
    seen = file.attributes()
    node = session.nodes.nameless(seen)
    session.nameless.keep_file(file, node.identity)
    handle = session.nodes.opened(node.number, wanted & KEPT_FLAGS, file)
    return session.entry_of(node, seen) + _OPENED.pack(handle.number, 0, 0)


@answers(Opcode.READ)
def read(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    size = min(size, max(0, session.request.writable - DATA_AT))
    if offset + size > 1 << 63:
        fail(errno.EINVAL)
    file = session.file(session.nodes.handle(fh))
    done = file.read(session.request.views(DATA_AT, size), offset)
    session.request.written = DATA_AT + done
    return b""


@answers(Opcode.WRITE)
def write(session: Session, header: Header, fh: int, offset: int, size: int, *others: int) -> bytes:
    if size > session.request.readable - WRITE_AT:
        fail(errno.EINVAL)
    if offset + size > 1 << 63:
        fail(errno.EFBIG)
    file = session.file(session.nodes.handle(fh))
    return _WRITTEN.pack(file.write(session.request.views_readable(WRITE_AT, size), offset), 0)


@answers(Opcode.COPY_FILE_RANGE)
def copy_file_range(session: Session, header: Header, fh: int, offset: int, node: int, to: int, *more: int) -> bytes:
    """At most COPY_MAX bytes at a time, which the guest asks for again."""
    there, length, flags = more
    if flags:
        fail(errno.EINVAL)
    if max(offset, there) + length > 1 << 63:
        fail(errno.EFBIG)
    source = session.file(session.nodes.handle(fh)).descriptor()
    target = session.file(session.nodes.handle(to)).descriptor()
    return _WRITTEN.pack(os.copy_file_range(source, target, min(length, COPY_MAX), offset, there), 0)


@answers(Opcode.FSYNC, Opcode.FSYNCDIR)
def fsync(session: Session, header: Header, fh: int, flags: int, padding: int) -> bytes:
    session.file(session.nodes.handle(fh)).sync(bool(flags & FSYNC_DATA))
    return b""


@answers(Opcode.FALLOCATE)
def fallocate(session: Session, header: Header, fh: int, offset: int, length: int, mode: int, padding: int) -> bytes:
    session.file(session.nodes.handle(fh)).allocate(mode, offset, length)
    return b""


@answers(Opcode.LSEEK)
def lseek(session: Session, header: Header, fh: int, offset: int, whence: int, padding: int) -> bytes:
    return session.file(session.nodes.handle(fh)).seek(offset, whence).to_bytes(8, "little")


@answers(Opcode.RELEASE, Opcode.RELEASEDIR)
def release(session: Session, header: Header, fh: int, *others: int) -> bytes:
    session.released(fh)
    return b""


@cache
def _host_flags(flags: int) -> int:
    """Those that mean something here: never O_APPEND, O_DIRECT, O_NOATIME."""
    return sum(host for bit, host in OPEN_FLAGS.items() if flags & bit)
