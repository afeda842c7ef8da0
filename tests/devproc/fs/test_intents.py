"""A request that comes again after a crash is carried out once, wherever its first run was cut."""

import os
import stat
import struct

import fuse_client
import pytest
from fuse_client import ROOT
from ninep_client import Client, request

from devproc.fs.fuse.messages import Opcode
from devproc.fs.host import HostTree
from devproc.fs.journal import Journal
from devproc.fs.ninep.messages import Type


class Killed(BaseException):
    """The process ends here."""


def die(monkeypatch, method, when):
    """The process is killed before or after a call of the tree."""
    real = getattr(HostTree, method)

    def killed(*arguments):
        if when == "after":
            real(*arguments)
        raise Killed

    monkeypatch.setattr(HostTree, method, killed)


def prepare(share):
    (share / "old").mkdir()
    (share / "old" / "f").write_text("x")
    (share / "d").mkdir()
    (share / "g").write_text("g")


# The call of the tree, 9P's request, FUSE's, and what is there in the end.
CALLS = {
    "mkdir": ((Type.MKDIR, 0, b"n", 0o755, 0), (Opcode.MKDIR, ROOT, 0o755), [b"n"], {"n"}),
    "mknod": ((Type.MKNOD, 0, b"n", stat.S_IFIFO, 0, 0, 0), (Opcode.MKNOD, ROOT, stat.S_IFIFO), [b"n"], {"n"}),
    "symlink": ((Type.SYMLINK, 0, b"n", b"t", 0), (Opcode.SYMLINK, ROOT), [b"n", b"t"], {"n"}),
    "unlink": ((Type.UNLINKAT, 0, b"g", 0), (Opcode.UNLINK, ROOT), [b"g"], {"!g"}),
    "rmdir": ((Type.UNLINKAT, 0, b"d", 0x200), (Opcode.RMDIR, ROOT), [b"d"], {"!d"}),
    "rename": ((Type.RENAMEAT, 0, b"old", 0, b"new"), (Opcode.RENAME, ROOT, ROOT), [b"old", b"new"], {"!old", "new"}),
    "create": (
        (Type.LCREATE, 9, b"n", os.O_RDWR | os.O_EXCL, 0o644, 0),
        (Opcode.CREATE, ROOT, os.O_RDWR | os.O_EXCL, 0o100644),
        [b"n"],
        {"n"},
    ),
}
METHODS = sorted(CALLS)


def check(share, method):
    there = set(os.listdir(share))
    assert all((name[1:] not in there) if name[0] == "!" else (name in there) for name in CALLS[method][3])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", METHODS)
def test_9p_request_cut_in_the_middle(client, share, monkeypatch, method, when):
    prepare(share)
    client.walk(9)
    client.walk(5, b"old", b"f")
    die(monkeypatch, method, when)
    with pytest.raises(Killed):
        client.call(*CALLS[method][0])
    monkeypatch.undo()
    client.successor()
    client.call(*CALLS[method][0], again=True)
    check(share, method)
    assert client.stat(5)["size"] == 1  # whatever was renamed above it


@pytest.mark.parametrize("method", METHODS)
def test_9p_request_cut_before_its_response_was_given(client, share, method):
    prepare(share)
    client.walk(9)
    client.walk(5, b"old", b"f")
    response = client.call(*CALLS[method][0])
    client.successor()
    assert client.call(*CALLS[method][0], again=True) == response
    check(share, method)
    assert client.stat(5)["size"] == 1


# 9P's requests that change the session; before them fid 5 is old/f, 6 is old, 7 is g (open), 9 the root.
SESSION_CALLS = {
    "attach": (Type.ATTACH, 20, 0xFFFFFFFF, b"", b"", 0),
    "clunk": (Type.CLUNK, 7),
    "create": (Type.LCREATE, 9, b"n", os.O_RDWR | os.O_EXCL, 0o644, 0),
    "link": (Type.LINK, 0, 5, b"n"),
    "open": (Type.LOPEN, 5, os.O_RDWR),
    "remove": (Type.REMOVE, 7),
    "remove a directory": (Type.REMOVE, 8),
    "rename": (Type.RENAME, 6, 0, b"new"),
    "rename over": (Type.RENAMEAT, 6, b"f", 0, b"g"),
    "unlink": (Type.UNLINKAT, 0, b"g", 0),
    "walk": (Type.WALK, 0, 20, [b"old", b"f"]),
    "walk on": (Type.WALK, 6, 6, [b"f"]),
}


