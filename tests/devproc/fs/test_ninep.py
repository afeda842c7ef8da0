"""9P2000.L as a client sees it: bytes, operations, errno."""

import errno
import os
import stat
import struct

import pytest
from ninep_client import Client, message

from devproc.fs.ninep.messages import REQUESTS, Type


def refused(number):
    return pytest.raises(OSError, match=os.strerror(number))


def test_version_and_attach_byte_for_byte(share):
    client = Client(share, attach=False)
    asked = bytes.fromhex("15000000 64 ffff 00000200 0800") + b"9P2000.L"
    assert client.raw(asked) == bytes.fromhex("15000000 65 ffff 00000200 0800") + b"9P2000.L"
    asked = bytes.fromhex("1b000000 68 0100 05000000 ffffffff 0400") + b"root" + bytes.fromhex("0000 00000000")
    answer = client.raw(asked)
    assert answer[:8] == bytes.fromhex("14000000 69 0100 80")
    assert len(answer) == 20
    client.close()


def test_an_error_byte_for_byte(client):
    assert client.raw(message(Type.CLUNK, 0x1234, 99)) == bytes.fromhex("0b000000 07 3412 09000000")


def test_another_dialect_is_unknown(client):
    assert client.call(Type.VERSION, 65536, b"9P2000.u")[6:] == b"unknown"


def test_msize_is_bounded(client):
    assert struct.unpack_from("<I", client.call(Type.VERSION, 1 << 31, b"9P2000.L"))[0] == 512 << 10
    with refused(errno.EMSGSIZE):
        client.call(Type.VERSION, 100, b"9P2000.L")


def test_a_new_version_forgets_all_fids(client):
    client.call(Type.VERSION, 65536, b"9P2000.L")
    with refused(errno.EBADF):
        client.stat(0)


@pytest.mark.parametrize("kind", [0, 6, 7, 10, 98, 106, 112, 114, 124, 126, 255])
def test_what_is_not_of_the_dialect_is_not_supported(client, kind):
    answer = client.raw(struct.pack("<IBH", 7, kind, 3))
    assert answer == struct.pack("<IBHI", 11, 7, 3, errno.EOPNOTSUPP)


def test_auth_is_not_supported(client):
    with refused(errno.EOPNOTSUPP):
        client.call(Type.AUTH, 1, b"root", b"", 0)


def test_a_file_is_written_and_read(client, share):
    client.create(1, b"f", b"hello", 0o640)
    assert (share / "f").read_bytes() == b"hello"
    assert client.read(1) == b"hello"
    assert client.read(1, 3) == b"lo"
    assert client.read(1, 5) == b""
    seen = client.stat(1)
    assert (seen["mode"], seen["size"], seen["uid"], seen["gid"]) == (stat.S_IFREG | 0o640, 5, 0, 0)
    client.call(Type.FSYNC, 1, 0)
    client.call(Type.CLUNK, 1)
    with refused(errno.EBADF):
        client.read(1)


def test_reading_needs_an_open_fid(client, share):
    (share / "f").write_text("x")
    client.walk(1, b"f")
    with refused(errno.EBADF):
        client.read(1)
    client.call(Type.LOPEN, 1, os.O_RDONLY)
    with refused(errno.EBADF):
        client.call(Type.WRITE, 1, 0, 1, data=b"y")
    with refused(errno.EBUSY):
        client.call(Type.LOPEN, 1, os.O_RDONLY)


def test_no_file_is_opened_for_appending(client, share):
    (share / "f").write_text("abc")
    client.walk(1, b"f")
    client.call(Type.LOPEN, 1, os.O_WRONLY | os.O_APPEND)
    client.call(Type.WRITE, 1, 0, 1, data=b"X")
    assert (share / "f").read_text() == "Xbc"


def test_a_read_is_cut_to_the_room_that_there_is(client):
    client.create(1, b"f", bytes(range(200)))
    assert client.call(Type.READ, 1, 0, 4096, room=11 + 50)[4:] == bytes(range(50))


def test_walk(client, share):
    (share / "a" / "b").mkdir(parents=True)
    assert client.walk(1, b"a", b"b")[:2] == b"\2\0"
    assert client.call(Type.WALK, 0, 2, [b"a", b"x", b"y"])[:2] == b"\1\0"
    with refused(errno.EBADF):
        client.stat(2)
    with refused(errno.ENOENT):
        client.call(Type.WALK, 0, 2, [b"x"])
    with refused(errno.EBADF):
        client.walk(1)  # the number is taken
    with refused(errno.EINVAL):
        client.walk(3, *[b"a"] * 17)
    client.walk(4, b"..", b"..", b"a", b"..")
    assert client.stat(4)["path"] == client.stat(0)["path"]


