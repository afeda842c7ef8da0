"""The tree in memory does what a directory of the host does: the same calls give the same answers."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.fs.host import HostTree
from devproc.fs.memory import MemoryTree
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
