"""The FUSE requests that a guest sends most, in machine code: LOOKUP, GETATTR, READ, WRITE of what is known already.

The same answers as `devproc.fs.fuse.session` gives; a test compares them. What is not known here, or fails in any way
but ENOENT of a LOOKUP, goes to Python, which then does it from the beginning: nothing has been changed. `Known` is a
cache of nodes and open files that Python keeps up to date (`devproc.fs.fuse.known`); what it has forgotten is slower.
"""

from __future__ import annotations

from devproc.loop import Loop, Reason, begin_turn, flush_and_call, lie_down, pop_now, put_now, rest, stop_ring
from native import (
    Array,
    Record,
    addressof,
    fn,
    i64,
    load8,
    load64,
    local,
    monotonic_ns,
    plain,
    store8,
    store64,
    sys,
    syscall,
    u8,
    u16,
    u32,
    u64,
    wrap64,
)
from proto.ring import MAX_SEGMENTS, Chain, Iovec, Pop, Ring, chain_iovec, chain_read, chain_write

__all__ = ["ENTRIES", "NAMES", "OPENS", "PATH_ROOM", "Entry", "Known", "Open", "fuse_index", "fuse_loop", "fuse_pop"]

BATCH = 64  # requests taken from one queue before the next is looked at
ENTRIES, NAMES, OPENS = 1 << 14, 1 << 15, 1 << 10  # places; each is one node's, name's or handle's, by its number
PATH_ROOM = 208
LOOKUP, GETATTR, READ, WRITE = 1, 3, 15, 16
HEADER, TRANSFER, OUT = (
    40,
    40,
    16,
)  # bytes of the request's header, of READ's and WRITE's fields, of the answer's header
ROOT = 1
ENOENT = 2
O_PATH, AT_EMPTY_PATH, BASIC_STATS = 0o10000000, 0x1000, 0x7FF
S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000
NOBODY = 65534
LAST = 0x7FFFFFFFFFFFFFFF
SLASH, SPACE, DOT = 47, 32, 46


class Entry(Record):
    """A node with one name."""

    number: u64  # 0: nobody
    device: u64
    inode: u64
    counter: u64  # address of how often the guest holds it
    length: u32
    padding: u32
    path: Array[u8] = plain(count=PATH_ROOM)


class Open(Record):
    """An open file."""

    number: u64  # 0: nobody
    fd: u64


class How(Record):
    """struct open_how."""

    flags: u64
    mode: u64
    resolve: u64


class Statx(Record):
    """struct statx, up to what is needed."""

    mask: u32
    blksize: u32
    attributes: u64
    nlink: u32
    uid: u32
    gid: u32
    mode: u16
    spare: u16
    ino: u64
    length: u64
    blocks: u64
    attributes_mask: u64
    times: Array[u64] = plain(count=8)  # atime, btime, ctime, mtime: seconds, and nanoseconds in the lower half
    rdev_major: u32
    rdev_minor: u32
    dev_major: u32
    dev_minor: u32
    rest: Array[u64] = plain(count=16)


class InHeader(Record):
    """struct fuse_in_header."""

    total: u32
    opcode: u32
    unique: u64
    nodeid: u64
    uid: u32
    gid: u32
    pid: u32
    padding: u32


class Transfer(Record):
    """struct fuse_read_in and fuse_write_in."""

    fh: u64
    position: u64
    length: u32
    flags: u32
    owner: u64
    more: u32
    padding: u32


class GetAttr(Record):
    """struct fuse_getattr_in."""

    flags: u32
    padding: u32
    fh: u64


class Answer(Record):
    """An answer's header, with struct fuse_entry_out or with what precedes the attributes in struct fuse_attr_out."""

    total: u32
    error: u32
    unique: u64
    words: Array[u64] = plain(count=5)


class Attr(Record):
    """struct fuse_attr."""

    ino: u64
    length: u64
    blocks: u64
    atime: u64
    mtime: u64
    ctime: u64
    atimensec: u32
    mtimensec: u32
    ctimensec: u32
    mode: u32
    nlink: u32
    uid: u32
    gid: u32
    rdev: u32
    blksize: u32
    flags: u32


class Text(Record):
    """Room for the text of an attribute."""

    bytes: Array[u8] = plain(count=128)