def session_of(directory, supervised):
    """A client with some fids, and what all of them stand for."""
    directory.mkdir()
    prepare(directory)
    client = Client(directory)
    supervised.append(client)
    for fid, names in {5: [b"old", b"f"], 6: [b"old"], 7: [b"g"], 8: [b"d"], 9: []}.items():
        client.walk(fid, *names)
    client.call(Type.LOPEN, 7, os.O_RDWR)
    return client


def fids_of(client):
    """Size or error number of what each fid stands for."""
    found = {}
    for fid in (0, 5, 6, 7, 8, 9, 20):
        try:
            seen = client.stat(fid)
            found[fid] = (seen["qid_kind"], seen["mode"], seen["nlink"], seen["size"] if not seen["qid_kind"] else 0)
        except OSError as error:
            found[fid] = error.errno
    return found


@pytest.mark.parametrize("name", sorted(SESSION_CALLS))
def test_9p_request_cut_before_each_record_of_it(tmp_path, monkeypatch, name):
    clients = []
    try:
        whole = session_of(tmp_path / "whole", clients)
        whole.call(*SESSION_CALLS[name])
        for cut in range(20):
            client = session_of(tmp_path / str(cut), clients)
            left, real = [cut], Journal._append

            def append(journal, changes, left=left, real=real):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(journal, changes)

            monkeypatch.setattr(Journal, "_append", append)
            try:
                client.call(*SESSION_CALLS[name])
            except Killed:
                pass
            else:
                assert cut > 0, "nothing is kept of it"
                break
            finally:
                monkeypatch.undo()
            client.successor()
            client.call(*SESSION_CALLS[name], again=True)
            assert sorted(os.listdir(tmp_path / str(cut))) == sorted(os.listdir(tmp_path / "whole")), cut
            assert fids_of(client) == fids_of(whole), cut
        else:
            raise AssertionError("it has no end")
    finally:
        for client in clients:
            client.close()


@pytest.fixture
def guest(share):
    made = fuse_client.Client(share)
    yield made
    made.close()


def fuse_call(guest, method, again=False):
    fields, names = CALLS[method][1], CALLS[method][2]
    made, answer = request(fuse_client.message(*fields, names=names), 8192, again)
    guest.session.handle(made)
    answer = bytes(answer[: made.written])
    assert struct.unpack_from("<i", answer, 4)[0] == 0, struct.unpack_from("<i", answer, 4)
    return answer


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", METHODS)
def test_fuse_request_cut_in_the_middle(guest, share, monkeypatch, method, when):
    prepare(share)
    node = guest.lookup(b"f", guest.lookup(b"old"))
    die(monkeypatch, method, when)
    with pytest.raises(Killed):
        fuse_call(guest, method)
    monkeypatch.undo()
    guest.successor()
    fuse_call(guest, method, again=True)
    check(share, method)
    assert guest.stat(node)["size"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_fuse_request_cut_before_its_answer_was_given(guest, share, method):
    prepare(share)
    node = guest.lookup(b"f", guest.lookup(b"old"))
    answer = fuse_call(guest, method)
    guest.successor()
    assert fuse_call(guest, method, again=True) == answer
    check(share, method)
    assert guest.stat(node)["size"] == 1


def test_the_same_request_later_is_another_one(client, share):
    """Only what comes again is compared: a guest may say the same thing twice."""
    client.call(Type.MKDIR, 0, b"d", 0o755, 0)
    with pytest.raises(FileExistsError):
        client.call(Type.MKDIR, 0, b"d", 0o755, 0)