def test_a_directory_is_listed_in_pieces(client, share):
    for number in range(50):
        (share / f"file{number:02}").touch()
    client.walk(1)
    client.call(Type.LOPEN, 1, os.O_RDONLY | os.O_DIRECTORY)
    everything = client.list(1)
    assert len(everything) == 52 and {b".", b".."} <= everything.keys()
    assert client.list(1, 100) == everything
    with refused(errno.EINVAL):
        client.call(Type.READDIR, 1, 0, 10)


def test_names_come_and_go(client, share):
    client.call(Type.MKDIR, 0, b"d", 0o755, 0)
    client.call(Type.SYMLINK, 0, b"l", b"d", 0)
    client.create(1, b"f")
    client.call(Type.LINK, 0, 1, b"g")
    client.call(Type.RENAMEAT, 0, b"g", 0, b"h")
    client.walk(2, b"h")
    client.walk(3, b"d")
    client.call(Type.RENAME, 2, 3, b"i")
    assert (share / "d" / "i").samefile(share / "f") and client.stat(2)["nlink"] == 2
    client.walk(4, b"l")
    assert client.call(Type.READLINK, 4)[2:] == b"d"
    with refused(errno.ENOTEMPTY):
        client.call(Type.UNLINKAT, 0, b"d", 0x200)
    with refused(errno.EISDIR):
        client.call(Type.UNLINKAT, 0, b"d", 0)
    client.call(Type.REMOVE, 2)
    client.call(Type.UNLINKAT, 0, b"d", 0x200)
    client.call(Type.UNLINKAT, 0, b"l", 0)
    assert os.listdir(share) == ["f"]
    with refused(errno.ENOENT):
        client.stat(3)


def test_fids_follow_a_renamed_directory(client):
    client.call(Type.MKDIR, 0, b"d", 0o755, 0)
    client.walk(1, b"d")
    client.create(2, b"f", b"x", directory=1)
    client.call(Type.RENAMEAT, 0, b"d", 0, b"e")
    client.walk(3, b"f", fid=1)
    assert client.stat(2)["path"] == client.stat(3)["path"]


def test_renaming_one_name_of_a_file_to_another_does_nothing(client):
    client.create(1, b"f")
    client.call(Type.LINK, 0, 1, b"g")
    client.walk(2, b"g")
    client.call(Type.RENAMEAT, 0, b"f", 0, b"g")
    assert client.stat(2)["nlink"] == 2


def test_an_open_file_without_a_name_lives_on(client):
    client.create(1, b"f", b"still")
    client.call(Type.UNLINKAT, 0, b"f", 0)
    assert client.read(1) == b"still" and client.stat(1)["nlink"] == 0
    client.call(Type.SETATTR, 1, 0x8, 0, 0, 0, 2, 0, 0, 0, 0)
    assert client.read(1) == b"st"


def set_attributes(client, fid, valid, mode=0, uid=0, gid=0, size=0, times=(0, 0, 0, 0)):
    client.call(Type.SETATTR, fid, valid, mode, uid, gid, size, *times)


def test_owners_and_modes_are_the_guests_alone(client, share):
    client.create(1, b"f")
    set_attributes(client, 1, 0x7, 0o4711, 1000, 2000)
    seen = client.stat(1)
    assert (seen["mode"], seen["uid"], seen["gid"]) == (stat.S_IFREG | 0o4711, 1000, 2000)
    status = os.stat(share / "f")
    assert stat.S_IMODE(status.st_mode) == 0o711 and status.st_uid == os.geteuid()
    set_attributes(client, 1, 0x1, 0)
    assert client.stat(1)["mode"] == stat.S_IFREG and stat.S_IMODE(os.stat(share / "f").st_mode) == 0o600
    os.chmod(share / "f", 0o644)  # the host's last word counts
    assert client.stat(1)["mode"] == stat.S_IFREG | 0o644


def test_times_and_sizes(client, share):
    client.create(1, b"f", b"12345")
    set_attributes(client, 1, 0x8 | 0x20 | 0x100, size=3, times=(0, 0, 1000, 5))
    assert os.stat(share / "f").st_mtime_ns == 1000 * 10**9 + 5 and os.stat(share / "f").st_size == 3
    before = os.stat(share / "f").st_atime_ns
    set_attributes(client, 1, 0x20)
    assert os.stat(share / "f").st_mtime > 10**9 and os.stat(share / "f").st_atime_ns == before


def test_devices_are_files_on_the_host(client, share):
    client.call(Type.MKNOD, 0, b"null", stat.S_IFCHR | 0o666, 1, 3, 0)
    client.walk(1, b"null")
    seen = client.stat(1)
    assert (seen["mode"], seen["rdev"]) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert stat.S_ISREG(os.lstat(share / "null").st_mode)
    with refused(errno.ENXIO):
        client.call(Type.LOPEN, 1, os.O_RDONLY)


