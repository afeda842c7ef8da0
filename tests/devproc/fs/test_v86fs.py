"""v86fs: what each request does, on a directory of the host and on a tree in memory."""

import errno
import os
import stat

import pytest
from v86fs_client import ROOT, Client

from devproc.fs.v86fs.messages import Type


@pytest.fixture(params=["host", "memory"])
def guest(request, share):
    made = Client(share if request.param == "host" else "memory:")
    yield made
    made.close()


@pytest.fixture
def host(share):
    made = Client(share)
    yield made
    made.close()


def refused(number, call, *arguments, **rest):
    with pytest.raises(OSError) as raised:
        call(*arguments, **rest)
    assert raised.value.errno == number


def test_mount_by_tag_or_by_no_name(share):
    guest = Client(share, tag="work")
    for name in (b"", b"work"):
        root, mode = guest.call(Type.MOUNT, name)
        assert root == ROOT and stat.S_ISDIR(mode)
    refused(errno.ENOENT, guest.call, Type.MOUNT, b"other")
    guest.close()


def test_the_tree_of_a_device_without_a_backend():
    guest = Client("")
    assert guest.call(Type.MOUNT, b"") == (1, 0o40755)
    assert guest.call(Type.LOOKUP, 1, b"hello.txt") == (2, 0o100644, 12)
    assert guest.call(Type.LOOKUP, 1, b"subdir") == (3, 0o40755, 0)
    assert guest.call(Type.GETATTR, 2) == (0o100644, 12, 1711500000, 0)
    assert guest.list() == {b"hello.txt": (2, 8), b"subdir": (3, 4)}
    assert guest.call(Type.OPEN, 2, 0) == 1
    assert guest.read(1) == b"hello world\n"
    assert guest.create(b"new") == 100
    assert guest.call(Type.STATFS) == (1048576, 524287, 524287, 1048576, 524285, 4096)
    guest.successor()
    assert guest.read(1, 6, 5) == b"world"
    assert guest.create(b"newer") == 101
    guest.close()


def test_a_file_from_its_making_to_its_end(guest):
    inode, mode = guest.call(Type.CREATE, ROOT, b"f", 0o640)
    assert mode == stat.S_IFREG | 0o640
    assert guest.write(inode, b"hello world") == 11
    assert guest.write(inode, b"W", 6) == 1
    handle = guest.call(Type.OPEN, inode, os.O_RDWR)
    assert handle == 1
    assert guest.read(handle) == b"hello World"
    assert guest.read(handle, 6, 3) == b"Wor"
    assert guest.read(handle, 11) == guest.read(handle, 4000) == b""
    assert guest.read(inode) == b"hello World"  # an unknown handle is an inode
    assert guest.call(Type.LOOKUP, ROOT, b"f") == (inode, mode, 11)
    guest.call(Type.SETATTR, inode, 9, 0o7600, 5)
    mode, size, seconds, _ = guest.call(Type.GETATTR, inode)
    assert (mode, size) == (stat.S_IFREG | 0o7600, 5) and seconds > 1_700_000_000
    guest.call(Type.SETATTR, inode, 8, 0, 8)
    assert guest.read(handle) == b"hello\0\0\0"
    guest.call(Type.FSYNC, inode)
    guest.call(Type.FSYNC, ROOT)
    guest.call(Type.CLOSE, handle)
    refused(errno.EBADF, guest.call, Type.CLOSE, handle)
    guest.call(Type.UNLINK, ROOT, b"f")
    refused(errno.ENOENT, guest.call, Type.GETATTR, inode)
    refused(errno.ENOENT, guest.write, inode, b"x")
    refused(errno.ENOENT, guest.call, Type.SETATTR, inode, 1, 0o600, 0)


def test_directories_links_and_renames(guest):
    d, mode = guest.call(Type.MKDIR, ROOT, b"d", 0o750)
    assert mode == stat.S_IFDIR | 0o750
    f = guest.create(b"f", b"data", parent=d)
    link, mode = guest.call(Type.SYMLINK, d, b"link", b"../f")
    assert stat.S_ISLNK(mode)
    assert guest.call(Type.READLINK, link) == b"\x04\0../f"
    assert guest.list(d) == {b"f": (f, 8), b"link": (link, 10)}
    refused(errno.EINVAL, guest.call, Type.READLINK, f)
    refused(errno.ELOOP, guest.call, Type.OPEN, link, 0)
    refused(errno.ENOTEMPTY, guest.call, Type.UNLINK, ROOT, b"d")
    guest.call(Type.RENAME, ROOT, b"d", ROOT, b"e")
    assert guest.lookup(b"e") == d and guest.list(d)[b"f"] == (f, 8)
    assert guest.read(f) == b"data"
    other = guest.create(b"other", b"other")
    guest.call(Type.RENAME, d, b"f", ROOT, b"other")  # replaces
    assert guest.read(f) == b"data" and guest.lookup(b"other") == f
    refused(errno.ENOENT, guest.call, Type.GETATTR, other)
    guest.call(Type.UNLINK, d, b"link")
    guest.call(Type.UNLINK, ROOT, b"e")
    assert set(guest.list()) == {b"other"}


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"a\0b"])
def test_a_name_that_is_none(guest, name):
    refused(errno.EINVAL, guest.call, Type.LOOKUP, ROOT, name)
    refused(errno.EINVAL, guest.call, Type.MKDIR, ROOT, name, 0o755)


