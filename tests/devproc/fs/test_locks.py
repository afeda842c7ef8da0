"""Locks as two guests and the host see them, in both protocols: in the way, waited for, outliving the process."""

import errno
import fcntl
import os
import struct

import pytest
from fuse_client import Client as FuseClient
from fuse_client import message as fuse_message
from hypothesis import given, settings
from hypothesis import strategies as st
from ninep_client import Supervisor, request
from ninep_client import message as ninep_message

from devproc.fs import locks
from devproc.fs.fuse.messages import Opcode
from devproc.fs.host import HostTree
from devproc.fs.locks import END, Lock, Locks
from devproc.fs.ninep.messages import Type

READ, WRITE, UNLOCK = 0, 1, 2
EOF = (1 << 64) - 1


@pytest.fixture
def guest(share):
    made = FuseClient(share)
    yield made
    made.close()


def refused(number):
    return pytest.raises(OSError, match=os.strerror(number))


def host_lock(path, kind=fcntl.F_WRLCK, start=0, length=0):
    """A lock that a program of the host takes; False when it is not free. Returns a function that lets it go."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, 37, struct.pack("@hhqqi0q", kind, 0, start, length, 0))
    except BlockingIOError:
        os.close(fd)
        return False
    return lambda: os.close(fd)


def fuse_wait(guest, *fields, unique=7):
    """Send SETLKW; the request, which may have its answer later."""
    made, answer = request(fuse_message(Opcode.SETLKW, 0, *fields, unique=unique), 64)
    guest.session.handle(made)
    return made, answer


def test_a_range_is_locked_on_the_host_and_by_owner(guest, share):
    node, handle = guest.create(b"f", b"0123456789")
    guest.call(Opcode.SETLK, node, handle, 100, 0, 3, WRITE, 42, 0)
    assert not host_lock(share / "f", start=2, length=1)
    free = host_lock(share / "f", start=4, length=1)
    with refused(errno.EAGAIN):
        guest.call(Opcode.SETLK, node, handle, 200, 3, 5, READ, 43, 0)
    answer = guest.call(Opcode.GETLK, node, handle, 200, 0, EOF, WRITE, 43, 0)
    assert struct.unpack("<QQII", answer)[2:] == (WRITE, 42) or struct.unpack("<QQII", answer)[0] == 4
    free()
    assert struct.unpack("<QQII", guest.call(Opcode.GETLK, node, handle, 200, 0, EOF, WRITE, 43, 0)) == (
        0,
        3,
        WRITE,
        42,
    )
    assert struct.unpack("<QQII", guest.call(Opcode.GETLK, node, handle, 100, 0, EOF, WRITE))[2] == UNLOCK
    guest.call(Opcode.SETLK, node, handle, 100, 0, EOF, UNLOCK)
    host_lock(share / "f")()


def test_closing_lets_the_locks_of_that_program_go(guest, share):
    node, handle = guest.create(b"f")
    guest.call(Opcode.SETLK, node, handle, 1, 0, 9, WRITE)
    guest.call(Opcode.SETLK, node, handle, 2, 10, 19, WRITE)
    guest.call(Opcode.FLUSH, node, handle, 0, 0, 1)
    host_lock(share / "f", start=0, length=10)()
    assert not host_lock(share / "f", start=10, length=1)
    guest.call(Opcode.RELEASE, node, handle)
    host_lock(share / "f")()
    assert not [name for name in guest.supervisor.kept if name.startswith("lock:")]


def test_whole_files_are_locked_as_flock_does(guest, share):
    node, handle = guest.create(b"f")
    guest.call(Opcode.SETLK, node, handle, 1, 0, EOF, READ, 0, 1)
    fd = os.open(share / "f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a change that fails has let the lock go
    with refused(errno.EAGAIN):
        guest.call(Opcode.SETLK, node, handle, 1, 0, EOF, WRITE, 0, 1)
    guest.call(Opcode.SETLK, node, handle, 1, 0, EOF, UNLOCK, 0, 1)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_locks_outlive_the_process(guest, share):
    node, handle = guest.create(b"f")
    guest.call(Opcode.SETLK, node, handle, 1, 0, 9, WRITE, 5)
    guest.successor()
    assert not host_lock(share / "f", start=5, length=1)
    with refused(errno.EAGAIN):
        guest.call(Opcode.SETLK, node, handle, 2, 0, 0, READ)
    guest.call(Opcode.SETLK, node, handle, 1, 0, 4, UNLOCK)
    host_lock(share / "f", start=0, length=5)()
    assert not host_lock(share / "f", start=5, length=1)


def test_a_wait_ends_when_another_program_of_the_guest_unlocks(guest):
    node, handle = guest.create(b"f")
    guest.call(Opcode.SETLK, node, handle, 1, 0, 9, WRITE)
    made, answer = fuse_wait(guest, handle, 2, 5, 5, WRITE, 0, 0)
    assert made.parked and made.written == 0
    ended = []
    made.finish = lambda: ended.append(bytes(answer[: made.written]))
    guest.call(Opcode.SETLK, node, handle, 1, 0, 4, UNLOCK)
    assert not ended
    guest.call(Opcode.SETLK, node, handle, 1, 0, EOF, UNLOCK)
    assert ended == [struct.pack("<IiQ", 16, 0, 7)] and not guest.session.waiting


def test_a_wait_ends_when_the_host_unlocks_or_the_guest_interrupts(guest, share):
    _, handle = guest.create(b"f")
    free = host_lock(share / "f")
    ended = []
    for unique in (7, 8):
        made, answer = fuse_wait(guest, handle, unique, 0, 0, WRITE, 0, 0, unique=unique)
        made.finish = lambda made=made, answer=answer: ended.append(struct.unpack("<IiQ", answer[: made.written]))
    guest.session.waiting.look()
    assert not ended
    guest.raw(fuse_message(Opcode.INTERRUPT, 0, 8), 0)
    assert ended == [(16, -errno.EINTR, 8)]
    free()
    guest.session.waiting.look()
    assert ended[1:] == [(16, 0, 7)]


def test_what_waited_at_a_kill_is_asked_again_and_waits_again(guest, share):
    _, handle = guest.create(b"f")
    free = host_lock(share / "f")
    fuse_wait(guest, handle, 1, 0, 0, WRITE, 0, 0)
    guest.successor()
    made, _ = fuse_wait(guest, handle, 1, 0, 0, WRITE, 0, 0)
    assert made.parked
    free()
    guest.session.waiting.look()
    assert made.written == 16 and not host_lock(share / "f")


def test_a_new_session_has_no_locks(guest, share):
    node, handle = guest.create(b"f")
    guest.call(Opcode.SETLK, node, handle, 1, 0, 9, WRITE)
    guest.call(Opcode.INIT, 0, 7, 41, 0, 0)
    host_lock(share / "f")()


def test_ninep_locks_wait_and_are_flushed(client, share):
    client.create(1, b"f", b"content")
    assert client.call(Type.LOCK, 1, WRITE, 0, 0, 4, 42, b"here") == b"\0"
    assert not host_lock(share / "f", start=3, length=1)
    host_lock(share / "f", start=4, length=1)()
    assert client.call(Type.LOCK, 1, READ, 0, 0, 0, 43, b"here") == b"\1"
    answer = client.call(Type.GETLOCK, 1, WRITE, 0, 0, 43, b"here")
    assert struct.unpack_from("<BQQI", answer) == (WRITE, 0, 4, 42)
    ended = []
    for tag, process in ((20, 43), (21, 44)):
        made, answer = request(ninep_message(Type.LOCK, tag, 1, WRITE, 1, 0, 0, process, b"here"), 64)
        client.session.handle(made)
        made.finish = lambda made=made, answer=answer: ended.append(bytes(answer[: made.written]))
    client.call(Type.FLUSH, 21)
    assert ended == [struct.pack("<IBHI", 11, 7, 21, errno.EINTR)]
    client.call(Type.LOCK, 1, UNLOCK, 0, 0, 0, 42, b"here")
    assert ended[1:] == [struct.pack("<IBHB", 8, 53, 20, 0)]
    client.successor()
    assert not host_lock(share / "f")
    client.call(Type.CLUNK, 1)
    host_lock(share / "f")()


def test_beyond_the_limit_there_are_no_locks(share, monkeypatch):
    (share / "f").touch()
    tree, supervisor = HostTree(str(share)), Supervisor()
    monkeypatch.setattr(locks, "LIMIT", 3)
    mine = Locks(tree, supervisor.shelf(locks))
    file = tree.open(b"f", os.O_RDWR)
    for owner in range(3):
        assert mine.set(file, owner, Lock(fcntl.F_WRLCK, owner, owner))
    with refused(errno.ENOLCK):
        mine.set(file, 3, Lock(fcntl.F_WRLCK, 3, 3))
    assert mine.set(file, 2, Lock(fcntl.F_UNLCK, 0, END)) and mine.set(file, 3, Lock(fcntl.F_WRLCK, 3, 3))
    mine.close()
    supervisor.close()


SPANS = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)
KINDS = st.sampled_from([fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK])
STEPS = st.lists(st.tuples(st.integers(1, 3), KINDS, SPANS, st.booleans()), max_size=30)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_sequence_of_locks_is_what_a_table_of_bytes_says(tmp_path_factory, steps):
    """Three owners on one file, the process killed now and then, against a model of who has each byte."""
    directory = tmp_path_factory.mktemp("locks")
    (directory / "f").touch()
    tree, supervisor = HostTree(str(directory)), Supervisor()
    file, mine = tree.open(b"f", os.O_RDWR), Locks(tree, supervisor.shelf(locks))
    held = [{} for _ in range(13)]  # of each byte: owner → kind
    for owner, kind, (start, last), killed in steps:
        span = held[start : last + 1]
        clash = any(
            other != owner and kind != fcntl.F_UNLCK and fcntl.F_WRLCK in (kind, has)
            for byte in span
            for other, has in byte.items()
        )
        assert mine.set(file, owner, Lock(kind, start, last)) != clash
        for byte in span if not clash else []:
            byte.pop(owner, None)
            if kind != fcntl.F_UNLCK:
                byte[owner] = kind
        if killed:
            mine.close()
            mine = Locks(tree, supervisor.shelf(locks))
    mine.close()
    supervisor.close()
    file.close()
    tree.close()
