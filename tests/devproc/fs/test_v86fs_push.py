"""v86fs: what the host changes is pushed, once; what the guest changes is not."""

import os
import shutil

import pytest
from v86fs_client import ROOT, Client

from devproc.fs.v86fs import inodes, watches
from devproc.fs.v86fs.messages import Type

INVALIDATE, INVALIDATE_DIR = Type.INVALIDATE, Type.INVALIDATE_DIR


@pytest.fixture
def guest(share):
    (share / "f").write_text("old")
    (share / "d").mkdir()
    (share / "d" / "g").write_text("g")
    made = Client(share)
    yield made
    made.close()


def heard(guest):
    """What the device says when it has looked at what has happened."""
    guest.device._push.ready()
    return guest.heard()


def test_data_attributes_and_names(share, guest):
    f = guest.lookup(b"f")
    assert heard(guest) == []
    (share / "f").write_text("new")
    assert heard(guest) == [(INVALIDATE, f, 0, 0)]
    (share / "f").chmod(0o600)
    assert heard(guest) == [(INVALIDATE, f, 0, 0)]
    (share / "h").write_text("h")
    assert heard(guest) == [(INVALIDATE_DIR, ROOT)]
    (share / "f").unlink()
    assert set(heard(guest)) == {(INVALIDATE, f, 0, 0), (INVALIDATE_DIR, ROOT)}
    with pytest.raises(FileNotFoundError):
        guest.call(Type.GETATTR, f)


def test_what_the_guest_does_not_know_is_not_told(share, guest):
    guest.lookup(b"f")
    (share / "d" / "g").write_text("new")  # in a directory it has not looked at
    (share / "other").write_text("x")
    heard(guest)
    (share / "other").write_text("new")  # a file it has not looked up
    assert heard(guest) == []


def test_the_guest_hears_nothing_of_its_own_changes(share, guest):
    guest.list()
    d = guest.lookup(b"d")
    guest.list(d)
    inode = guest.create(b"n", b"data", mode=0o4755)
    guest.write(inode, b"more", 4)
    guest.call(Type.SETATTR, inode, 9, 0o600, 2)
    guest.call(Type.SETATTR, d, 1, 0o700, 0)
    guest.call(Type.SYMLINK, d, b"l", b"t")
    guest.call(Type.RENAME, ROOT, b"n", d, b"m")
    guest.call(Type.UNLINK, d, b"m")
    guest.call(Type.MKDIR, d, b"e", 0o755)
    guest.call(Type.RENAME, ROOT, b"d", ROOT, b"d2")
    guest.call(Type.UNLINK, d, b"e")
    assert heard(guest) == []
    (share / "d2" / "g").write_text("new")  # and hears of the host's where it has moved it
    g = guest.lookup(b"g", d)
    (share / "d2" / "g").write_text("newer")
    assert (INVALIDATE, g, 0, 0) in heard(guest)


def test_a_change_of_the_host_s_before_the_guest_s_own_is_told(share, guest):
    inode = guest.lookup(b"f")
    (share / "f").write_text("host")
    guest.write(inode, b"guest")
    assert heard(guest) == [(INVALIDATE, inode, 0, 0)]


def test_many_changes_are_one_notice(share, guest):
    inode = guest.lookup(b"f")
    for number in range(100):
        (share / "f").write_text(str(number))
        (share / f"n{number}").touch()
    assert sorted(heard(guest)) == [(INVALIDATE, inode, 0, 0), (INVALIDATE_DIR, ROOT)]


def test_what_the_host_renames_keeps_its_inode(share, guest):
    d = guest.lookup(b"d")
    g = guest.lookup(b"g", d)
    handle = guest.call(Type.OPEN, g, 0)
    os.rename(share / "d", share / "e")
    heard(guest)
    assert guest.read(handle) == b"g" and guest.lookup(b"e") == d and guest.lookup(b"g", d) == g
    (share / "e" / "g").write_text("new")
    assert heard(guest) == [(INVALIDATE, g, 0, 0)]


def test_an_open_file_that_the_host_removes_can_be_read(share, guest):
    handle = guest.call(Type.OPEN, guest.lookup(b"f"), 0)
    (share / "f").unlink()
    heard(guest)
    assert guest.read(handle) == b"old"


def test_lost_events_make_everything_old(share, guest, monkeypatch):
    f, d = guest.lookup(b"f"), guest.lookup(b"d")
    real = watches.Watches._read
    monkeypatch.setattr(watches.Watches, "_read", lambda self: [(-1, watches.Change.OVERFLOW, 0, b"")])
    guest.device._push.ready()
    monkeypatch.setattr(watches.Watches, "_read", real)
    wanted = {(INVALIDATE, number, 0, 0) for number in (ROOT, f, d)} | {(INVALIDATE_DIR, ROOT), (INVALIDATE_DIR, d)}
    assert set(guest.heard()) == wanted