def test_a_failed_response_keeps_its_length(guest):
    lengths = {
        (Type.MOUNT, b"?"): 23,
        (Type.LOOKUP, ROOT, b"?"): 31,
        (Type.GETATTR, 9): 35,
        (Type.READDIR, 9): 15,
        (Type.OPEN, 9, 0): 19,
        (Type.CLOSE, 9): 11,
        (Type.READ, 9, 0, 5): 15,
        (Type.CREATE, 9, b"n", 0): 23,
        (Type.MKDIR, 9, b"n", 0): 23,
        (Type.SETATTR, 9, 0, 0, 0): 11,
        (Type.FSYNC, 9): 11,
        (Type.UNLINK, ROOT, b"?"): 11,
        (Type.RENAME, ROOT, b"?", ROOT, b"!"): 11,
        (Type.SYMLINK, 9, b"n", b"t"): 23,
        (Type.READLINK, 9): 11,
    }
    for call, length in lengths.items():
        status, body = guest.response(*call)
        assert status and len(body) + 11 == length and not any(body), call
    assert len(guest.response(Type.STATFS)[1]) + 11 == 55
    assert guest.response(Type.WRITE, 9, 0, 1, data=b"x") == (errno.ENOENT, bytes(4))


def test_what_does_not_fit_the_buffer_is_cut(guest):
    for number in range(5):
        guest.create(b"file%d" % number)
    assert list(guest.list(room=15 + 2 * 16 + 15)) == [b"file0", b"file1"]
    inode = guest.create(b"f", b"0123456789")
    assert guest.call(Type.READ, inode, 0, 100, room=15 + 4) == (4).to_bytes(4, "little") + b"0123"
    link, _ = guest.call(Type.SYMLINK, ROOT, b"link", b"x" * 100)
    assert guest.response(Type.READLINK, link, room=50) == (errno.ERANGE, b"")


def test_read_only(share):
    (share / "f").write_text("x")
    guest = Client(share, ro=True)
    inode = guest.lookup(b"f")
    assert guest.read(inode) == b"x"
    for call in ((Type.CREATE, ROOT, b"n", 0), (Type.UNLINK, ROOT, b"f"), (Type.SETATTR, inode, 1, 0, 0)):
        refused(errno.EROFS, guest.call, *call)
    refused(errno.EROFS, guest.write, inode, b"y")
    guest.close()


def test_a_guest_cannot_leave_the_directory(share, host):
    (share.parent / "secret").write_text("secret")
    (share / "out").symlink_to("../secret")
    (share / "up").symlink_to("..")
    refused(errno.ELOOP, host.call, Type.OPEN, host.lookup(b"out"), 0)
    refused(errno.ELOOP, host.read, host.lookup(b"out"))
    refused(errno.ELOOP, host.call, Type.LOOKUP, host.lookup(b"up"), b"secret")
    d = host.call(Type.MKDIR, ROOT, b"d", 0o755)[0]
    f = host.create(b"secret", b"inside", parent=d)
    os.rename(share / "d", share / "e")
    (share / "d").symlink_to("..")
    host.device._push.close()  # it would learn of the rename
    refused(errno.ELOOP, host.call, Type.GETATTR, f)
    refused(errno.ELOOP, host.call, Type.CREATE, d, b"n", 0o644)


def test_owners_are_mapped(share, host):
    host.create(b"suid", mode=0o4755)
    status = (share / "suid").stat()
    assert status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o755
    assert host.call(Type.GETATTR, host.lookup(b"suid"))[0] == stat.S_IFREG | 0o4755


def test_an_open_file_outlives_its_name_and_its_process(guest):
    inode = guest.create(b"f", b"data")
    handle = guest.call(Type.OPEN, inode, os.O_RDWR)
    guest.call(Type.UNLINK, ROOT, b"f")
    again = guest.create(b"f", b"another")
    assert again != inode
    for letter in (b"D", b"d"):
        assert guest.write(inode, letter) == 1
        assert guest.call(Type.GETATTR, inode)[1] == 4
        guest.successor()
        assert guest.read(handle) == letter + b"ata"
    guest.call(Type.CLOSE, handle)
    refused(errno.ENOENT, guest.call, Type.GETATTR, inode)
    assert not [name for name in guest.keeper.held if name.startswith("gone")]
    assert guest.read(again) == b"another"


def test_what_is_renamed_over_an_open_file_does_not_end_it(guest):
    inode = guest.create(b"f", b"old")
    handle = guest.call(Type.OPEN, inode, 0)
    guest.create(b"n", b"new")
    guest.call(Type.RENAME, ROOT, b"n", ROOT, b"f")
    guest.successor()
    assert guest.read(handle) == b"old"
    assert guest.read(guest.lookup(b"f")) == b"new"


