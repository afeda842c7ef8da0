"""What changes names and handles, by machine code and by Python: the same answers, the same tree, the same journal."""

import errno
import os
import random
import re
import stat
import struct
import zlib

import pytest
from fuse_client import ROOT, Client, message
from fuse_fast_client import FastClient, kept, plain, state, tree
from laid_chain import each_its_own

from devproc.fs.fast.log import checksum
from devproc.fs.fuse.fast import serve
from devproc.fs.fuse.messages import IN_HEADER, REQUESTS, Opcode
from native.memory import Area

SERVED = [  # what machine code answers
    *(Opcode.LOOKUP, Opcode.FORGET, Opcode.GETATTR, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.OPEN),
    *(Opcode.READ, Opcode.WRITE, Opcode.RELEASE, Opcode.FLUSH, Opcode.OPENDIR, Opcode.READDIR, Opcode.CREATE),
]
NAMES = [b"a", b"b", b"dir", b"long name, with blanks \xff"]


@pytest.fixture
def fast(share):
    made = FastClient(share)
    yield made
    made.close()


@pytest.fixture
def two(tmp_path):
    """A client by machine code and one in Python, each on a directory of its own."""
    with each_its_own(tmp_path, FastClient, Client) as made:
        yield made


def same(two, opcode, nodeid, *fields, room=8192, uid=0, **rest):
    data = bytearray(message(opcode, nodeid, *fields, **rest))
    struct.pack_into("<II", data, 24, uid, uid)
    answers = [client.raw(bytes(data), room) for client in two]
    assert plain(answers[0], opcode) == plain(answers[1], opcode), (opcode, nodeid, fields, rest)
    return answers[0]


def test_a_file_is_made_written_closed_removed_and_forgotten_without_python(fast, share):
    left = fast.left
    for _ in range(3):
        node, handle = fast.create(b"f", b"hello", 0o100640)
        assert (share / "f").read_bytes() == b"hello" and stat.S_IMODE((share / "f").stat().st_mode) == 0o640
        assert fast.call(Opcode.FLUSH, node, handle) == b""
        fast.call(Opcode.RELEASE, node, handle)
        fast.call(Opcode.UNLINK, ROOT, names=[b"f"])
        assert fast.raw(message(Opcode.FORGET, node, 1), 0) == b""
    assert fast.left == left and not list(share.iterdir())
    assert state(fast)[:3] == ({}, {}, {}) and kept(fast) == {}


def test_a_directory_is_made_listed_and_removed_without_python(fast, share):
    left = fast.left
    fast.call(Opcode.MKDIR, ROOT, 0o750, names=[b"d"])
    directory = fast.lookup(b"d")
    handles = [fast.create(f"{number:03}".encode(), parent=directory)[1] for number in range(50)]
    listed = fast.open(directory, opcode=Opcode.OPENDIR)
    answer = fast.call(Opcode.READDIR, directory, listed, 0, 8192)
    names = [answer[at + 24 : at + 27] for at in range(64, len(answer), 32)]
    assert names == [f"{number:03}".encode() for number in range(50)]
    fast.call(Opcode.RELEASEDIR, directory, listed)
    for number, handle in enumerate(handles):
        fast.call(Opcode.RELEASE, 0, handle)
        fast.call(Opcode.UNLINK, directory, names=[f"{number:03}".encode()])
    assert fast.left == left
    fast.call(Opcode.RMDIR, ROOT, names=[b"d"])
    assert fast.left == left and not list(share.iterdir())


