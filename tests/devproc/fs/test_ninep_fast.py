"""The machine-code path of 9P against the readable one: the same answers, the same tree, the same journal."""

import errno
import os
import random
import re
import stat
import struct

import pytest
from kinds_of_files import make, many
from laid_chain import each_its_own
from ninep_client import Client, message
from ninep_fast_client import FastClient, fds, kept, plain, state

from devproc.fs.ninep.fast import serve
from devproc.fs.ninep.messages import REQUESTS, Type
from devproc.fs.ninep.tables import PLACES
from native.memory import Area

SERVED = [Type.WALK, Type.CLUNK, Type.GETATTR, Type.LOPEN, Type.READDIR, Type.READ, Type.WRITE]
NAMES = [b"a", b"b", b"dir", b"long name, with blanks \xff"]


@pytest.fixture
def fast(share):
    made = FastClient(share)
    yield made
    made.close()


@pytest.fixture
def both(share):
    """A client by machine code and one in Python, on one directory."""
    (share / "data").write_bytes(bytes(range(256)) * 40)
    made = [FastClient(share), Client(share)]
    yield made
    for client in made:
        client.close()


@pytest.fixture
def two(tmp_path):
    """The same, each on a directory of its own."""
    with each_its_own(tmp_path, FastClient, Client) as made:
        yield made


def same(clients, kind, *fields, room=8192, data=b""):
    """What both answer, which must be one."""
    raw = message(kind, 7, *fields, data=data)
    answers = [client.raw(raw, room) for client in clients]
    assert answers[0] == answers[1], (kind, fields)
    return answers[0]


def alike(clients, kind, *fields, room=8192, data=b""):
    """The same but for inodes and times."""
    raw = message(kind, 7, *fields, data=data)
    answers = [plain(client.raw(raw, room), kind) for client in clients]
    assert answers[0] == answers[1], (kind, fields)
    return answers[0]


def error(answer):
    return struct.unpack_from("<I", answer, 7)[0] if answer[4] == 7 else 0


def test_what_a_guest_asks_most_is_asked_of_machine_code_alone(fast, share):
    (share / "d").mkdir()
    (share / "d" / "f").write_bytes(b"hello")
    left = fast.left
    for _ in range(3):
        fast.walk(1)
        fast.walk(1, b"d", fid=1)
        fast.call(Type.LOPEN, 1, os.O_RDONLY | 0o200000)
        assert list(fast.list(1)) == [b".", b"..", b"f"]
        fast.walk(2, b"d", b"f")
        assert fast.stat(2)["size"] == 5
        fast.call(Type.LOPEN, 2, os.O_RDWR)
        assert fast.read(2) == b"hello" and fast.stat(2)["size"] == 5
        fast.call(Type.WRITE, 2, 0, 5, data=b"hello")
        with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
            fast.walk(3, b"absent")
        with pytest.raises(OSError, match="walked only a part"):
            fast.walk(3, b"d", b"absent")
        for fid in (1, 2):
            fast.call(Type.CLUNK, fid)
    assert fast.left == left
    assert list(state(fast)) == [0] and [key for key in kept(fast) if key >= 0] == [0]


def test_names_and_attributes_of_all_kinds(both, share):
    names = make(share)
    for name in map(os.fsencode, names):
        same(both, Type.WALK, 0, 1, [name])
        same(both, Type.GETATTR, 1, 0x7FF)
        for flags in (0, 0o200000, 2):
            same(both, Type.LOPEN, 1, flags)
            same(both, Type.GETATTR, 1, 0x3FFF)
            same(both, Type.READ, 1, 0, 100)
            same(both, Type.CLUNK, 1)
            same(both, Type.WALK, 0, 1, [name])
        same(both, Type.CLUNK, 1)
    assert both[0].served > 5 * len(names)


