"""The FUSE requests that a guest sends most, in machine code: names, attributes, data, files made, opened and removed.

The same answers as `devproc.fs.fuse.session` gives; tests compare them. What is not known here, or fails in any way but
ENOENT of a LOOKUP, goes to Python, which then does it from the beginning: nothing has been changed. `Known` is what
both know of nodes and open files (`devproc.fs.fuse.known`); what machine code changes, it writes to the session's
journal, where Python reads it before it does anything itself.
"""

from __future__ import annotations

from devproc.fs.fast.looking import attributes_of, close_file, open_known
from devproc.fs.fast.once import read_message
from devproc.fs.fast.serving import LAST, serving, transfer
from devproc.fs.fast.shared import PATH_ROOM, Share
from devproc.fs.fast.structures import Attr, Statx
from devproc.fs.fuse.making import ENTRY_OUT, create, learn, make_directory
from devproc.fs.fuse.naming import name_path
from devproc.fs.fuse.opening import flush, open_directory, open_file, read_directory, release
from devproc.fs.fuse.removing import forget, remove
from devproc.fs.fuse.structures import Answer, GetAttr, InHeader, Transfer
from devproc.fs.fuse.tables import UNKNOWN, Entry, Known, descriptor_of, entry_named, known_path, path_hash, path_of
from devproc.loop import Loop
from native import addressof, fn, i64, load64, local, store64, sys, u32, u64, wrap64
from proto.ring import Chain, Ring, chain_read, chain_write

__all__ = ["fuse_loop", "fuse_pop", "serve"]

LOOKUP, FORGET, GETATTR, READ, WRITE = 1, 2, 3, 15, 16
MKDIR, UNLINK, RMDIR, OPEN, RELEASE, FLUSH = 9, 10, 11, 14, 18, 25
OPENDIR, READDIR, RELEASEDIR, CREATE = 27, 28, 29, 35
HEADER, TRANSFER, OUT = 40, 40, 16  # bytes of a request's header, of READ's and WRITE's fields, of an answer's header


@fn
def _put(known: Known, chain: Chain, unique: u64, error: u32, answer: Answer, words: u32, attr: Attr) -> None:
    """Write an answer: `words` of its head, and the attributes behind them if there are any words."""
    size: u32 = OUT + words * 8
    if words != 0:
        size = size + 88
    answer.total = size
    answer.error = error
    answer.unique = unique
    chain_write(chain, 0, answer.address, u64(OUT + words * 8))
    if words != 0:
        chain_write(chain, u64(OUT + words * 8), attr.address, 88)
    known.share.written = size


@fn
def _lookup(known: Known, chain: Chain, head: InHeader) -> bool:
    if chain.writable_bytes < ENTRY_OUT or not read_message(known.share, chain):
        return False
    size: u32 = name_path(known, head.nodeid, addressof(known.share.message[0]) + HEADER, chain.readable_bytes - HEADER)
    if size == 0:
        return False
    hashed: u64 = path_hash(addressof(known.share.path[0]), size)
    fd: i64 = open_known(known.share, size, known.share.how.address)
    answer = local(Answer)
    attr = local(Attr)
    if fd == -sys.ENOENT and not known_path(known, hashed):
        _put(known, chain, head.unique, 0xFFFFFFFE, answer, 0, attr)
        return True
    if fd < 0:
        return False
    seen = local(Statx)
    good: bool = attributes_of(known.share, u64(fd), seen, attr)
    close_file(fd)
    if not good:
        return False
    at: u64 = entry_named(known, size, hashed)
    if at == 0:
        return learn(known, chain, head.unique, size, seen.ino, attr)
    entry = Entry(at)
    if entry.inode != seen.ino or entry.device != known.share.device:
        return False
    store64(entry.counter, wrap64(load64(entry.counter) + 1))
    answer.words[0] = entry.number
    answer.words[1] = 0
    answer.words[2] = known.valid
    answer.words[3] = known.valid
    answer.words[4] = known.valid_ns << 32 | known.valid_ns
    _put(known, chain, head.unique, 0, answer, 5, attr)
    return True


