"""FUSE as a guest sees it: bytes, operations, errno."""

import errno
import os
import re
import stat
import struct

import pytest
from fuse_client import ROOT, Client, message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.fs.fuse.messages import REQUESTS, Opcode


@pytest.fixture
def guest(share):
    made = Client(share)
    yield made
    made.close()


def refused(number):
    return pytest.raises(OSError, match=os.strerror(number))


def test_init_byte_for_byte(guest):
    asked = bytes.fromhex("38000000 1a000000 0200000000000000 0000000000000000 00000000 00000000 00000000 00000000")
    asked += struct.pack("<IIII", 7, 44, 131072, 0x40000021)
    answer = guest.raw(asked)
    assert answer[:16] == bytes.fromhex("50000000 00000000 0200000000000000")
    assert answer[16:] == struct.pack("<IIIIHHIIHHII24x", 7, 41, 131072, 0x21, 64, 48, 1 << 20, 1, 256, 0, 0, 0)


def test_an_error_byte_for_byte(guest):
    answer = guest.raw(message(Opcode.LOOKUP, ROOT, names=[b"x"], unique=0x1234))
    assert answer == struct.pack("<IiQ", 16, -errno.ENOENT, 0x1234)


def test_an_older_guest_is_spoken_to_in_its_minor_version(guest):
    assert struct.unpack_from("<II", guest.call(Opcode.INIT, 0, 7, 31, 0, 0)) == (7, 31)
    with refused(errno.EPROTO):
        guest.call(Opcode.INIT, 0, 6, 1, 0, 0)


@pytest.mark.parametrize("opcode", [0, 7, 19, 34, 37, 39, 40, 41, 48, 49, 53, 4096])
def test_what_is_not_answered_is_not_implemented(guest, opcode):
    answer = guest.raw(struct.pack("<IIQQIIIHH", 40, opcode, 1, ROOT, 0, 0, 0, 0, 0))
    assert answer == struct.pack("<IiQ", 16, -errno.ENOSYS, 1)


def test_a_file_is_written_and_read(guest, share):
    node, handle = guest.create(b"f", b"hello", 0o100640)
    assert (share / "f").read_bytes() == b"hello"
    assert guest.read(handle) == b"hello" and guest.read(handle, 3) == b"lo" and guest.read(handle, 5) == b""
    seen = guest.stat(node)
    assert (seen["mode"], seen["size"], seen["nlink"]) == (stat.S_IFREG | 0o640, 5, 1)
    guest.call(Opcode.FSYNC, node, handle)
    guest.call(Opcode.FALLOCATE, node, handle, 0, 100)
    assert guest.stat(node)["size"] == 100
    assert guest.call(Opcode.LSEEK, node, handle, 0, os.SEEK_HOLE)[:8] == struct.pack("<Q", 100)
    guest.call(Opcode.RELEASE, node, handle)
    with refused(errno.EBADF):
        guest.read(handle)


@pytest.mark.parametrize("room", [0, 8, 15])
def test_without_room_for_an_answer_none_is_said_to_be_there(guest, room):
    _, handle = guest.create(b"f", b"hello")
    assert guest.raw(message(Opcode.READ, 0, handle, 0, 5), room) == b""


def test_a_node_is_one_file_under_all_its_names(guest):
    node, _ = guest.create(b"f")
    assert struct.unpack_from("<Q", guest.call(Opcode.LINK, ROOT, node, names=[b"g"]))[0] == node
    guest.call(Opcode.UNLINK, ROOT, names=[b"g"])
    assert guest.stat(node)["nlink"] == 1
    guest.call(Opcode.RENAME2, ROOT, ROOT, names=[b"f", b"h"])
    assert guest.lookup(b"h") == node
    guest.raw(message(Opcode.FORGET, node, 3))
    with refused(errno.ESTALE):
        guest.stat(node)


def test_nodes_follow_what_is_renamed_and_exchanged(guest):
    guest.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
    directory = guest.lookup(b"d")
    node, _ = guest.create(b"f", b"x", parent=directory)
    other, _ = guest.create(b"g")
    guest.call(Opcode.RENAME, ROOT, ROOT, names=[b"d", b"e"])
    assert guest.stat(node)["size"] == 1
    guest.call(Opcode.RENAME2, ROOT, ROOT, 2, names=[b"e", b"g"])
    assert guest.stat(node)["size"] == 1 and stat.S_ISREG(guest.stat(other)["mode"])
    assert guest.lookup(b"f", guest.lookup(b"g")) == node
    with refused(errno.EEXIST):
        guest.call(Opcode.RENAME2, ROOT, ROOT, 1, names=[b"e", b"g"])


def test_an_open_file_without_a_name_lives_on(guest):
    node, handle = guest.create(b"f", b"still")
    guest.call(Opcode.UNLINK, ROOT, names=[b"f"])
    assert guest.read(handle) == b"still" and guest.stat(node)["nlink"] == 0
    guest.call(Opcode.SETATTR, node, 0x8, 0, 0, 2)
    assert guest.read(handle) == b"st"


