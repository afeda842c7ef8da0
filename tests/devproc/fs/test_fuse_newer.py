"""The younger operations of FUSE: READDIRPLUS, COPY_FILE_RANGE, FALLOCATE, STATX, SYNCFS, RENAME2; and long paths."""

import errno
import os
import struct

import pytest
from fuse_client import ROOT, Client

from devproc.fs.fuse.messages import Flag, Opcode
from devproc.fs.host import HostTree
from devproc.fs.tree import Owner

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 0x10


@pytest.fixture
def guest(share):
    made = Client(share)
    yield made
    made.close()


def refused(number):
    return pytest.raises(OSError, match=os.strerror(number))


def entries(data):
    """(node, size, name) of each, from READDIRPLUS."""
    found, at = [], 0
    while at < len(data):
        node, size = struct.unpack_from("<Q", data, at)[0], struct.unpack_from("<Q", data, at + 48)[0]
        length = struct.unpack_from("<I", data, at + 144)[0]
        found.append((node, size, data[at + 152 : at + 152 + length]))
        at += 152 + (length + 7 & ~7)
    return found


def test_readdirplus_is_readdir_and_lookup(guest, share):
    for number in range(20):
        (share / f"f{number:02}").write_bytes(bytes(number))
    handle = guest.open(ROOT, opcode=Opcode.OPENDIR)
    first = entries(guest.call(Opcode.READDIRPLUS, ROOT, handle, 0, 1000))
    rest, offset = [], len(first)
    while more := entries(guest.call(Opcode.READDIRPLUS, ROOT, handle, offset, 1000)):
        rest, offset = rest + more, offset + len(more)
    found = first + rest
    assert [name for _, _, name in found] == [b".", b"..", *(b"f%02d" % number for number in range(20))]
    assert [size for _, size, _ in found[2:]] == list(range(20)) and found[0][0] == 0
    assert guest.lookup(b"f07") == found[9][0]


def test_a_guest_that_may_believe_is_told_how_long(share):
    eager, lazy = Client(share), Client(share, cache=1.5)
    flags = [struct.unpack_from("<I", c.call(Opcode.INIT, 0, 7, 41, 0, 0xFFFFFFFF), 12)[0] for c in (eager, lazy)]
    assert not flags[0] & Flag.DO_READDIRPLUS and flags[1] & Flag.DO_READDIRPLUS
    (share / "f").touch()
    for client, valid in ((eager, (0, 0, 0, 0)), (lazy, (1, 1, 500_000_000, 500_000_000))):
        assert struct.unpack_from("<QQII", client.call(Opcode.LOOKUP, ROOT, names=[b"f"]), 16) == valid
        client.close()


def test_a_range_is_copied_without_the_guest(guest, share):
    _, source = guest.create(b"a", b"0123456789")
    node, target = guest.create(b"b")
    answer = guest.call(Opcode.COPY_FILE_RANGE, ROOT, source, 2, node, target, 3, 5, 0)
    assert struct.unpack("<II", answer) == (5, 0) and (share / "b").read_bytes() == b"\0\0\x0023456"
    with refused(errno.EINVAL):
        guest.call(Opcode.COPY_FILE_RANGE, ROOT, source, 0, node, target, 0, 5, 1)
    with refused(errno.EFBIG):
        guest.call(Opcode.COPY_FILE_RANGE, ROOT, source, 0, node, target, 1 << 63, 5, 0)
    with refused(errno.EBADF):
        guest.call(Opcode.COPY_FILE_RANGE, ROOT, source, 0, node, 999, 0, 5, 0)


def test_the_modes_of_fallocate(guest, share):
    node, handle = guest.create(b"f", b"x" * 8192)
    guest.call(Opcode.FALLOCATE, node, handle, 0, 4096, KEEP_SIZE | PUNCH_HOLE)
    assert (share / "f").read_bytes() == bytes(4096) + b"x" * 4096
    guest.call(Opcode.FALLOCATE, node, handle, 8192, 4096, KEEP_SIZE)
    assert (share / "f").stat().st_size == 8192
    for mode in (COLLAPSE, 0x20, 0x40):
        with refused(errno.EOPNOTSUPP):
            guest.call(Opcode.FALLOCATE, node, handle, 0, 4096, mode)


def test_statx_says_when_a_file_was_made(guest, share):
    node, handle = guest.create(b"f", b"abc")
    for flags, fh in ((0, 0), (1, handle)):
        answer = guest.call(Opcode.STATX, node, flags, 0, fh, 0, 0xFFF)
        assert len(answer) == 32 + 256
        mask, _, _, nlink = struct.unpack_from("<IIQI", answer, 32)
        assert nlink == 1 and mask & 0x7FF == 0x7FF
        assert struct.unpack_from("<H", answer, 32 + 28)[0] == 0o100644
        assert struct.unpack_from("<Q", answer, 32 + 40)[0] == 3
        _, btime, ctime, mtime = (struct.unpack_from("<qI", answer, 32 + 64 + 16 * n) for n in range(4))
        status = (share / "f").stat()
        assert mtime == divmod(status.st_mtime_ns, 10**9) and ctime == divmod(status.st_ctime_ns, 10**9)
        assert not mask & 0x800 or 0 < btime[0] <= ctime[0]


def test_sync_reaches_the_host_and_whiteouts_do_not(guest, share):
    assert guest.call(Opcode.SYNCFS, ROOT, 0) == b""
    (share / "f").touch()
    with refused(errno.EINVAL):
        guest.call(Opcode.RENAME2, ROOT, ROOT, 4, 0, names=[b"f", b"g"])
    assert [path.name for path in share.iterdir()] == ["f"]


def test_paths_longer_than_one_call_takes(share):
    tree, path = HostTree(str(share)), b""
    for _ in range(40):
        path = path + b"/" + b"d" * 250 if path else b"d" * 250
        tree.mkdir(path, 0o755, Owner())
    file = tree.create(path + b"/f", os.O_RDWR, 0o644, Owner())
    file.write([memoryview(b"deep")], 0)
    file.close()
    assert tree.stat(path + b"/f").size == 4 and [entry.name for entry in tree.entries(path)] == [b"f"]
    with refused(errno.ENOENT):
        tree.stat(path + b"/" + b"d" * 250 + b"/f")
    tree.unlink(path + b"/f")
    while path:
        tree.rmdir(path)
        path = path.rpartition(b"/")[0]
    tree.close()