class Known(Record):
    """What the loop knows of the session; private to the process."""

    chain: u64  # address of the Chain to pop into
    root: u64  # descriptor of the shared directory
    uid: u32  # this process's
    gid: u32
    dev_major: u32  # of the file system that the directory is on; others are Python's
    dev_minor: u32
    stir: u64  # what a file's number is made of, beside its inode
    valid: u64  # seconds and nanoseconds for which the guest may believe
    valid_ns: u64
    entries: u64  # addresses of the three tables
    names: u64
    opens: u64
    pending: u32  # queue + 1 of a chain that was popped and is Python's
    written: u32
    served: u64
    how: How
    empty: Array[u8] = plain(count=8)  # the path of what a descriptor stands for
    attribute: Array[u8] = plain(count=32)  # its name, ended by zero
    link: Array[u8] = plain(count=48)  # "/proc/self/fd/" and a number
    path: Array[u8] = plain(count=512)
    iovec: Array[Iovec] = plain(count=MAX_SEGMENTS)


@fn
def _hash(address: u64, length: u32) -> u64:
    """FNV-1a."""
    value: u64 = 0xCBF29CE484222325
    for place in range(length):
        value = wrap64((value ^ u64(load8(address + u64(place)))) * 0x100000001B3)
    return value ^ (value >> 32)


@fn
def _entry(known: Known, number: u64) -> u64:
    """The address of a node's place."""
    return known.entries + (number & (ENTRIES - 1)) * 256


@fn
def fuse_index(known: Known, number: u64, device: u64, inode: u64, counter: u64, length: u32) -> None:
    """A node is at the path that `known.path` begins with; length 0 (and 4 GiB and so on): at none that is known."""
    entry = Entry(_entry(known, number))
    if length == 0 or length > PATH_ROOM:
        if entry.number == number:
            entry.number = 0
        return
    entry.number = number
    entry.device = device
    entry.inode = inode
    entry.counter = counter
    entry.length = length
    for place in range(length):
        entry.path[place] = known.path[place]
    hashed: u64 = _hash(addressof(known.path[0]), length)
    store64(known.names + (hashed & (NAMES - 1)) * 8, number)


@fn
def _path(known: Known, nodeid: u64) -> u32:
    """Write a node's path to `known.path`. Returns its length; 512 when it is not known."""
    if nodeid == ROOT:
        return 0
    entry = Entry(_entry(known, nodeid))
    if entry.number != nodeid:
        return 512
    for place in range(entry.length):
        known.path[place] = entry.path[place]
    return entry.length


@fn
def _open(known: Known, length: u32) -> i64:
    """Open what `known.path` leads to, without following anything or leaving the directory. The descriptor, or an
    errno below 0."""
    if length == 0:
        known.path[0] = DOT
        known.path[1] = 0
    else:
        known.path[length] = 0
    return syscall(sys.OPENAT2, known.root, addressof(known.path[0]), known.how.address, 24, 0, 0)


@fn
def _number(text: Text, at: u32, end: u32, base: u32) -> u64:
    """The number at a place of a text, and behind it as `place << 40`; all ones when there is none."""
    value: u64 = 0
    place: u32 = at
    while place < end and text.bytes[place] != SPACE:
        digit: u32 = u32(text.bytes[place])
        if digit < 48 or digit >= 48 + base or place - at > 10:
            return 0xFFFFFFFFFFFFFFFF
        value = value * u64(base) + u64(digit - 48)
        place = place + 1
    if place == at or value >= (1 << 32):
        return 0xFFFFFFFFFFFFFFFF
    return u64(place + 1) << 40 | value


@fn
def _owner(known: Known, fd: u64, seen: Statx, attr: Attr) -> bool:
    """What the guest made of a file (`devproc.fs.mapped`). False when that is not simple."""
    known_at: u64 = addressof(known.link[0]) + 14  # behind "/proc/self/fd/"
    digits: u64 = 1
    left: u64 = fd
    while left >= 10:
        left = left // 10
        digits = digits + 1
    store8(known_at + digits, 0)
    left = fd
    while digits != 0:
        digits = digits - 1
        store8(known_at + digits, u8(48 + left % 10))
        left = left // 10
    text = local(Text)
    size: i64 = syscall(sys.GETXATTR, addressof(known.link[0]), addressof(known.attribute[0]), text.address, 128, 0, 0)
    if size == -sys.ENODATA or size == -sys.EOPNOTSUPP:
        return True
    if size <= 0:
        return False
    end: u32 = u32(size)
    at: u32 = 0
    host: u32 = 0
    for place in range(u32(5)):
        found: u64 = _number(text, at, end, 8 if place == 2 or place == 4 else 10)
        if found == 0xFFFFFFFFFFFFFFFF or (place < 4 and (found >> 40) > u64(end)):
            return False
        at = u32(found >> 40)
        value: u32 = u32(found & 0xFFFFFFFF)
        if place == 0:
            attr.uid = value
        elif place == 1:
            attr.gid = value
        elif place == 2:
            attr.mode = value & 0o177777
        elif place == 3:
            attr.rdev = value
        else:
            host = value
    if at != end + 1:
        return False
    mode: u32 = u32(seen.mode)
    if host != (mode & 0o7777):
        attr.mode = (attr.mode & S_IFMT) | (mode & 0o7777)
    kind: u32 = attr.mode & S_IFMT
    return kind != S_IFLNK and (kind == S_IFDIR) == ((mode & S_IFMT) == S_IFDIR)


