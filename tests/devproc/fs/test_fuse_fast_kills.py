"""The machine-code path killed before every statement that it comes to: the successor, in Python, finishes what was
cut, once, and the guest cannot tell.
"""

import os
import struct
from functools import cache

import pytest
from fuse_client import ROOT, message
from fuse_fast_client import FastClient, plain, state, tree
from killed_code import compiled, countdown, killed_in

from devproc.fs.fast import log, looking, once
from devproc.fs.fuse import fast, making, naming, opening, removing
from devproc.fs.fuse.messages import Opcode

# What only puts together in memory that nobody sees yet has no steps.
STEPPED = {
    once: ("once_begin", "intend"),
    naming: ("begin",),
    making: ("create", "make_directory", "_in_directory", "_begin_node", "_make", "_begin_file", "learn", "hold"),
    removing: ("remove", "_take_name", "forget"),
    opening: ("open_file", "open_directory", "_opened", "release"),
    log: ("record_end",),
}


@cache
def stepped():
    """`serve` with steps."""
    return compiled("fuse-killed", (looking, log, once, naming, making, removing, opening, fast), STEPPED)


@pytest.fixture(scope="module", name="countdown")
def the_countdown():
    """Sets the word: so many steps are made; 0: all."""
    with countdown() as count:
        yield count


def by(uid, *said, **rest):
    """A request of this user's."""
    data = bytearray(message(*said, **rest))
    struct.pack_into("<II", data, 24, uid, uid)
    return bytes(data)


def unlinked(client):
    node, handle = client.create(b"f")
    client.call(Opcode.RELEASE, node, handle)
    return by(0, Opcode.UNLINK, ROOT, names=[b"f"])


def removed(client):
    client.call(Opcode.MKDIR, ROOT, 0o755, names=[b"d"])
    return by(0, Opcode.RMDIR, ROOT, names=[b"d"])


def forgotten(times):
    def prepare(client):
        node, handle = client.create(b"f")
        client.lookup(b"f")
        client.call(Opcode.RELEASE, node, handle)
        return by(0, Opcode.FORGET, node, times)

    return prepare


def released(client):
    node, handle = client.create(b"f")
    return by(0, Opcode.RELEASE, node, handle)


def opened(client):
    node, _ = client.create(b"f")
    return by(0, Opcode.OPEN, node, os.O_RDWR)


# What machine code does once: the request, given a client that has prepared it.
CASES = {
    "create": lambda client: by(0, Opcode.CREATE, ROOT, os.O_RDWR, 0o100640, names=[b"f"]),
    "create of another": lambda client: by(1000, Opcode.CREATE, ROOT, os.O_RDWR | os.O_EXCL, 0o104711, names=[b"f"]),
    "mkdir": lambda client: by(0, Opcode.MKDIR, ROOT, 0o755, names=[b"d"]),
    "mkdir of another": lambda client: by(7, Opcode.MKDIR, ROOT, 0o1700, names=[b"d"]),
    "unlink": unlinked,
    "rmdir": removed,
    "forget all": forgotten(2),
    "release": released,
}
# And what may be done twice or, once decided, not at all: then there is one handle more, or a node is held once more
# than the guest knows.
TWICE = {
    "open": opened,
    "opendir": lambda client: by(0, Opcode.OPENDIR, ROOT),
    "forget some": forgotten(1),
    "lookup": lambda client: (client.share / "g").touch() or by(0, Opcode.LOOKUP, ROOT, names=[b"g"]),
}


def run(place, prepare, countdown, steps):
    """A client whose process was killed at a step; the request, and whether it was."""
    place.mkdir()
    client = FastClient(place, run=stepped())
    client.share = place
    data = prepare(client)
    room = 0 if data[4] == Opcode.FORGET else 8192
    client.session.nodes.catch_up()
    client.lay_out(data, room, False, 5)
    dead = killed_in(lambda: client.run(client.native.known, client.chain, 0), countdown, steps)
    client.killed()
    return client, data, room, dead


def everything(client, place, answer, opcode):
    """All but which numbers are next."""
    return plain(answer, opcode), state(client)[:3], tree(place)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_each_step_it_is_done_once(tmp_path, countdown, case):
    client, data, room, _ = run(tmp_path / "whole", CASES[case], countdown, 0)
    wanted = everything(client, tmp_path / "whole", client.raw(data, room, again=True, head=5), data[4])
    client.close()
    assert not wanted[0] or struct.unpack_from("<i", wanted[0], 4)[0] == 0
    steps, killed = 0, True
    while killed:
        steps += 1
        place = tmp_path / str(steps)
        client, data, room, killed = run(place, CASES[case], countdown, steps)
        answer = client.raw(data, room, again=True, head=5)
        assert everything(client, place, answer, data[4]) == wanted, f"killed at step {steps}"
        client.close()
    assert steps > 20


@pytest.mark.slow
@pytest.mark.parametrize("case", TWICE)
def test_killed_at_each_step_what_may_be_done_twice_succeeds(tmp_path, countdown, case):
    steps, killed = 0, True
    while killed:
        steps += 1
        client, data, room, killed = run(tmp_path / str(steps), TWICE[case], countdown, steps)
        answer = client.raw(data, room, again=True, head=5)
        assert not answer or struct.unpack_from("<i", answer, 4)[0] == 0, f"killed at step {steps}"
        if not answer:
            assert state(client)[0][2] in (([b"f"], False, 1), ([b"f"], False, 2))
        elif case == "lookup":
            assert client.stat(struct.unpack_from("<Q", answer, 16)[0])["size"] == 0
        else:
            handle = struct.unpack_from("<Q", answer, 16)[0]
            client.call(Opcode.RELEASE, ROOT, handle)
        client.close()
    assert steps > 10