def test_walks_of_all_forms(both, share):
    make(share)
    (share / "dir" / "deep").mkdir()
    (share / "dir" / ("n" * 255)).touch()
    words = [b"dir", b"below", b"deep", b"absent", b"link", b"pipe", b"data", b".", b"..", b"", b"a/b", b"n\0"]
    words += [b"n" * 255, b"n" * 256, b"x" * 200, b"x" * 208, b"x" * 209]
    choose = random.Random(1)
    for _ in range(400):
        names = [choose.choice(words) for _ in range(choose.choice([0, 1, 1, 2, 2, 3]))]
        if choose.random() < 0.5:
            names.insert(0, b"dir")
        fid, newfid = choose.choice([0, 0, 1, 2, 9]), choose.choice([1, 2, 1 + PLACES, 1])
        same(both, Type.WALK, fid, newfid, names, room=choose.choice([8192, 8192, 22, 11, 10, 0]))
        same(both, Type.GETATTR, newfid, 0)
        if choose.random() < 0.5:
            same(both, Type.CLUNK, newfid)
    same(both, Type.WALK, 0, 30, [b"dir"] * 16)
    same(both, Type.WALK, 0, 30, [b"dir"] * 17)
    same(both, Type.WALK, 0, 0xFFFFFFFF, [b"dir"])
    same(both, Type.CLUNK, 0xFFFFFFFF)
    assert state(both[0]) == state(both[1]) and kept(both[0]) == kept(both[1])


def test_reads_and_writes_at_all_places(two, share):
    choose = random.Random(1)
    for client in two:
        client.create(1, b"data", bytes(range(256)) * 30)
        client.walk(2, b"data")
        client.call(Type.LOPEN, 2, os.O_RDWR)
        client.walk(3, b"data")
        client.call(Type.LOPEN, 3, os.O_RDONLY)
        client.walk(4, b"data")
        client.call(Type.LOPEN, 4, os.O_WRONLY)
    for _ in range(150):
        offset, size = choose.choice([0, 1, 4095, 7000, 7680, 99_999]), choose.choice([0, 1, 7, 4096, 8000, 9000])
        fid, room = choose.choice([2, 2, 3, 4]), choose.choice([8192, 4096, 11, 12])
        alike(two, Type.READ, fid, offset, size, room=room)
        alike(two, Type.WRITE, fid, offset % 20_000, size, data=choose.randbytes(size), room=room)
    for offset, size in ((1 << 63, 10), (1 << 63, 0), ((1 << 63) - 1, 10), ((1 << 63) - 1, 1), ((1 << 64) - 1, 1)):
        for kind in (Type.READ, Type.WRITE):
            alike(two, kind, 2, offset, size, data=b"x" * size)
    alike(two, Type.READ, 2, 0, 1 << 31)
    alike(two, Type.WRITE, 2, 0, 1 << 31, data=b"x")
    alike(two, Type.WRITE, 2, 0, 5, data=b"four")
    assert error(alike(two, Type.READ, 99, 0, 10)) == errno.EBADF
    assert two[0].served > 100


@pytest.mark.parametrize("count", [0, 1, 2, 5, 900])
def test_directories_are_listed_the_same_and_in_order(both, share, count):
    kinds = many(share / "d", count)
    left = both[0].left
    for size in (4096, 8000, 400):
        same(both, Type.WALK, 0, 1, [b"d"])
        same(both, Type.LOPEN, 1, 0)
        said, offset = [], 0
        while answer := same(both, Type.READDIR, 1, offset, size)[11:]:
            at = 0
            while at < len(answer):
                offset, kind, length = struct.unpack_from("<QBH", answer, at + 13)
                said.append((answer[at + 24 : at + 24 + length], kind))
                at += 24 + length
        assert said == [(b".", 4), (b"..", 4), *sorted(kinds.items())]
        assert both[0].left == left
        for offset in (1 << 63, (1 << 64) - 1, len(kinds) + 2, len(kinds) + 3):
            assert same(both, Type.READDIR, 1, offset, size)[11:] == b""
        same(both, Type.CLUNK, 1)
    same(both, Type.WALK, 0, 1, [b"d"])
    same(both, Type.READDIR, 1, 0, 100)
    same(both, Type.LOPEN, 1, 0)
    for size, room in ((0, 8192), (24, 8192), (25, 8192), (8192, 11), (8192, 40)):
        for offset in (0, 1):
            same(both, Type.READDIR, 1, offset, size, room=room)