@fn
def _attributes(known: Known, fd: u64, seen: Statx, attr: Attr) -> bool:
    """struct fuse_attr of what a descriptor is open on. False when Python must say."""
    if syscall(sys.STATX, fd, addressof(known.empty[0]), AT_EMPTY_PATH, BASIC_STATS, seen.address, 0) != 0:
        return False
    if (seen.mask & BASIC_STATS) != BASIC_STATS:
        return False
    if seen.dev_major != known.dev_major or seen.dev_minor != known.dev_minor:
        return False
    kind: u32 = u32(seen.mode) & S_IFMT
    if kind != S_IFREG and kind != S_IFDIR and kind != S_IFLNK:
        return False
    attr.ino = seen.ino ^ known.stir
    attr.length = seen.length
    attr.blocks = seen.blocks
    if ((seen.times[0] | seen.times[4] | seen.times[6]) >> 63) != 0:  # before 1970
        return False
    attr.atime = seen.times[0]
    attr.mtime = seen.times[6]
    attr.ctime = seen.times[4]
    attr.atimensec = u32(seen.times[1] & 0xFFFFFFFF)
    attr.mtimensec = u32(seen.times[7] & 0xFFFFFFFF)
    attr.ctimensec = u32(seen.times[5] & 0xFFFFFFFF)
    attr.mode = u32(seen.mode)
    attr.nlink = seen.nlink
    attr.uid = 0 if seen.uid == known.uid else NOBODY
    attr.gid = 0 if seen.gid == known.gid else NOBODY
    attr.rdev = 0
    attr.blksize = seen.blksize
    attr.flags = 0
    return kind == S_IFLNK or _owner(known, fd, seen, attr)


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
    known.written = size


@fn
def _lookup(known: Known, chain: Chain, head: InHeader) -> bool:
    length: u64 = chain.readable_bytes - HEADER
    before: u32 = _path(known, head.nodeid)
    if length < 2 or length > 200 or before + u32(length) + 1 > PATH_ROOM or chain.writable_bytes < 144:
        return False
    at: u64 = addressof(known.path[0]) + u64(before)
    if before != 0:
        store8(at, SLASH)
        at = at + 1
    chain_read(chain, HEADER, at, length)
    if load8(at + length - 1) != 0 or (load8(at) == DOT and length <= 3):
        return False
    for place in range(length - 1):
        byte: u8 = load8(at + place)
        if byte == 0 or byte == SLASH:
            return False
    size: u32 = u32(at - addressof(known.path[0]) + length - 1)
    hashed: u64 = _hash(addressof(known.path[0]), size)
    fd: i64 = _open(known, size)
    answer = local(Answer)
    attr = local(Attr)
    if fd == -ENOENT:
        _put(known, chain, head.unique, 0xFFFFFFFE, answer, 0, attr)
        return True
    if fd < 0:
        return False
    seen = local(Statx)
    good: bool = _attributes(known, u64(fd), seen, attr)
    syscall(sys.CLOSE, u64(fd), 0, 0, 0, 0, 0)
    number: u64 = load64(known.names + (hashed & (NAMES - 1)) * 8)
    if not good or number == 0:
        return False
    entry = Entry(_entry(known, number))
    if entry.number != number or entry.length != size or entry.inode != seen.ino:
        return False
    for letter in range(size):
        if entry.path[letter] != known.path[letter]:
            return False
    store64(entry.counter, wrap64(load64(entry.counter) + 1))
    answer.words[0] = number
    answer.words[1] = 0
    answer.words[2] = known.valid
    answer.words[3] = known.valid
    answer.words[4] = known.valid_ns << 32 | known.valid_ns
    _put(known, chain, head.unique, 0, answer, 5, attr)
    return True


