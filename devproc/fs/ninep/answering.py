"""Answers of 9P in machine code, as `devproc.fs.ninep.messages` encodes them, and what the journal has of them."""

from __future__ import annotations

from devproc.fs.fast.log import put_array, put_bytes, put_false, put_nothing, put_number, record_begin, record_end
from devproc.fs.fast.looking import S_IFDIR, S_IFLNK, S_IFMT
from devproc.fs.fast.once import NOTHING, put_intent
from devproc.fs.fast.structures import Attr
from devproc.fs.ninep.tables import CLOSED, HEADER, Known
from native import (
    addressof,
    fn,
    load16_unaligned,
    store8,
    store16_unaligned,
    store32_unaligned,
    store64_unaligned,
    u8,
    u32,
    u64,
    wrap64,
)
from proto.ring import Chain, chain_write

__all__ = ["QID", "answer", "error", "finish", "put_fid", "put_no_fid", "put_qid"]

QID = 13  # bytes
QTDIR, QTSYMLINK = 0x80, 0x02
RLERROR, RLERROR_SIZE = 7, 11
SECOND = 1_000_000_000


@fn
def put_qid(at: u64, attr: Attr) -> None:
    """A file's qid, as `devproc.fs.ninep.session.qid` has it."""
    format: u32 = attr.mode & S_IFMT
    kind: u8 = QTDIR if format == S_IFDIR else QTSYMLINK if format == S_IFLNK else 0
    version: u64 = (wrap64(attr.mtime * SECOND + u64(attr.mtimensec)) ^ attr.length) & 0xFFFFFFFF
    store8(at, kind)
    store32_unaligned(at + 1, 1 if version == 0 else u32(version))
    store64_unaligned(at + 5, attr.ino)


@fn
def _head(known: Known, kind: u32, size: u32) -> u64:
    """The header of an answer. Returns its address."""
    at: u64 = addressof(known.answer[0])
    store32_unaligned(at, size)
    store8(at + 4, u8(kind))
    store16_unaligned(at + 5, load16_unaligned(addressof(known.share.message[0]) + 5))
    return at


@fn
def answer(known: Known, chain: Chain, here: u32, data: u32) -> None:
    """The request succeeded: `here` bytes of the answer are in `known.answer`, the header first; behind them, in the
    chain already, are `data` bytes more."""
    at: u64 = _head(known, known.kind + 1, here + data)
    chain_write(chain, 0, at, u64(here))
    known.share.written = here + data


@fn
def error(known: Known, chain: Chain, number: u32) -> None:
    """Rlerror, of a request that is carried out once."""
    at: u64 = _head(known, RLERROR, RLERROR_SIZE)
    store32_unaligned(at + HEADER, number)
    record_begin(known.share, 1)
    put_intent(known.share, NOTHING, 0, True, at, RLERROR_SIZE)
    record_end(known.share)
    chain_write(chain, 0, at, RLERROR_SIZE)
    known.share.written = RLERROR_SIZE


@fn
def finish(known: Known, chain: Chain, size: u32) -> None:
    """A request that is carried out once succeeded: its answer completes the record that was begun."""
    at: u64 = _head(known, known.kind + 1, size)
    put_intent(known.share, NOTHING, 0, True, at, size)
    record_end(known.share)
    chain_write(chain, 0, at, u64(size))
    known.share.written = size


@fn
def put_fid(known: Known, number: u32, length: u32, uid: u32, flags: u32, inode: u64) -> None:
    """A change: a fid at the path in `share.path`, closed or open on this file, as `Fid.plain` has it."""
    share = known.share
    put_array(share, 2)
    put_number(share, u64(number))
    put_array(share, 5)
    put_bytes(share, addressof(share.path[0]), length)
    put_number(share, u64(uid))
    if flags == CLOSED:
        put_nothing(share)
        put_nothing(share)
    else:
        put_number(share, u64(flags))
        put_array(share, 2)
        put_number(share, share.device)
        put_number(share, inode)
    put_false(share)


@fn
def put_no_fid(known: Known, number: u32) -> None:
    """A change: the fid is gone."""
    put_array(known.share, 2)
    put_number(known.share, u64(number))
    put_nothing(known.share)
