"""What machine code does once, and Python if machine code was killed over it: the records that a request leaves.

As `devproc.fs.intents` has it: before a change its intent, with what the name stood for; after it, in one record, what
came of it and the answer. Requests that come again after a kill are Python's, which reads those.
"""

from __future__ import annotations

from devproc.fs.fast.log import (
    checksum,
    log_fits,
    put_array,
    put_bytes,
    put_nothing,
    put_number,
    put_signed,
    record_begin,
    record_end,
)
from devproc.fs.fast.shared import MESSAGE_MAX, Share
from devproc.fs.intents import INTENT_KEYS
from native import addressof, fn, u32, u64, wrap64
from proto.ring import Chain, chain_read

__all__ = ["FREE", "NOTHING", "TAKEN", "intend", "once_begin", "put_intent", "read_message"]

NOTHING, FREE, TAKEN = 0, 1, 2  # what a name stood for: not asked, nothing, a file
FIRST_INTENT = INTENT_KEYS & 0xFFFFFFFFFFFFFFFF


@fn
def read_message(share: Share, chain: Chain) -> bool:
    """Copy a short request to `share.message`: the guest may change it meanwhile."""
    if chain.readable_bytes > MESSAGE_MAX:
        return False
    chain_read(chain, 0, addressof(share.message[0]), chain.readable_bytes)
    return True


@fn
def once_begin(share: Share, chain: Chain, queue: u32, size: u64) -> bool:
    """The request that `share.message` begins with, of `size` bytes, is to be carried out once. False when that is
    Python's to do."""
    if chain.again != 0 or not log_fits(share):
        return False
    share.digest = checksum(addressof(share.message[0]), size, u32(chain.counter & 0xFFFFFFFF))
    share.intent = wrap64(FIRST_INTENT - (u64(queue) << 16 | u64(chain.head)))
    return True


@fn
def put_intent(share: Share, before: u32, inode: u64, done: bool, answer: u64, size: u32) -> None:
    """A change: what the request is about to do, or has `done`."""
    put_array(share, 2)
    put_signed(share, share.intent)
    put_array(share, 3)
    put_number(share, u64(share.digest))
    if before == NOTHING:
        put_nothing(share)
    else:
        put_array(share, 1)
        if before == FREE:
            put_nothing(share)
        else:
            put_array(share, 2)
            put_number(share, share.device)
            put_number(share, inode)
    if done:
        put_bytes(share, answer, size)
    else:
        put_nothing(share)


@fn
def intend(share: Share, before: u32, inode: u64) -> None:
    """The change is next."""
    record_begin(share, 1)
    put_intent(share, before, inode, False, 0, 0)
    record_end(share)
