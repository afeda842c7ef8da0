"""What the machine code of 9P knows: fids, each in the place that its number leads to, and the request at hand.

Private to the process; `devproc.fs.ninep.known` fills it. A place is of one fid, the latest that Python told of, if
that fid is simple: named, and no attribute. What is not found goes to Python. How many fids lead to a place is
complete: where it is 0, there is none with such a number, and machine code may make one.
"""

from __future__ import annotations

from devproc.fs.fast.shared import PATH_ROOM, Share
from native import Array, Record, addressof, copy, fn, load32_unaligned, plain, store8, u8, u32, u64

__all__ = [
    "ABSENT",
    "ANSWER_MAX",
    "CLOSED",
    "HEADER",
    "PLACES",
    "Known",
    "Place",
    "fid_of",
    "path_further",
    "path_of",
    "place_at",
]

PLACES = 1 << 14
CLOSED = 0xFFFFFFFF  # as flags: the fid is not open
ABSENT = 0xFFFFFFFF  # as a descriptor: not in this process
ANSWER_MAX = 256  # bytes of any answer that is put together, data apart
HEADER = 7  # bytes of a message's header
SLASH = 47


class Place(Record):
    """A fid, and how many lead here."""

    key: u64  # its number, and 1; 0: nobody's
    device: u64  # the file's, once it was opened; 0: it was not
    inode: u64
    here: u32
    flags: u32
    fd: u32
    uid: u32
    listed: u32  # not 0: Python has begun to list it
    length: u32
    path: Array[u8] = plain(count=PATH_ROOM)


class Known(Record):
    """What the loop knows of the session; private to the process."""

    share: Share
    fids: u64  # address of the places
    count: u32  # of all fids
    msize: u32
    kind: u32  # of the request, its bytes, and those that its answer may have
    length: u32
    room: u64
    answer: Array[u8] = plain(count=ANSWER_MAX)


@fn
def place_at(known: Known, number: u32) -> u64:
    """The address of a fid's place."""
    return known.fids + (u64(number) & (PLACES - 1)) * 256


@fn
def fid_of(known: Known) -> u64:
    """The address of the fid that the request begins with; 0 when it is not known."""
    number: u32 = load32_unaligned(addressof(known.share.message[0]) + HEADER)
    place: u64 = place_at(known, number)
    return place if Place(place).key == u64(number) + 1 else 0


@fn
def path_of(known: Known, place: Place) -> u32:
    """Write a fid's path to `share.path`. Returns its length."""
    copy(addressof(known.share.path[0]), addressof(place.path[0]), u64(place.length))
    return place.length


@fn
def path_further(known: Known, length: u32, name: u64, size: u64) -> u32:
    """Go on in `share.path` to a name. Returns its length then; 0 when that is too much."""
    at: u64 = u64(length) + (1 if length != 0 else 0)
    if at + size > PATH_ROOM:
        return 0
    path: u64 = addressof(known.share.path[0])
    if length != 0:
        store8(path + u64(length), SLASH)
    copy(path + at, name, size)
    return u32(at + size)


assert Place.size() == 256 and Known.offset("share") == 0  # as `place_at` and `devproc.fs.ninep.fast` have it
