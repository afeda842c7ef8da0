"""What machine code knows of a share, whatever the protocol: the directory, the journal, the request at hand.

Private to the process. What the machine code of a protocol knows begins with it; `devproc.fs.fast.session` fills it.
"""

from __future__ import annotations

from devproc.fs.fast.structures import How
from native import Array, Record, plain, u8, u32, u64
from proto.ring import MAX_SEGMENTS, Iovec

__all__ = ["MESSAGE_MAX", "PATH_ROOM", "Share"]

PATH_ROOM = 208  # bytes of a path; longer ones are Python's
MESSAGE_MAX = 512  # bytes of a request that is carried out once


class Share(Record):
    """A shared directory, and where requests and records are put together."""

    chain: u64  # address of the Chain to pop into
    root: u64  # descriptor of the shared directory
    uid: u32  # this process's
    gid: u32
    dev_major: u32  # of the file system that the directory is on; others are Python's
    dev_minor: u32
    stir: u64  # what a file's number is made of, beside its inode
    device: u64  # the file system's number, as stat has it
    log_at: u64  # where the next record of the journal goes (`devproc.fs.journal`), and what none may reach
    log_end: u64
    cursor: u64  # in the record that is being written
    unread: u32  # records that Python has not seen
    read_only: u32
    shelved: u32  # not 0: there are locks, or files without names, which Python must look after
    unfinished: u32  # not 0: more of the listing in the room is to come
    room: u64  # address of the Room for listings, and whose listing is there
    listed: u64
    digest: u32  # of the request that is carried out once, and the journal's key of its intent
    pending: u32  # queue + 1 of a chain that was popped and is Python's
    intent: u64
    written: u32
    padding: u32
    served: u64
    how: How  # to look at something,
    list_how: How  # and to read a directory
    empty: Array[u8] = plain(count=8)  # the path of what a descriptor stands for
    attribute: Array[u8] = plain(count=32)  # the name of a file's owner's, ended by zero
    link: Array[u8] = plain(count=48)  # "/proc/self/fd/" and a number
    path: Array[u8] = plain(count=512)
    message: Array[u8] = plain(count=MESSAGE_MAX)
    iovec: Array[Iovec] = plain(count=MAX_SEGMENTS)
