"""The machine-code path of FUSE against the readable one: the same requests, the same bytes."""

import os
import random
import struct

import pytest
from fuse_client import ROOT, Client, message
from kinds_of_files import make, many

from bench.fs_ring import RESPONSES, Ours, Request
from devproc.fs.fuse.messages import IN_HEADER, Opcode


class Device(Ours):
    """The device process, one request at a time."""

    def ask(self, raw, room=8192):
        _, opcode, unique, nodeid, *_ = IN_HEADER.unpack(raw[:40])
        assert unique == 9
        self.lay_out([Request(opcode, nodeid, raw[40:], room)])
        script = self.script
        script.count, script.left, script.at = 1, 1, 0
        self.run()
        answer = bytes(self.ram.view[RESPONSES : RESPONSES + room])
        return answer[: struct.unpack_from("<I", answer)[0]] if room else b""


@pytest.fixture
def both(share):
    (share / "data").write_bytes(bytes(range(256)) * 40)
    client, device = Client(share), Device(str(share))
    client.call(Opcode.INIT, 0, 7, 31, 1 << 20, 0x3BFFFFFF)
    assert client.lookup(b"data") == device.node and client.open(device.node, os.O_RDWR) == device.handle
    yield client, device
    device.close()
    client.close()


def same(both, opcode, nodeid, *fields, **rest):
    """What both answer, which must be one."""
    client, device = both
    raw = message(opcode, nodeid, *fields, unique=9, **rest)
    answer = device.ask(raw)
    assert answer == client.raw(raw), (opcode, nodeid, fields, rest)
    return answer


def error(answer):
    return -struct.unpack_from("<i", answer, 4)[0]


def test_names_and_attributes_of_all_kinds(both, share):
    names = make(share)
    for _ in range(3):  # the first goes through Python
        for name in names:
            answer = same(both, Opcode.LOOKUP, ROOT, names=[os.fsencode(name)])
            same(both, Opcode.GETATTR, struct.unpack_from("<Q", answer, 16)[0])
    below = struct.unpack_from("<Q", same(both, Opcode.LOOKUP, ROOT, names=[b"dir"]), 16)[0]
    for name in (b"below", b"below", b"absent", b".", b"..", b"", b"a/b", b"n" * 255, b"n" * 256):
        same(both, Opcode.LOOKUP, below, names=[name])
    same(both, Opcode.LOOKUP, 999, names=[b"below"])
    same(both, Opcode.GETATTR, 999)
    same(both, Opcode.GETATTR, ROOT)
    same(both, Opcode.GETATTR, both[1].node, 1, 0, both[1].handle)
    same(both, Opcode.GETATTR, both[1].node, 1, 0, 999)


def test_reads_and_writes_at_all_places(both, share):
    handle, choose = both[1].handle, random.Random(1)
    for _ in range(100):
        offset, size = choose.choice([0, 1, 4095, 10_000, 10_240, 99_999]), choose.choice([0, 1, 7, 4096, 8000, 9000])
        same(both, Opcode.READ, 0, handle, offset, size)
        data = choose.randbytes(size)
        same(both, Opcode.WRITE, 0, handle, offset % 20_000, size, data=data)
    for offset, size in ((1 << 63, 10), ((1 << 63) - 1, 10), ((1 << 64) - 1, 1), (0, 1 << 31)):
        same(both, Opcode.READ, 0, handle, offset, size)
        same(both, Opcode.WRITE, 0, handle, offset, size, data=b"x" * 10)
    assert error(same(both, Opcode.READ, 0, 999, 0, 10)) == 9


def test_what_has_changed_is_seen(both, share):
    client, device = both
    for name in ("data", "other"):
        (share / name).write_bytes(b"new")
        for _ in range(2):
            same(both, Opcode.LOOKUP, ROOT, names=[name.encode()])
    (share / "data").rename(share / "moved")
    for name in (b"data", b"moved", b"moved", b"data"):
        same(both, Opcode.LOOKUP, ROOT, names=[name])
    (share / "other").unlink()
    (share / "other").mkdir()
    for _ in range(3):
        node = struct.unpack_from("<Q", same(both, Opcode.LOOKUP, ROOT, names=[b"other"]), 16)[0]
    device.ask(message(Opcode.RENAME, ROOT, ROOT, names=[b"other", b"elsewhere"], unique=9))
    client.session.nodes.renamed(b"other", b"elsewhere")
    same(both, Opcode.GETATTR, node)
    same(both, Opcode.LOOKUP, ROOT, names=[b"other"])
    same(both, Opcode.LOOKUP, ROOT, names=[b"elsewhere"])


def test_how_often_the_guest_holds_a_node_counts_both_ways(both, share):
    (share / "f").touch()
    for _ in range(5):
        node = struct.unpack_from("<Q", same(both, Opcode.LOOKUP, ROOT, names=[b"f"]), 16)[0]
    for lookups, gone in ((4, False), (1, True)):
        forget = message(Opcode.FORGET, node, lookups, unique=9)
        assert both[0].raw(forget, 0) == both[1].ask(forget, 0) == b""
        assert (error(same(both, Opcode.GETATTR, node)) != 0) == gone


def everything(both, node, room):
    """All that READDIR says of a directory, in both ways, with answers of this size."""
    handle = struct.unpack_from("<Q", same(both, Opcode.OPENDIR, node), 16)[0]
    said, offset = [], 0
    while answer := same(both, Opcode.READDIR, node, handle, offset, room)[16:]:
        at = 0
        while at < len(answer):
            _, offset, length, kind = struct.unpack_from("<QQII", answer, at)
            said.append((answer[at + 24 : at + 24 + length], kind))
            at += 24 + length + 7 & ~7
    assert same(both, Opcode.READDIR, node, handle, 1 << 63, room)[16:] == b""
    same(both, Opcode.RELEASEDIR, node, handle)
    return said


@pytest.mark.parametrize("count", [0, 1, 2, 5, 900])
def test_directories_are_listed_the_same_and_in_order(both, share, count):
    kinds = many(share / "d", count)
    node = struct.unpack_from("<Q", same(both, Opcode.LOOKUP, ROOT, names=[b"d"]), 16)[0]
    for room in (4096, 8000, 400):
        assert everything(both, node, room) == [(b".", 4), (b"..", 4), *sorted(kinds.items())]


def test_a_directory_too_long_for_machine_code(both, share):
    (share / "d").mkdir()
    for number in range(6000):
        (share / "d" / f"{number:0180}").touch()
    node = struct.unpack_from("<Q", same(both, Opcode.LOOKUP, ROOT, names=[b"d"]), 16)[0]
    assert len(everything(both, node, 8000)) == 6002
