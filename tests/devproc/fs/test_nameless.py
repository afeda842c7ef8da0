"""Open files whose name has gone: unlinked, replaced, never named; and killed in between."""

import errno
import os
import struct

import pytest
from fuse_client import ROOT
from fuse_client import Client as FuseClient

from devproc.fs import nameless
from devproc.fs.fuse.messages import Opcode
from devproc.fs.ninep.messages import Type


@pytest.fixture
def guest(share):
    made = FuseClient(share)
    yield made
    made.close()


def kept(client):
    return [name for name in client.supervisor.kept if name.startswith(nameless.PREFIX)]


def test_fuse_an_unlinked_open_file_outlives_the_process(guest, share):
    node, handle = guest.create(b"f", b"content")
    guest.call(Opcode.UNLINK, ROOT, names=[b"f"])
    (share / "f").write_text("another file")
    guest.successor()
    assert guest.read(handle) == b"content"
    guest.call(Opcode.WRITE, node, handle, 7, 1, data=b"!")
    assert guest.stat(node)["size"] == 8 and guest.stat(node)["nlink"] == 0
    guest.successor()
    again = guest.open(node)
    assert guest.read(again) == b"content!"
    guest.call(Opcode.RELEASE, node, handle)
    assert kept(guest)
    guest.call(Opcode.RELEASE, node, again)
    assert not kept(guest) and (share / "f").read_text() == "another file"


def test_fuse_a_replaced_open_file_outlives_the_process(guest):
    _, handle = guest.create(b"old", b"old")
    guest.create(b"new", b"new")
    guest.call(Opcode.RENAME, ROOT, ROOT, names=[b"new", b"old"])
    guest.successor()
    assert guest.read(handle) == b"old"


def test_fuse_a_removed_open_directory_is_empty(guest):
    guest.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
    node = guest.lookup(b"d")
    handle = guest.open(node, opcode=Opcode.OPENDIR)
    guest.call(Opcode.RMDIR, ROOT, names=[b"d"])
    guest.successor()
    assert guest.call(Opcode.READDIR, node, handle, 0, 4096) == b""
    assert guest.stat(node)["mode"] & 0o170000 == 0o040000
    guest.call(Opcode.RELEASEDIR, node, handle)
    assert not kept(guest)


def test_fuse_a_file_without_a_name_gets_one(guest, share):
    answer = guest.call(Opcode.TMPFILE, ROOT, os.O_RDWR, 0o100640, names=[b"#1"])
    node, handle = struct.unpack_from("<Q", answer)[0], struct.unpack_from("<Q", answer, 128)[0]
    guest.call(Opcode.WRITE, node, handle, 0, 3, data=b"abc")
    assert list(share.iterdir()) == []
    guest.successor()
    assert guest.read(handle) == b"abc"
    guest.call(Opcode.LINK, ROOT, node, names=[b"named"])
    assert (share / "named").read_bytes() == b"abc"
    assert guest.lookup(b"named") == node and guest.stat(node)["nlink"] == 1


def test_what_is_not_open_is_not_kept(guest, share):
    (share / "f").touch()
    node = guest.lookup(b"f")
    guest.call(Opcode.UNLINK, ROOT, names=[b"f"])
    assert not kept(guest)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        guest.stat(node)


def test_beyond_the_limit_a_file_is_gone_with_the_process_and_says_so(share, monkeypatch):
    monkeypatch.setattr(nameless, "LIMIT", 1)
    guest = FuseClient(share)
    handles = [guest.create(name, name)[1] for name in (b"a", b"b")]
    for name in (b"a", b"b"):
        guest.call(Opcode.UNLINK, ROOT, names=[name])
    assert [guest.read(handle) for handle in handles] == [b"a", b"b"]
    guest.successor()
    assert guest.read(handles[0]) == b"a"
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        guest.read(handles[1])
    guest.close()


def test_ninep_an_unlinked_open_file_outlives_the_process(client, share):
    client.create(1, b"f", b"content")
    client.walk(2, b"f")
    client.call(Type.UNLINKAT, 0, b"f", 0)
    (share / "f").write_text("another file")
    client.successor()
    assert client.read(1) == b"content"
    assert client.stat(1)["size"] == client.stat(2)["size"] == 7
    client.call(Type.SETATTR, 2, 8, 0, 0, 0, 3, 0, 0, 0, 0)
    client.call(Type.WALK, 2, 3, [])
    client.call(Type.LOPEN, 3, os.O_RDONLY)
    client.successor()
    assert client.read(3) == b"con"
    for fid in (1, 2, 3):
        assert kept(client)
        client.call(Type.CLUNK, fid)
    assert not kept(client) and (share / "f").read_text() == "another file"


def test_ninep_a_replaced_open_file_outlives_the_process(client):
    client.create(1, b"old", b"old")
    client.create(2, b"new", b"new")
    client.call(Type.RENAMEAT, 0, b"new", 0, b"old")
    client.successor()
    assert client.read(1) == b"old" and client.read(2) == b"new"