ONCE = {
    "create": ((Type.CREATE, ROOT, b"n", 0o644), {b"n"}),
    "mkdir": ((Type.MKDIR, ROOT, b"n", 0o755), {b"n"}),
    "symlink": ((Type.SYMLINK, ROOT, b"n", b"t"), {b"n"}),
    "unlink": ((Type.UNLINK, ROOT, b"g"), {b"!g"}),
    "rmdir": ((Type.UNLINK, ROOT, b"d"), {b"!d"}),
    "rename": ((Type.RENAME, ROOT, b"old", ROOT, b"new"), {b"!old", b"new"}),
}


class Killed(BaseException):
    """The process ends here."""


def prepared(guest):
    old = guest.call(Type.MKDIR, ROOT, b"old", 0o755)[0]
    guest.call(Type.MKDIR, ROOT, b"d", 0o755)
    guest.create(b"g", b"g")
    return guest.create(b"f", b"x", parent=old)


def check(guest, wanted):
    there = set(guest.list())
    assert all((name[1:] not in there) if name[:1] == b"!" else name in there for name in wanted)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ONCE)
def test_a_request_cut_in_the_middle_is_carried_out_once(guest, monkeypatch, method, when):
    below = prepared(guest)
    call, wanted = ONCE[method]
    kind = type(guest.device._tree)
    real = getattr(kind, method)

    def killed(*arguments):
        if when == "after":
            real(*arguments)
        raise Killed

    monkeypatch.setattr(kind, method, killed)
    with pytest.raises(Killed):
        guest.call(*call)
    monkeypatch.undo()
    guest.successor()
    guest.call(*call, again=True)
    check(guest, wanted)
    assert guest.read(below) == b"x"


@pytest.mark.parametrize("method", ONCE)
def test_a_request_cut_before_its_response_was_given(guest, method):
    below = prepared(guest)
    call, wanted = ONCE[method]
    response = guest.call(*call)
    guest.successor()
    assert guest.call(*call, again=True) == response
    check(guest, wanted)
    assert guest.read(below) == b"x"


def test_open_and_close_come_again(guest):
    inode = guest.create(b"f")
    handle = guest.call(Type.OPEN, inode, 0)
    guest.successor()
    assert guest.call(Type.OPEN, inode, 0, again=True) == handle
    guest.call(Type.CLOSE, handle)
    guest.successor()
    guest.call(Type.CLOSE, handle, again=True)


def known(guest):
    """What the device remembers: the names of each inode, and what is open."""
    inodes = guest.device._inodes
    return sorted((inode.paths, inodes.held(inode.number)) for inode in inodes), len(inodes._handles)


@pytest.mark.parametrize("name", [*ONCE, "open", "close"])
def test_a_request_cut_before_each_record_of_it(tmp_path, monkeypatch, name):
    def begun(directory):
        directory.mkdir()
        guest = Client(directory)
        clients.append(guest)
        below = prepared(guest)
        handle = guest.call(Type.OPEN, guest.lookup(b"g"), 0)
        calls = {"open": (Type.OPEN, below, 0), "close": (Type.CLOSE, handle)}
        return guest, calls[name] if name in calls else ONCE[name][0]

    clients = []
    try:
        whole, call = begun(tmp_path / "whole")
        whole.call(*call)
        for cut in range(20):
            guest, call = begun(tmp_path / str(cut))
            left, real = [cut], guest.device._journal._append

            def append(changes, left=left, real=real):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(changes)

            with monkeypatch.context() as patched:
                patched.setattr(guest.device._journal, "_append", append)
                try:
                    guest.call(*call)
                    break
                except Killed:
                    pass
            guest.successor()
            guest.call(*call, again=True)
            assert guest.list().keys() == whole.list().keys() and known(guest) == known(whole), cut
        assert 0 < cut < 19
    finally:
        for client in clients:
            client.close()


def test_a_reset_ends_the_session_but_not_the_files(guest):
    inode = guest.create(b"f", b"data")
    handle = guest.call(Type.OPEN, inode, 0)
    guest.call(Type.UNLINK, ROOT, b"f")
    guest.create(b"g", b"data")
    guest.device.reset()
    refused(errno.EISDIR, guest.read, handle)  # it is unknown, so it is taken for inode 1, the root
    assert guest.read(guest.lookup(b"g")) == b"data"
    assert guest.call(Type.OPEN, guest.lookup(b"g"), 0) >= 1


def test_64_bit_fields_keep_their_upper_halves(guest):
    inode = guest.create(b"f", b"data")
    refused(errno.ENOENT, guest.read, inode | 1 << 32)
    assert guest.read(inode, 1 << 32) == b""
    assert guest.response(Type.SETATTR, inode, 8, 0, 1 << 63)[0] == errno.EFBIG
    for far in (1 << 32, (1 << 63) - 10, (1 << 64) - 1):
        assert guest.read(inode, far) == b""
