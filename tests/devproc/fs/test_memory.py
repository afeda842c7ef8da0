"""The tree in memory does what a directory of the host does: the same calls give the same answers."""

import os

import fuse_client
import ninep_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.fs import memory
from devproc.fs.host import HostTree
from devproc.fs.journal import make_memory
from devproc.fs.memory import DATA_SIZE, JOURNAL_SIZE, MemoryTree
from devproc.fs.tree import Changes, Owner

PATHS = st.sampled_from([b"a", b"b", b"a/x", b"a/y", b"b/x", b"a/x/z"])
CALLS = st.one_of(
    st.tuples(st.just("mkdir"), PATHS, st.just(0o755), st.just(Owner())),
    st.tuples(st.just("mknod"), PATHS, st.just(0o100644), st.just(0), st.just(Owner())),
    st.tuples(st.just("symlink"), PATHS, st.just(b"target"), st.just(Owner())),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS, st.sampled_from([0, 1])),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("readlink"), PATHS),
    st.tuples(st.just("entries"), PATHS | st.just(b"")),
    st.tuples(st.just("stat"), PATHS | st.just(b"")),
    st.tuples(st.just("change"), PATHS, st.just(Changes(size=10))),
    st.tuples(st.just("change"), PATHS, st.just(Changes(mode=0o600, uid=5))),
)


def outcome(tree, call):
    """What a call gives, without what two trees cannot have in common."""
    try:
        result = getattr(tree, call[0])(*call[1:])
    except OSError as error:
        return error.errno
    if call[0] == "entries":
        return [(entry.name, entry.kind) for entry in result]
    if call[0] == "stat":
        return result.mode if result.directory else (result.mode, result.nlink, result.size)
    return result


@settings(max_examples=80, deadline=None)
@given(st.lists(CALLS, max_size=25))
def test_it_answers_as_a_directory_of_the_host_does(tmp_path_factory, calls):
    place = tmp_path_factory.mktemp("host")
    place.chmod(0o755)
    host, memory = HostTree(str(place)), MemoryTree()
    try:
        for call in calls:
            assert outcome(memory, call) == outcome(host, call), call
    finally:
        host.close()
        memory.close()


@pytest.mark.parametrize("make", [lambda path: HostTree(str(path)), lambda path: MemoryTree()], ids=["host", "memory"])
def test_an_open_file(make, tmp_path):
    tree = make(tmp_path)
    file = tree.create(b"f", os.O_RDWR | os.O_EXCL, 0o644, Owner(1, 2))
    assert file.write([memoryview(b"hello "), memoryview(b"world")], 3) == 11
    room = bytearray(20)
    assert file.read([memoryview(room)[:4], memoryview(room)[4:]], 0) == 14
    assert room == b"\0\0\0hello world".ljust(20, b"\0")
    tree.unlink(b"f")
    seen = file.attributes()
    assert (seen.size, seen.uid, seen.gid, seen.nlink) == (14, 1, 2, 0)
    file.allocate(0, 0, 100)
    assert file.attributes().size == 100 and file.seek(0, os.SEEK_DATA) == 0
    file.close()
    tree.close()


def test_a_successor_finds_what_its_predecessor_left():
    """Whatever was done, a tree made of the same memory is the same tree, and counts the same."""
    journal, data = make_memory("tree", JOURNAL_SIZE), make_memory("contents", DATA_SIZE)
    tree = MemoryTree(journal, data)
    tree.mkdir(b"d", 0o750, Owner(5, 6))
    file = tree.create(b"d/f", os.O_RDWR, 0o4644, Owner())
    file.write([memoryview(b"contents")], 10)
    file.change(Changes(size=14, mtime=5))
    tree.link(b"d/f", b"hard")
    tree.symlink(b"d/link", b"../x", Owner())
    tree.mknod(b"pipe", 0o10600, 0, Owner())
    tree.set_xattr(b"d", b"user.x", b"value", 0)
    tree.rename(b"d", b"e")
    gone = tree.create(b"gone", os.O_RDWR, 0o600, Owner())
    gone.write([memoryview(b"open")], 0)
    tree.unlink(b"gone")
    again = MemoryTree(journal, data)  # the other was killed
    assert again.nodes.keys() == tree.nodes.keys() and again._texts == tree._texts
    assert all(again.nodes[inode].attributes() == node.attributes() for inode, node in tree.nodes.items())
    room = bytearray(20)
    assert again.open(b"hard", os.O_RDONLY).read([memoryview(room)], 0) == 14
    assert room == (bytes(10) + b"cont").ljust(20, b"\0")
    assert again.get_xattr(b"e", b"user.x") == b"value" and again.readlink(b"e/link") == b"../x"
    inode = gone.attributes().inode
    file = again.open_nameless(inode, os.O_RDONLY)
    assert file.read([memoryview(room)], 0) == 4 and room[:4] == b"open"
    file.close()
    with pytest.raises(OSError):
        again.open_nameless(inode, os.O_RDONLY)
    for name in (b"hard", b"e/f", b"e/link"):
        again.unlink(name)
    assert again.stat(b"e").nlink == 2
    again.close()
    os.close(journal)
    os.close(data)


def test_what_is_cut_off_is_gone_and_what_is_too_much_is_refused(monkeypatch):
    tree = MemoryTree()
    file = tree.create(b"f", os.O_RDWR, 0o644, Owner())
    file.write([memoryview(b"x" * 10000)], 0)
    file.change(Changes(size=5))
    file.change(Changes(size=9))
    room = bytearray(20)
    assert file.read([memoryview(room)], 0) == 9 and room == b"xxxxx".ljust(20, b"\0")
    monkeypatch.setattr(memory, "BLOCKS_FREE", 3)
    for call in (
        lambda: file.write([memoryview(b"x" * 20000)], 0),
        lambda: file.write([memoryview(b"x")], 1 << 30),
        lambda: file.change(Changes(size=(1 << 30) + 1)),
    ):
        with pytest.raises(OSError):
            call()
    monkeypatch.setattr(memory, "TEXTS_MAX", tree._texts + 10)
    with pytest.raises(OSError):
        tree.symlink(b"l", b"x" * 10, Owner())
    tree.create(b"n", os.O_RDWR, 0o644, Owner()).close()
    tree.unlink(b"f")
    file.close()
    assert tree._used() == 0 and len(tree.nodes) == 2
    tree.close()


def test_9p_and_fuse_serve_it_too():
    ninep, fuse = ninep_client.Client("memory:"), fuse_client.Client("memory:")
    ninep.create(1, b"f", b"data")
    assert ninep.read(1) == b"data" and ninep.stat(1)["size"] == 4
    node, handle = fuse.create(b"f", b"data")
    assert fuse.read(handle) == b"data" and fuse.stat(node)["size"] == 4
    ninep.close()
    fuse.close()