def test_attributes_names_and_directories(guest, share):
    node, _ = guest.create(b"f")
    guest.call(Opcode.SETATTR, node, 0x7 | 0x20, 0, 0, 0, 0, 0, 1000, 0, 0, 5, 0, 0o4711, 0, 1, 2)
    seen = guest.stat(node)
    assert (seen["mode"], seen["uid"], seen["gid"], seen["mtime"]) == (stat.S_IFREG | 0o4711, 1, 2, 1000)
    guest.call(Opcode.SYMLINK, ROOT, names=[b"l", b"../secret"])
    assert guest.call(Opcode.READLINK, guest.lookup(b"l")) == b"../secret"
    guest.call(Opcode.MKNOD, ROOT, stat.S_IFCHR | 0o600, os.makedev(1, 3), names=[b"null"])
    assert guest.stat(guest.lookup(b"null"))["rdev"] == 0x103
    handle = guest.open(ROOT, os.O_DIRECTORY, Opcode.OPENDIR)
    listed = guest.call(Opcode.READDIR, ROOT, handle, 0, 4096)
    assert all(name in listed for name in (b"f", b"l", b"null", b"..")) and len(listed) % 8 == 0
    guest.call(Opcode.UNLINK, ROOT, names=[b"null"])
    with refused(errno.ENOTDIR):
        guest.call(Opcode.RMDIR, ROOT, names=[b"f"])
    assert sorted(os.listdir(share)) == ["f", "l"]


def test_extended_attributes(guest, share):
    node, _ = guest.create(b"f")
    guest.call(Opcode.SETXATTR, node, 5, 0, names=[b"user.x"], data=b"value")
    assert os.getxattr(share / "f", "user.x") == b"value"
    assert guest.call(Opcode.GETXATTR, node, 0, names=[b"user.x"]) == struct.pack("<Q", 5)
    assert guest.call(Opcode.GETXATTR, node, 10, names=[b"user.x"]) == b"value"
    assert guest.call(Opcode.LISTXATTR, node, 100) == b"user.x\0"
    with refused(errno.ERANGE):
        guest.call(Opcode.GETXATTR, node, 4, names=[b"user.x"])
    guest.call(Opcode.REMOVEXATTR, node, names=[b"user.x"])
    with refused(errno.ENODATA):
        guest.call(Opcode.GETXATTR, node, 10, names=[b"user.x"])


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"../secret"])
def test_what_is_not_a_name_names_nothing(guest, share, name):
    for call in (
        lambda: guest.lookup(name),
        lambda: guest.create(name),
        lambda: guest.call(Opcode.MKDIR, ROOT, 0o755, names=[name]),
        lambda: guest.call(Opcode.RENAME, ROOT, ROOT, names=[b"x", name]),
    ):
        with refused(errno.EINVAL):
            call()
    assert os.listdir(share) == []


def test_no_symbolic_link_is_followed(guest, share, tmp_path):
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path, share / "link")
    link = guest.lookup(b"link")
    with refused(errno.ELOOP):
        guest.open(link)
    with refused(errno.ELOOP):
        guest.lookup(b"secret", link)


def test_read_only_refuses_every_change(share):
    (share / "f").write_text("x")
    guest = Client(share, read_only=True)
    node = guest.lookup(b"f")
    for call in (
        lambda: guest.open(node, os.O_RDWR),
        lambda: guest.create(b"g"),
        lambda: guest.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"]),
        lambda: guest.call(Opcode.UNLINK, ROOT, names=[b"f"]),
        lambda: guest.call(Opcode.SETATTR, node, 1),
        lambda: guest.call(Opcode.SETXATTR, node, 0, 0, names=[b"user.x"]),
    ):
        with refused(errno.EROFS):
            call()
    assert guest.read(guest.open(node)) == b"x"
    guest.close()


def test_a_session_outlives_its_process(guest, share):
    node, handle = guest.create(b"f", b"kept")
    guest.call(Opcode.RENAME, ROOT, ROOT, names=[b"f", b"g"])
    directory = guest.open(ROOT, os.O_DIRECTORY, Opcode.OPENDIR)
    guest.successor()
    assert guest.read(handle) == b"kept" and guest.stat(node)["size"] == 4
    assert b"g" in guest.call(Opcode.READDIR, ROOT, directory, 0, 4096)
    assert guest.lookup(b"g") == node
    os.unlink(share / "g")
    guest.successor()
    with refused(errno.ENOENT):
        guest.read(handle)


NUMBER = st.sampled_from([0, 1, 2, 3, 7, 0x1FF, (1 << 32) - 1, 1 << 63, (1 << 64) - 1])
NAME = st.sampled_from([b"", b"a", b"b", b"..", b"a/b", b"../secret", b"x" * 300, b"\xff"])


@st.composite
def hostile_messages(draw):
    opcode = draw(st.sampled_from(sorted(REQUESTS)))
    layout, names = REQUESTS[opcode]
    words = [draw(NUMBER) & ((1 << (64 if kind == "Q" else 32)) - 1) for kind in _kinds(layout.format)]
    listed = [draw(NAME) for _ in range(names)]
    return message(opcode, draw(st.integers(0, 5)), *words, names=listed, data=draw(st.binary(max_size=40)))


def _kinds(layout):
    """`<QQII` and `<5QI` alike as a run of letters."""
    return "".join(letter * int(count or 1) for count, letter in re.findall(r"(\d*)([QI])", layout))


@settings(max_examples=150, deadline=None)
@given(st.lists(hostile_messages(), max_size=25))
def test_hostile_sessions_stay_inside(tmp_path_factory, messages):
    place = tmp_path_factory.mktemp("hostile")
    (place / "share").mkdir()
    (place / "secret").write_text("secret")
    guest = Client(place / "share")
    try:
        for data in messages:
            answer = guest.raw(data, 600)
            assert not answer or struct.unpack_from("<I", answer)[0] == len(answer)
    finally:
        guest.close()
    assert sorted(os.listdir(place)) == ["secret", "share"] and (place / "secret").read_text() == "secret"


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=120), st.integers(0, 64))
def test_hostile_bytes_get_an_answer_or_none(guest, data, room):
    answer = guest.raw(data, room)
    assert len(answer) <= room