@fn
def _descriptor(known: Known, fh: u64) -> u64:
    """An open file's; all ones when it is not known."""
    place = Open(known.opens + (fh & (OPENS - 1)) * 16)
    if fh == 0 or place.number != fh:
        return 0xFFFFFFFFFFFFFFFF
    return place.fd


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
        held: u64 = _descriptor(known, asked.fh)
        if held == 0xFFFFFFFFFFFFFFFF:
            return False
        good = _attributes(known, held, seen, attr)
    else:
        length: u32 = _path(known, head.nodeid)
        if length > PATH_ROOM:
            return False
        fd: i64 = _open(known, length)
        if fd < 0:
            return False
        good = _attributes(known, u64(fd), seen, attr)
        syscall(sys.CLOSE, u64(fd), 0, 0, 0, 0, 0)
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
    fd: u64 = _descriptor(known, asked.fh)
    size: u64 = u64(asked.length)
    if fd == 0xFFFFFFFFFFFFFFFF or asked.position > LAST - size:
        return False
    iovec: u64 = addressof(known.iovec[0])
    result: i64 = 0
    answer = local(Answer)
    answer.error = 0
    answer.unique = head.unique
    if reading:
        if size > chain.writable_bytes - OUT:
            size = chain.writable_bytes - OUT
        if size != 0:
            count: u32 = chain_iovec(chain, True, u64(OUT), size, iovec)
            result = syscall(sys.PREADV, fd, iovec, u64(count), asked.position, 0, 0)
        if result < 0:
            return False
        known.written = OUT + u32(result)
        answer.total = known.written
        chain_write(chain, 0, answer.address, OUT)
        return True
    if size > chain.readable_bytes - HEADER - TRANSFER or chain.writable_bytes < OUT + 8:
        return False
    if size != 0:
        pieces: u32 = chain_iovec(chain, False, HEADER + TRANSFER, size, iovec)
        result = syscall(sys.PWRITEV, fd, iovec, u64(pieces), asked.position, 0, 0)
    if result < 0:
        return False
    answer.total = OUT + 8
    answer.words[0] = u64(result)
    chain_write(chain, 0, answer.address, OUT + 8)
    known.written = OUT + 8
    return True


@fn
def _serve(known: Known, chain: Chain) -> bool:
    """Answer a request, if it is one of ours."""
    if chain.error != 0 or chain.readable_bytes < HEADER or chain.writable_bytes < OUT:
        return False
    head = local(InHeader)
    chain_read(chain, 0, head.address, HEADER)
    if head.opcode == LOOKUP:
        return _lookup(known, chain, head)
    if head.opcode == GETATTR:
        return _getattr(known, chain, head)
    if head.opcode == READ or head.opcode == WRITE:
        return _transfer(known, chain, head, head.opcode == READ)
    return False


@fn
def fuse_pop(loop: Loop, known: Known, ring: Ring) -> u32:
    """`ring_pop` for Python: the next request that is not answered here; those before it are."""
    chain = Chain(known.chain)
    if known.pending == ring.queue + 1:
        known.pending = 0
        return Pop.CHAIN
    for _ in range(u32(BATCH)):
        found: u32 = pop_now(ring, chain)
        if found != Pop.CHAIN or not _serve(known, chain):
            return found
        known.served = known.served + 1
        put_now(ring, chain, known.written, 0)
        flush_and_call(loop, ring)
    return Pop.EMPTY


@fn
def fuse_loop(loop: Loop, known: Known, service_ns: u64) -> u32:
    """Serve all queues until there is a reason to come back to Python: a request for it (WORK), or any other."""
    begin_turn(loop, service_ns)
    while True:
        before: u64 = known.served
        for number in range(loop.count):
            ring = Ring(loop.rings[number])
            found: u32 = fuse_pop(loop, known, ring)
            if found == Pop.CHAIN:
                known.pending = ring.queue + 1
                loop.ready = loop.ready | u32(1) << ring.queue
                return Reason.WORK
            if found == Pop.BROKEN:
                stop_ring(loop, ring)
        if loop.broken != 0:
            return Reason.BROKEN
        if loop.calls != 0:
            return Reason.SLEEP if loop.spinning == 0 and lie_down(loop) else Reason.CALL
        if known.served != before:
            if monotonic_ns() > loop.deadline:
                return Reason.SERVICE
        elif rest(loop):
            return Reason.SLEEP