def test_what_is_there_already_and_what_is_not(two):
    for _ in range(2):
        same(two, Opcode.CREATE, ROOT, os.O_RDWR, 0o100644, names=[b"f"])
        same(two, Opcode.MKDIR, ROOT, 0o755, names=[b"f"])
        same(two, Opcode.CREATE, ROOT, os.O_RDWR | os.O_EXCL, 0o100644, names=[b"f"])
        same(two, Opcode.RMDIR, ROOT, names=[b"f"])
        same(two, Opcode.UNLINK, ROOT, names=[b"absent"])
        same(two, Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
        same(two, Opcode.UNLINK, ROOT, names=[b"d"])
        same(two, Opcode.CREATE, 99, os.O_RDWR, 0o100644, names=[b"f"])
        for name in (b"", b".", b"..", b"a/b", b"x" * 199, b"x" * 255, b"x" * 256):
            for opcode in (Opcode.CREATE, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR):
                same(two, opcode, ROOT, names=[name])
    assert state(two[0]) == state(two[1]) and kept(two[0]) == kept(two[1])


@pytest.fixture
def inodes_stay(tmp_path):
    """Call it after each change: no file that ever was has its number given to another, which would then be the same
    node, on one of the two directories."""
    held = {}

    def hold():
        for place, directories, files in os.walk(tmp_path):
            for name in directories + files:
                path = os.path.join(place, name)
                number = os.lstat(path).st_ino
                if number not in held:
                    held[number] = os.open(path, os.O_PATH | os.O_NOFOLLOW)

    yield hold
    for fd in held.values():
        os.close(fd)


@pytest.mark.parametrize("seed", range(3))
def test_random_work_is_the_same_both_ways(two, tmp_path, seed, inodes_stay):
    choose = random.Random(seed)
    directories, nodes, handles, listings = [ROOT], [ROOT, 2, 3], [0, 1], [0]

    def number(answer, at=16):
        return struct.unpack_from("<Q", answer, at)[0] if len(answer) > 16 else 0

    for _ in range(500):
        inodes_stay()
        name, parent = [choose.choice(NAMES)], choose.choice(directories)
        match choose.choice("lccmurroOddxxffwgsnk"):
            case "l":
                nodes.append(number(same(two, Opcode.LOOKUP, parent, names=name)))
            case "c":
                flags = choose.choice([os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_EXCL, 0, 3, os.O_RDWR | os.O_TRUNC])
                mode = choose.choice([0o644, 0o600, 0o4755, 0o000])
                uid = choose.choice([0, 0, 1000])
                answer = same(two, Opcode.CREATE, parent, flags, 0o100000 | mode, names=name, uid=uid)
                nodes.append(number(answer))
                handles.append(number(answer, 144))
            case "m":
                mode = choose.choice([0o755, 0o2755, 0o1777])
                made = number(same(two, Opcode.MKDIR, parent, mode, names=name, uid=choose.choice([0, 7])))
                directories.append(made or ROOT)
                nodes.append(made)
            case "u":
                same(two, Opcode.UNLINK, parent, names=name)
            case "r":
                same(two, Opcode.RMDIR, parent, names=name)
            case "o":
                handles.append(
                    number(same(two, Opcode.OPEN, choose.choice(nodes), choose.choice([0, 1, 2, 0o1002, 3])))
                )
            case "O":
                listings.append(number(same(two, Opcode.OPENDIR, choose.choice(nodes))))
            case "d":
                handle, room = choose.choice(listings), choose.choice([8192, 100, 60])
                for offset in (0, choose.choice([1, 2, 5])):
                    same(two, Opcode.READDIR, ROOT, handle, offset, room)
            case "x":
                which = choose.choice([handles, listings])
                handle = which.pop(choose.randrange(len(which))) if len(which) > 1 else 0
                same(two, choose.choice([Opcode.RELEASE, Opcode.RELEASEDIR]), 0, handle)
            case "f":
                same(two, Opcode.FORGET, choose.choice(nodes[1:]), choose.choice([1, 1, 2]), room=0)
            case "w":
                same(two, Opcode.WRITE, 0, choose.choice(handles), 0, 3, data=b"abc")
            case "g":
                same(two, Opcode.GETATTR, choose.choice(nodes))
            case "s":
                same(two, Opcode.FLUSH, 0, choose.choice(handles))
            case "n":
                same(two, Opcode.RENAME, parent, choose.choice(directories), names=[*name, choose.choice(NAMES)])
            case "k":
                same(two, Opcode.LINK, parent, choose.choice(nodes), names=name)
    assert state(two[0]) == state(two[1]) and kept(two[0]) == kept(two[1])
    assert tree(tmp_path / "fast") == tree(tmp_path / "slow")
    assert two[0].served > 50


def test_a_successor_goes_on_with_what_machine_code_made(fast, share):
    node, handle = fast.create(b"f", b"kept")
    fast.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
    directory = fast.lookup(b"d")
    fast.create(b"g", parent=directory)
    listing = fast.open(directory, opcode=Opcode.OPENDIR)
    before = state(fast)[0]
    fast.successor()
    assert state(fast)[0] == before
    assert fast.read(handle) == b"kept" and fast.stat(node)["size"] == 4
    assert b"g" in fast.call(Opcode.READDIR, directory, listing, 0, 4096)
    fast.call(Opcode.UNLINK, ROOT, names=[b"f"])  # open: its descriptor goes to the supervisor
    fast.successor()
    assert fast.read(handle) == b"kept" and not (share / "f").exists()


def test_two_listings_at_once_keep_what_they_began_with(fast, share):
    for number in range(60):
        (share / f"{number:03}").touch()
    first, second = (fast.open(ROOT, opcode=Opcode.OPENDIR) for _ in range(2))
    begun = [fast.call(Opcode.READDIR, ROOT, handle, 0, 1000) for handle in (first, second)]
    assert begun[0] == begun[1]
    (share / "000a").touch()
    count = struct.unpack_from("<Q", begun[0], len(begun[0]) - 24)[0]
    for handle in (first, second, first):
        rest = fast.call(Opcode.READDIR, ROOT, handle, count, 8000)
        assert b"000a" not in rest and rest.count(b"0") >= 60 - count
        assert fast.call(Opcode.READDIR, ROOT, handle, 62, 8000) == b""
    assert b"000a" in fast.call(Opcode.READDIR, ROOT, second, 0, 8000)


def test_read_only_refuses_by_machine_code_too(share):
    (share / "f").write_text("x")
    guest = FastClient(share, read_only=True)
    node = guest.lookup(b"f")
    for call in (
        lambda: guest.open(node, os.O_RDWR),
        lambda: guest.open(node, os.O_RDONLY | 0o1000),
        lambda: guest.create(b"g"),
        lambda: guest.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"]),
        lambda: guest.call(Opcode.UNLINK, ROOT, names=[b"f"]),
        lambda: guest.call(Opcode.RMDIR, ROOT, names=[b"f"]),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            call()
    handle = guest.open(node)
    assert guest.read(handle) == b"x"
    guest.session.nodes.catch_up()
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        guest.session.file(guest.session.nodes.handle(handle)).write([], 0)
    guest.close()


def test_no_symbolic_link_on_the_way_is_followed(fast, share, tmp_path):
    (tmp_path / "outside").mkdir()
    fast.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
    directory = fast.lookup(b"d")
    (share / "d").rmdir()
    (share / "d").symlink_to(tmp_path / "outside")
    for call in (
        lambda: fast.create(b"f", parent=directory),
        lambda: fast.call(Opcode.MKDIR, directory, 0o755, names=[b"f"]),
        lambda: fast.open(directory, opcode=Opcode.OPENDIR),
        lambda: fast.lookup(b"f", directory),
    ):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            call()
    assert not list((tmp_path / "outside").iterdir())


def test_a_link_in_a_names_place_is_not_written_through(fast, share, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (share / "f").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        fast.create(b"f")
    fast.call(Opcode.UNLINK, ROOT, names=[b"f"])
    assert (tmp_path / "secret").read_text() == "secret" and not os.path.lexists(share / "f")


def test_what_is_a_device_to_the_guest_is_not_opened(fast):
    fast.call(Opcode.MKNOD, ROOT, stat.S_IFCHR | 0o600, os.makedev(1, 3), names=[b"null"])
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        fast.open(fast.lookup(b"null"))


def on_the_host(client, share, *_):
    os.unlink(share / "f")
    with pytest.raises(FileNotFoundError):
        client.lookup(b"f")


def kept_open(client, share, node, handle):
    client.call(Opcode.UNLINK, ROOT, names=[b"f"])
    assert client.stat(node)["size"] == 5 and client.read(handle) == b"first"


GONE = {  # how a file goes that the guest has not forgotten
    "unlink": lambda client, *_: client.call(Opcode.UNLINK, ROOT, names=[b"f"]),
    "rename": lambda client, *_: client.call(Opcode.RENAME, ROOT, ROOT, names=[b"other", b"f"]),
    "host": on_the_host,
    "open": kept_open,
}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("kind", [FastClient, Client])
def test_a_file_with_the_inode_of_one_that_went_is_another_node(kind, how, share):
    """ext4 gives a new file the number of one that went at once; the guest must not take the one for the other."""
    client = kind(share)
    try:
        client.call(Opcode.RELEASE, *client.create(b"other"))
        old, handle = client.create(b"f", b"first")
        inode = (share / "f").stat().st_ino
        if how != "open":
            client.call(Opcode.RELEASE, old, handle)
        GONE[how](client, share, old, handle)
        if how == "open":
            client.call(Opcode.RELEASE, old, handle)
        again, _ = client.create(b"g", b"new")
        assert again != old, f"the inode was {inode}, and is {(share / 'g').stat().st_ino}"
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                client.stat(old)
            assert client.stat(again)["size"] == 3 and client.lookup(b"g") == again
            client.successor()
        client.raw(message(Opcode.FORGET, old, 1), 0)
        assert client.stat(again)["size"] == 3 and client.lookup(b"g") == again
    finally:
        client.close()


@pytest.mark.parametrize("kind", [FastClient, Client])
def test_a_working_directory_that_was_removed_is_no_other(kind, share):
    client = kind(share)
    try:
        client.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
        old = client.lookup(b"d")
        client.call(Opcode.RMDIR, ROOT, names=[b"d"])
        client.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
        assert client.lookup(b"d") != old
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            client.create(b"f", parent=old)
        client.create(b"f", parent=client.lookup(b"d"))
        assert os.listdir(share / "d") == ["f"]
    finally:
        client.close()


@pytest.mark.parametrize("kind", [FastClient, Client])
def test_what_the_host_renames_under_an_open_handle_is_the_same_node(kind, share):
    client = kind(share)
    try:
        node, handle = client.create(b"f", b"first")
        os.rename(share / "f", share / "g")
        with pytest.raises(FileNotFoundError):
            client.lookup(b"f")
        assert client.lookup(b"g") == node
        client.call(Opcode.RELEASE, node, handle)
        assert client.stat(node)["size"] == 5
    finally:
        client.close()


def test_many_files_are_more_than_machine_code_was_lent(fast, share):
    left = fast.left
    for number in range(1200):
        node, handle = fast.create(f"f{number}".encode())
        fast.call(Opcode.RELEASE, node, handle)
    assert 0 < fast.left - left < 30
    assert len(state(fast)[0]) == 1200 and sorted(set(kept(fast))) == sorted(state(fast)[0])
    fast.successor()
    assert fast.lookup(b"f7") == 2 + 7


def test_a_full_journal_is_pythons_to_write_anew(fast, monkeypatch):
    known = fast.native.share
    known.log_end = known.log_at + 4000
    left = fast.left
    node, _ = fast.create(b"f")
    assert fast.left == left + 1 and fast.stat(node)["size"] == 0


def test_requests_cut_anywhere_are_refused_alike(two):
    for opcode in (*Opcode, 99):
        known = opcode in list(Opcode)
        data = message(opcode, ROOT, names=[b"n", b"m"]) if known else IN_HEADER.pack(40, 99, 7, *[0] * 6)
        for size in (39, 40, 41, 57, 58, 64, 79, 80):
            for room in (0, 15, 31, 159):
                answers = [client.raw(data[:size], room) for client in two]
                assert plain(answers[0], opcode) == plain(answers[1], opcode)


@pytest.mark.parametrize("size", range(20))
def test_the_checksum_is_zlibs(size):
    data = random.Random(size).randbytes(size)
    with Area.allocate(64) as area:
        area.view()[:size] = data
        for start in (0, 1, 0xFFFFFFFF):
            assert checksum(area.address, size, start) == zlib.crc32(data, start)


def hostile(choose):
    """A request, often well-formed; and how much room there is for its answer."""
    opcode = choose.choice(SERVED)
    layout, names = REQUESTS[opcode]
    sizes = [8 if kind == "Q" else 4 for kind in re.sub(r"(\d+)(\w)", lambda m: m[2] * int(m[1]), layout.format[1:])]
    fields = [choose.choice([0, 0, 1, 2, 3, 1 << 31, (1 << 64) - 1]) & (1 << 8 * size) - 1 for size in sizes]
    words = [choose.choice([b"a", b"b", b"a", b"", b"..", b"a/b", b"x" * 200, b"x" * 206]) for _ in range(names)]
    data = bytearray(
        message(opcode, choose.choice([1, 1, 2, 3]), *fields, names=words, data=bytes(choose.choice([0, 9])))
    )
    if choose.random() < 0.1:
        del data[choose.randrange(len(data)) :]
    if data and choose.random() < 0.1:
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(data), choose.choice([8192, 8192, 8192, 0, 15, 16, 31, 143, 159])


@pytest.mark.parametrize("seed", range(3))
def test_nothing_outside_its_memory_is_touched_whatever_is_asked(share, seed):
    """The checked run, which refuses any access outside known areas, overflows and lost bits."""
    choose = random.Random(seed)
    guest = FastClient(share, run=serve, pieces=choose.choice([1, 2, 5]))
    journal = guest.session.nodes._journal
    with Area.adopt(journal._address, journal._size):
        for _ in range(200):
            data, room = hostile(choose)
            answer = guest.raw(data, room)
            assert not answer or struct.unpack_from("<I", answer)[0] == len(answer) <= room
    assert guest.served > 0
    guest.close()
    assert sorted(os.listdir(share.parent)) == ["share"]