def test_two_listings_at_once_keep_what_they_began_with(fast, share):
    for number in range(60):
        (share / f"{number:03}").touch()
    for fid in (1, 2):
        fast.walk(fid)
        fast.call(Type.LOPEN, fid, 0)
    begun = [fast.call(Type.READDIR, fid, 0, 1000) for fid in (1, 2)]
    assert begun[0] == begun[1]
    (share / "000a").touch()
    count = begun[0].count(b"\x03\x000") + 2  # names of three letters, and the dots
    for fid in (1, 2, 1):
        rest = fast.call(Type.READDIR, fid, count, 8000)
        assert b"000a" not in rest
        assert fast.call(Type.READDIR, fid, 62, 8000)[4:] == b""
    assert b"000a" in fast.call(Type.READDIR, 2, 0, 8000)
    assert fast.call(Type.READDIR, 1, 62, 8000)[4:] == b""


def test_a_directory_too_long_for_machine_code(both, share):
    (share / "d").mkdir()
    for number in range(6000):
        (share / "d" / f"{number:0180}").touch()
    same(both, Type.WALK, 0, 1, [b"d"])
    same(both, Type.LOPEN, 1, 0)
    assert len(both[0].list(1, 8000)) == len(both[1].list(1, 8000)) == 6002


def tree(directory):
    """All that is below a directory."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(place, name)
            seen = os.lstat(path)
            found[os.path.relpath(path, directory)] = (seen.st_mode, seen.st_size if name in files else 0)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_random_work_is_the_same_both_ways(two, tmp_path, seed):
    choose = random.Random(seed)
    for place in ("fast", "slow"):
        (tmp_path / place / "dir" / "dir").mkdir(parents=True)
        (tmp_path / place / "dir" / "a").write_bytes(b"contents")
    opened = fds()
    fids = [0, 1, 2, 3, 4, 5, 6, 1 + PLACES]
    for step in range(700):
        fid, other, name = choose.choice(fids), choose.choice(fids[1:]), choose.choice(NAMES)
        match choose.choice("wwwwwccccoooorrdddggsWWCMuunNxXRSl" + "K" * (step % 200 == 0)):
            case "w":
                if choose.random() < 0.5:
                    alike(two, Type.CLUNK, other)
                fid = choose.choice([0, 0, 0, fid])
                alike(two, Type.WALK, fid, other, [choose.choice(NAMES) for _ in range(choose.choice([0, 1, 1, 2]))])
            case "c":
                alike(two, Type.CLUNK, other)
            case "o":
                alike(two, Type.LOPEN, other, choose.choice([0, 1, 2, 0o200000, 3, 0o1002, 0o202]))
            case "r":
                alike(two, Type.READ, fid, choose.choice([0, 2]), 100)
            case "d":
                for offset in (0, choose.choice([1, 2, 5])):
                    alike(two, Type.READDIR, fid, offset, choose.choice([8192, 100, 60]))
            case "g":
                alike(two, Type.GETATTR, fid, 0x7FF)
            case "s":
                alike(two, Type.SETATTR, fid, 1, choose.choice([0o600, 0o4755]), 0, 0, 0, 0, 0, 0, 0)
            case "W":
                alike(two, Type.WRITE, fid, choose.choice([0, 3]), 3, data=b"abc")
            case "C":
                alike(two, Type.LCREATE, other, name, os.O_RDWR, 0o644, 0)
            case "M":
                alike(two, Type.MKDIR, choose.choice([0, fid]), name, 0o755, 0)
            case "u":
                alike(two, Type.UNLINKAT, fid, name, choose.choice([0, 0, 0x200]))
            case "n":
                alike(two, Type.RENAMEAT, fid, name, choose.choice(fids), choose.choice(NAMES))
            case "N":
                alike(two, Type.RENAME, other, fid, name)
            case "x":
                alike(two, Type.XATTRCREATE, other, b"user.x", choose.choice([0, 3]), 0)
            case "X":
                alike(two, Type.XATTRWALK, fid, other, choose.choice([b"user.x", b""]))
            case "R":
                alike(two, Type.REMOVE, other)
            case "S":
                alike(two, Type.SYMLINK, fid, name, b"target", 0)
            case "l":
                alike(two, Type.LOCK, fid, choose.choice([0, 1, 2]), 0, 0, 0, 1, b"me")
            case "K":
                for client in two:
                    client.successor()
    assert state(two[0]) == state(two[1]) and kept(two[0]) == kept(two[1])
    assert tree(tmp_path / "fast") == tree(tmp_path / "slow")
    assert two[0].served > 100
    for client in two:
        for fid in list(state(client)) if client is two[0] else list(client.session.fids._fids):
            client.raw(message(Type.CLUNK, 7, fid))
    assert fds() <= opened + 1, "files stayed open"


def test_what_the_host_changes_is_seen(both, share):
    same(both, Type.WALK, 0, 1, [b"data"])
    (share / "data").rename(share / "moved")
    assert error(same(both, Type.GETATTR, 1, 0)) == errno.ENOENT
    (share / "data").mkdir()
    same(both, Type.GETATTR, 1, 0)
    same(both, Type.LOPEN, 1, 0)
    (share / "data" / "x").touch()
    assert b"x" in same(both, Type.READDIR, 1, 0, 1000)
    (share / "data").rename(share / "elsewhere")
    assert error(same(both, Type.READDIR, 1, 0, 1000)) == errno.ENOENT
    same(both, Type.GETATTR, 1, 0)


def test_what_python_renames_and_removes_machine_code_knows(fast, share):
    (share / "d").mkdir()
    (share / "d" / "f").write_bytes(b"hello")
    fast.walk(1, b"d", b"f")
    fast.walk(2, b"d", b"f")
    fast.call(Type.LOPEN, 2, os.O_RDWR)
    fast.call(Type.RENAMEAT, 0, b"d", 0, b"e")
    served = fast.served
    assert fast.stat(1)["size"] == 5
    fast.walk(3, fid=1)
    assert fast.served == served + 2
    fast.walk(4, b"e")
    fast.call(Type.UNLINKAT, 4, b"f", 0)
    for fid in (1, 2, 3):
        assert fast.stat(fid)["size"] == 5  # kept: it is open
    assert fast.read(2) == b"hello"
    fast.successor()
    assert fast.read(2) == b"hello"
    fast.call(Type.CLUNK, 2)
    for fid in (1, 3):
        fast.call(Type.CLUNK, fid)
    assert not fast.supervisor.kept and list(state(fast)) == [0, 4]


def test_a_successor_goes_on_with_what_machine_code_made(fast, share):
    (share / "f").write_bytes(b"kept")
    fast.walk(1, b"f")
    fast.call(Type.LOPEN, 1, os.O_RDWR)
    fast.walk(2)
    fast.call(Type.LOPEN, 2, 0)
    before = kept(fast)
    assert b"f" in fast.call(Type.READDIR, 2, 0, 1000)
    fast.successor()
    assert kept(fast) == before
    assert fast.read(1) == b"kept" and b"f" in fast.call(Type.READDIR, 2, 1, 1000)
    left = fast.left
    assert fast.read(1) == b"kept" and fast.left == left  # opened again, it is machine code's
    fast.call(Type.UNLINKAT, 0, b"f", 0)
    fast.successor()
    assert fast.read(1) == b"kept" and not (share / "f").exists()


def test_a_request_that_comes_again_has_the_answer_it_had(fast, share):
    (share / "f").write_bytes(b"x")
    found, absent = (Type.WALK, 0, 1, [b"f"]), (Type.WALK, 0, 1, [b"g"])
    for kind, *asked in (found, (Type.LOPEN, 1, 2), (Type.CLUNK, 1), absent):
        raw = message(kind, 7, *asked)
        answer = fast.raw(raw, head=3)
        assert fast.raw(raw, head=3, again=True) == answer
        fast.successor()
        assert fast.raw(raw, head=3, again=True) == answer


def test_an_equal_request_in_the_same_place_is_another(fast, share):
    """A client takes tags and fids, and its driver places in the ring, again and again for the same."""
    (share / "f").write_bytes(b"x")
    clone, walk, lopen = (
        message(*asked) for asked in ((Type.WALK, 7, 0, 1, []), (Type.WALK, 7, 1, 1, [b"f"]), (Type.LOPEN, 7, 1, 2))
    )
    for number, data in enumerate((clone, walk, lopen, message(Type.CLUNK, 7, 1))):
        assert fast.raw(data, head=number, number=number)[4] == data[4] + 1
    for number, data in enumerate((clone, walk, lopen)):  # each was popped when the process died, and no more
        assert fast.raw(data, head=number, number=number + 4, again=True)[4] == data[4] + 1
    assert fast.read(1) == b"x"


def test_many_records_are_read_by_python_now_and_then(fast, share):
    left = fast.left
    for number in range(1, 2001):
        fast.walk(number)
    assert 0 < fast.left - left < 10
    assert len(state(fast)) == 2001 and len(fast.session.journal.table) == 2003
    fast.successor()
    for number in range(1, 2001):
        fast.call(Type.CLUNK, number)
    assert list(state(fast)) == [0]


def test_a_full_journal_is_pythons_to_write_anew(fast):
    fast.native.share.log_end = fast.native.share.log_at + 4000
    left = fast.left
    fast.walk(1)
    assert fast.left == left + 1
    fast.walk(2)
    assert fast.left == left + 1 and sorted(state(fast)) == [0, 1, 2]


def test_fids_that_share_a_place(both):
    for number in (1, 1 + PLACES, 1 + 2 * PLACES):
        same(both, Type.WALK, 0, number, [])
        same(both, Type.WALK, 0, number, [])
    for number in (1 + PLACES, 1, 1 + 2 * PLACES):
        same(both, Type.WALK, number, number, [b"data"])
        same(both, Type.LOPEN, number, 0)
        same(both, Type.READ, number, 0, 10)
        same(both, Type.CLUNK, number)
        same(both, Type.GETATTR, number, 0)
    assert state(both[0]) == state(both[1])


def test_a_new_version_forgets_all_fids_and_sets_the_size(both):
    same(both, Type.WALK, 0, 1, [b"data"])
    same(both, Type.LOPEN, 1, 0)
    same(both, Type.VERSION, 4096, b"9P2000.L")
    assert error(same(both, Type.GETATTR, 0, 0)) == errno.EBADF
    same(both, Type.ATTACH, 0, 0xFFFFFFFF, b"", b"", 0)
    same(both, Type.WALK, 0, 1, [b"data"])
    same(both, Type.LOPEN, 1, 2)
    assert len(same(both, Type.READ, 1, 0, 10_000)) == 4096
    same(both, Type.WRITE, 1, 0, 5000, data=bytes(5000))


def test_read_only_refuses_by_machine_code_too(share):
    (share / "f").write_text("x")
    guest = FastClient(share, read_only=True)
    guest.walk(1, b"f")
    for flags in (os.O_RDWR, os.O_WRONLY, 0o1000):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            guest.call(Type.LOPEN, 1, flags)
    left = guest.left
    guest.call(Type.LOPEN, 1, os.O_RDONLY)
    assert guest.read(1) == b"x" and guest.left == left
    for size in (0, 1):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            guest.call(Type.WRITE, 1, 0, size, data=b"y" * size)
    assert (share / "f").read_text() == "x"
    guest.close()


def test_no_symbolic_link_is_followed(fast, share, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (share / "d").mkdir()
    (share / "d" / "secret").touch()
    fast.walk(1, b"d")
    fast.walk(2, b"d", b"secret")
    fast.walk(3, b"d")
    fast.call(Type.LOPEN, 3, 0)
    (share / "d" / "secret").unlink()
    (share / "d").rmdir()
    (share / "d").symlink_to(tmp_path / "outside")
    for call in (
        lambda: fast.walk(4, b"secret", fid=1),
        lambda: fast.stat(2),
        lambda: fast.call(Type.LOPEN, 2, 0),
        lambda: fast.call(Type.LOPEN, 1, 0),
        lambda: fast.call(Type.READDIR, 3, 0, 1000),
    ):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            call()


def test_what_is_a_device_to_the_guest_is_not_opened(fast):
    fast.call(Type.MKNOD, 0, b"null", stat.S_IFCHR | 0o600, 1, 3, 0)
    fast.walk(1, b"null")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        fast.call(Type.LOPEN, 1, 0)


def test_requests_cut_anywhere_are_refused_alike(both, share):
    for kind in SERVED:
        data = bytearray(message(kind, 7, *([0, 5, [b"data", b"x"]] if kind == Type.WALK else [0] * 9)[: fields(kind)]))
        for size in range(len(data) + 1):
            for claimed in (size, len(data), size - 1, 7, 0, 1 << 31):
                struct.pack_into("<I", data, 0, max(claimed, 0))
                for room in (0, 10, 11, 22, 8192):
                    answers = [client.raw(bytes(data[:size]), room) for client in both]
                    assert answers[0] == answers[1], (kind, size, claimed, room)


def fields(kind):
    return len(REQUESTS[kind].split())


def hostile(choose):
    """A request, often well-formed; and how much room there is for its answer."""
    kind = choose.choice(SERVED)
    sizes = [int(size) for size in re.findall(r":([1248])", REQUESTS[kind])]
    numbers = [0, 0, 1, 1, 2, 2, 3, 100, 1 << 31, (1 << 63) - 1, (1 << 64) - 1]
    values = [choose.choice(numbers) & (1 << 8 * size) - 1 for size in sizes]
    if kind == Type.WALK:
        words = [b"a", b"b", b"a", b"", b"..", b"a/b", b"x" * 200, b"x" * 206]
        values.append([choose.choice(words) for _ in range(choose.choice([0, 1, 1, 2, 5]))])
    data = bytearray(message(kind, 7, *values, data=bytes(choose.choice([0, 9]))))
    if choose.random() < 0.1:
        del data[choose.randrange(len(data)) :]
    if data and choose.random() < 0.2:
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(data), choose.choice([8192, 8192, 8192, 0, 10, 11, 12, 22, 35, 159, 160])


def begin_again(guest):
    """Fids of the root, a directory, and an open file."""
    for fid in range(4):
        guest.raw(message(Type.CLUNK, 7, fid))
    guest.raw(message(Type.ATTACH, 7, 0, 0xFFFFFFFF, b"", b"", 0))
    guest.walk(1, b"a")
    guest.walk(2, b"b")
    guest.call(Type.LOPEN, 2, os.O_RDWR)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_outside_its_memory_is_touched_whatever_is_asked(share, seed):
    """The checked run, which refuses any access outside known areas, overflows and lost bits."""
    choose = random.Random(seed)
    (share / "a").mkdir()
    (share / "a" / "b").write_bytes(b"contents")
    (share / "b").write_bytes(b"contents")
    guest = FastClient(share, run=serve, pieces=choose.choice([1, 2, 5]))
    journal, served = guest.session.journal, 0
    with Area.adopt(journal._address, journal._size):
        for step in range(300):
            if step % 10 == 0:
                begin_again(guest)
            data, room = hostile(choose)
            before = guest.served
            answer = guest.raw(data, room)
            served += guest.served - before
            assert not answer or struct.unpack_from("<I", answer)[0] == len(answer) <= room
    assert served > 20
    guest.close()
    assert sorted(os.listdir(share.parent)) == ["share"]