def test_extended_attributes(client, share):
    client.create(1, b"f")
    client.walk(2, b"f")
    client.call(Type.XATTRCREATE, 2, b"user.x", 5, 0)
    client.call(Type.WRITE, 2, 0, 5, data=b"value")
    client.call(Type.CLUNK, 2)
    assert os.getxattr(share / "f", "user.x") == b"value"
    set_attributes(client, 1, 0x2, uid=5)
    assert client.call(Type.XATTRWALK, 1, 3, b"") == struct.pack("<Q", 7)
    assert client.read(3) == b"user.x\0"
    client.call(Type.XATTRWALK, 1, 4, b"user.x")
    assert client.read(4) == b"value"
    with refused(errno.ENODATA):
        client.call(Type.XATTRWALK, 1, 5, b"user.y")
    with refused(errno.EOPNOTSUPP):
        client.call(Type.XATTRWALK, 1, 5, b"security.capability")
    with refused(errno.EPERM):
        client.call(Type.XATTRWALK, 1, 5, b"user.bulkhead.owner")
    client.walk(6, b"f")
    client.call(Type.XATTRCREATE, 6, b"user.x", 0, 0)
    client.call(Type.CLUNK, 6)
    assert "user.x" not in os.listxattr(share / "f")


def test_locks_are_granted(client):
    client.create(1, b"f")
    assert client.call(Type.LOCK, 1, 1, 0, 0, 0, 1, b"me") == b"\0"
    assert client.call(Type.GETLOCK, 1, 1, 0, 0, 1, b"me")[0] == 2
    with refused(errno.EBADF):
        client.call(Type.LOCK, 0, 1, 0, 0, 0, 1, b"me")


def test_statfs_and_flush(client):
    assert struct.unpack_from("<II", client.call(Type.STATFS, 0))[0] == 0x01021997
    assert client.call(Type.FLUSH, 5) == b""


def test_read_only_refuses_every_change(share):
    (share / "f").write_text("x")
    client = Client(share, read_only=True)
    client.walk(1, b"f")
    changes = [
        (Type.LOPEN, 1, os.O_RDWR),
        (Type.LOPEN, 1, os.O_RDONLY | os.O_TRUNC),
        (Type.LCREATE, 0, b"g", os.O_RDONLY, 0o644, 0),
        (Type.MKDIR, 0, b"d", 0o755, 0),
        (Type.MKNOD, 0, b"n", stat.S_IFIFO, 0, 0, 0),
        (Type.SYMLINK, 0, b"l", b"x", 0),
        (Type.LINK, 0, 1, b"g"),
        (Type.RENAMEAT, 0, b"f", 0, b"g"),
        (Type.UNLINKAT, 0, b"f", 0),
        (Type.SETATTR, 1, 1, 0o600, 0, 0, 0, 0, 0, 0, 0),
    ]
    for change in changes:
        with refused(errno.EROFS):
            client.call(*change)
    client.call(Type.LOPEN, 1, os.O_RDONLY)
    assert client.read(1) == b"x" and os.listdir(share) == ["f"]
    client.close()


def test_a_session_outlives_its_process(client, share):
    """Fids, opened and not, of files that were renamed since."""
    client.create(1, b"f", b"kept")
    client.walk(2, b"f")
    client.call(Type.MKDIR, 0, b"d", 0o755, 0)
    client.call(Type.RENAMEAT, 0, b"f", 0, b"g")
    client.walk(3, b"d")
    client.call(Type.CLUNK, 3)
    client.successor()
    assert client.read(1) == b"kept"
    client.call(Type.WRITE, 1, 4, 1, data=b"!")
    assert (share / "g").read_bytes() == b"kept!" and client.stat(2)["size"] == 5
    with refused(errno.EBADF):
        client.stat(3)
    assert client.session.msize == 65536


def test_a_successor_does_not_open_another_file_of_that_name(client, share):
    client.create(1, b"f", b"mine")
    os.rename(share / "f", share / "old")
    (share / "f").write_text("another")
    client.successor()
    with refused(errno.ESTALE):
        client.read(1)


def test_requests_that_come_again_find_their_work_done(client):
    client.walk(1)
    client.call(Type.WALK, 0, 1, [], again=True)
    client.call(Type.CLUNK, 1)
    client.call(Type.CLUNK, 1, again=True)


def test_every_request_of_the_table_is_answered(client):
    """With fields of nothing: some answer, never silence."""
    for kind, fields in REQUESTS.items():
        empty = [{"s": b"", "n": []}.get(field.rpartition(":")[2], 0) for field in fields.split()]
        assert len(client.raw(message(kind, 1, *empty))) >= 7