@fn
def _getattr(known: Known, chain: Chain, head: InHeader) -> bool:
    if chain.readable_bytes < HEADER + 16 or chain.writable_bytes < 120:
        return False
    asked = local(GetAttr)
    chain_read(chain, HEADER, asked.address, 16)
    seen = local(Statx)
    attr = local(Attr)
    answer = local(Answer)
    good: bool = False
    if (asked.flags & 1) != 0:
        held: u64 = descriptor_of(known, asked.fh)
        if held == UNKNOWN:
            return False
        good = attributes_of(known.share, held, seen, attr)
    else:
        length: u32 = path_of(known, head.nodeid)
        if length > PATH_ROOM:
            return False
        fd: i64 = open_known(known.share, length, known.share.how.address)
        if fd < 0:
            return False
        good = attributes_of(known.share, u64(fd), seen, attr)
        close_file(fd)
    if not good:
        return False
    answer.words[0] = known.valid
    answer.words[1] = known.valid_ns
    _put(known, chain, head.unique, 0, answer, 2, attr)
    return True


@fn
def _transfer(known: Known, chain: Chain, head: InHeader, reading: bool) -> bool:
    if chain.readable_bytes < HEADER + TRANSFER:
        return False
    asked = local(Transfer)
    chain_read(chain, HEADER, asked.address, TRANSFER)
    fd: u64 = descriptor_of(known, asked.fh)
    size: u64 = u64(asked.length)
    if fd == UNKNOWN or asked.position > LAST - size:
        return False
    answer = local(Answer)
    answer.error = 0
    answer.unique = head.unique
    if reading:
        if size > chain.writable_bytes - OUT:
            size = chain.writable_bytes - OUT
        done: i64 = transfer(known.share, chain, True, fd, OUT, size, asked.position)
        if done < 0:
            return False
        known.share.written = OUT + u32(done)
        answer.total = known.share.written
        chain_write(chain, 0, answer.address, OUT)
        return True
    if size > chain.readable_bytes - HEADER - TRANSFER or chain.writable_bytes < OUT + 8:
        return False
    written: i64 = transfer(known.share, chain, False, fd, HEADER + TRANSFER, size, asked.position)
    if written < 0:
        return False
    answer.total = OUT + 8
    answer.words[0] = u64(written)
    chain_write(chain, 0, answer.address, OUT + 8)
    known.share.written = OUT + 8
    return True


@fn
def serve(known: Known, chain: Chain, queue: u32) -> bool:
    """Answer a request, if it is one of ours."""
    if chain.error != 0 or chain.readable_bytes < HEADER:
        return False
    head = local(InHeader)
    chain_read(chain, 0, head.address, HEADER)
    if head.opcode == FORGET:
        return forget(known, chain, head, queue)
    if chain.writable_bytes < OUT:
        return False
    if head.opcode == LOOKUP:
        return _lookup(known, chain, head)
    if head.opcode == GETATTR:
        return _getattr(known, chain, head)
    if head.opcode == READ or head.opcode == WRITE:
        return _transfer(known, chain, head, head.opcode == READ)
    return _change(known, chain, head, queue)


@fn
def _change(known: Known, chain: Chain, head: InHeader, queue: u32) -> bool:
    """The same for what changes names or handles."""
    if head.opcode == OPEN:
        return open_file(known, chain, head)
    if head.opcode == FLUSH:
        return flush(known, chain, head)
    if head.opcode == RELEASE or head.opcode == RELEASEDIR:
        return release(known, chain, head)
    if head.opcode == OPENDIR:
        return open_directory(known, chain, head)
    if head.opcode == READDIR:
        return read_directory(known, chain, head)
    if head.opcode == CREATE:
        return create(known, chain, head, queue)
    if head.opcode == MKDIR:
        return make_directory(known, chain, head, queue)
    if head.opcode == UNLINK or head.opcode == RMDIR:
        return remove(known, chain, head, queue, head.opcode == RMDIR)
    return False


@fn
def _serve(share: Share, chain: Chain, queue: u32) -> bool:
    return serve(Known(share.address), chain, queue)


_pop, _run = serving(_serve)


@fn
def fuse_pop(loop: Loop, known: Known, ring: Ring) -> u32:
    """`ring_pop` for Python: the next request that is not answered here; those before it are."""
    return _pop(loop, known.share, ring)


@fn
def fuse_loop(loop: Loop, known: Known, service_ns: u64) -> u32:
    """Serve all queues until there is a reason to come back to Python: a request for it (WORK), or any other."""
    return _run(loop, known.share, service_ns)


assert Known.offset("share") == 0  # as `_serve` has it