def test_after_a_crash_everything_is_old(share, guest):
    f, d = guest.lookup(b"f"), guest.lookup(b"d")
    guest.successor()
    wanted = {(INVALIDATE, number, 0, 0) for number in (ROOT, f, d)} | {(INVALIDATE_DIR, ROOT), (INVALIDATE_DIR, d)}
    assert set(guest.heard()) == wanted
    guest.call(Type.GETATTR, f)
    (share / "f").write_text("new")
    assert heard(guest) == [(INVALIDATE, f, 0, 0)]


def test_a_directory_too_many_is_not_watched_any_more(share, guest, monkeypatch):
    monkeypatch.setattr(watches, "LIMIT", 2)
    d = guest.lookup(b"d")
    g = guest.lookup(b"g", d)
    for name in (b"x", b"y"):
        guest.list(guest.call(Type.MKDIR, ROOT, name, 0o755)[0])
    assert set(guest.heard()) >= {(INVALIDATE_DIR, d), (INVALIDATE, g, 0, 0)}
    (share / "d" / "g").write_text("new")
    assert heard(guest) == []
    guest.call(Type.GETATTR, g)  # it looks again
    (share / "d" / "g").write_text("newer")
    assert (INVALIDATE, g, 0, 0) in heard(guest)


def test_an_inode_too_many_is_forgotten_and_found_again(share, guest, monkeypatch):
    monkeypatch.setattr(inodes, "LIMIT", 8)
    monkeypatch.setattr(inodes, "EVICTED", 2)
    f = guest.lookup(b"f")
    handle = guest.call(Type.OPEN, guest.create(b"held", b"held"), 0)
    for number in range(20):
        guest.create(b"n%d" % number)
    assert (INVALIDATE, f, 0, 0) in guest.heard()
    with pytest.raises(FileNotFoundError):
        guest.call(Type.GETATTR, f)
    assert guest.read(guest.lookup(b"f")) == b"old" and guest.read(handle) == b"held"


def test_a_push_is_refused_when_no_buffer_is_posted(share, guest):
    notices = guest.device.notices
    assert not notices.push(INVALIDATE, 5, 0, 0) and guest.heard() == []
    assert "refused" in guest.lines[-1]
    guest.posted = 1
    assert notices.push(INVALIDATE, 5, 1 << 40, 7)
    assert guest.heard() == [(INVALIDATE, 5, 1 << 40, 7)]


def test_a_buffer_that_is_too_small_comes_back_empty(share, guest):
    from ninep_client import request

    guest.device.notices.stale(ROOT)
    made, _ = request(b"", 30)
    made.queue = 2
    guest.device.handle(made)
    assert made.written == 0
    assert guest.heard() == [(INVALIDATE, ROOT, 0, 0)]


def test_the_guest_is_asked_to_mount_and_told_when_the_directory_goes(share):
    guest = Client(share, tag="work", at="/mnt/work")
    assert guest.heard() == [(Type.MOUNT_NOTIFY, b"work", b"/mnt/work")]
    guest.call(Type.MOUNT, b"work")
    guest.successor()
    assert Type.MOUNT_NOTIFY not in {kind for kind, *_ in guest.heard()}
    guest.call(Type.MOUNT, b"work")
    shutil.rmtree(share)
    assert (Type.UMOUNT_NOTIFY, b"/mnt/work") in heard(guest)
    guest.device.reset()
    guest.device.negotiated()  # another guest
    assert guest.heard() == [(Type.MOUNT_NOTIFY, b"work", b"/mnt/work")]
    guest.close()


def test_without_inotify_the_share_works(share, monkeypatch):
    monkeypatch.setattr(watches.Watches, "__init__", lambda *_: (_ for _ in ()).throw(OSError(24, "too many")))
    (share / "f").write_text("f")
    guest = Client(share)
    assert guest.read(guest.lookup(b"f")) == b"f"
    assert any("not pushed" in line for line in guest.lines)
    guest.close()


def test_a_host_that_never_stops_does_not_hold_the_guest_up(share, guest):
    """Of many changes at once the guest is told that it is to look again; and what it looks at is watched again."""
    d = guest.lookup(b"d")
    guest.list(d)
    for number in range(watches.MANY // 16):
        (share / "d" / f"n{number}").touch()
    assert {(INVALIDATE, d, 0, 0), (INVALIDATE_DIR, d)} <= set(heard(guest))
    assert any("look at everything again" in line for line in guest.lines)
    guest.list(d)
    (share / "d" / "another").touch()
    assert (INVALIDATE_DIR, d) in heard(guest)
