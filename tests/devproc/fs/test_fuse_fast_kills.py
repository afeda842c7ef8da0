"""The machine-code path killed before every statement that it comes to: the successor, in Python, finishes what was
cut, once, and the guest cannot tell.

`serve` is compiled once more with a countdown before each statement of what changes something; where it comes to
nothing, the process, a child of the test's, kills itself.
"""

import ast
import ctypes
import os
import signal
import struct
from functools import cache

import pytest
from fuse_client import ROOT, message
from fuse_fast_client import FastClient, plain, state, tree

from devproc.fs.fast import log, looking, once
from devproc.fs.fuse import fast, making, naming, opening, removing
from devproc.fs.fuse.messages import Opcode
from launcher.chaos.stepped import _functions, _Numbering
from native import Unit, fn, load64, store64, syscall, u64
from native import sys as numbers
from native.function import define

COUNTDOWN = 0x2100_0000_0000  # where the word is mapped
KILL = 62 if numbers.MACHINE != "aarch64" else 129
# What only puts together in memory that nobody sees yet has no steps.
STEPPED = {
    once: ("once_begin", "intend"),
    naming: ("begin",),
    making: ("create", "make_directory", "_in_directory", "_begin_node", "_make", "_begin_file", "learn", "hold"),
    removing: ("remove", "_take_name", "forget"),
    opening: ("open_file", "open_directory", "_opened", "release"),
    log: ("record_end",),
}


@fn
def step(number: u64) -> None:
    """Die here, if the countdown is over."""
    left: u64 = load64(COUNTDOWN)
    if left == 1:
        syscall(KILL, syscall(numbers.GETPID, 0, 0, 0, 0, 0, 0), 9, 0, 0, 0, 0)
    if left != 0:
        store64(COUNTDOWN, left - 1)


@cache
def stepped():
    """`serve` with steps."""
    ours = {"step": step}
    for module in (looking, log, once, naming, making, removing, opening, fast):
        scope = {**vars(module), **ours, "__name__": f"killed.{module.__name__}"}
        functions = _functions(module)
        for node in functions:
            if node.name in STEPPED.get(module, ()):
                node.body = _Numbering("change", node.name, []).block(node.body)
        source = "\n\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in functions) + "\n"
        define(source, scope, f"<killed {module.__name__}>")
        ours.update({node.name: scope[node.name] for node in functions})
    return Unit("fuse-killed", exports=[ours["serve"]]).load().serve


@pytest.fixture(scope="module")
def countdown():
    """Sets the word: so many steps are made; 0: all."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    private, anonymous, fixed = 2, 0x20, 0x100000
    assert libc.mmap(COUNTDOWN, 4096, 3, private | anonymous | fixed, -1, 0) == COUNTDOWN

    def count(steps):
        ctypes.c_uint64.from_address(COUNTDOWN).value = steps

    yield count
    libc.munmap(ctypes.c_void_p(COUNTDOWN), 4096)


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
    countdown(steps)
    child = os.fork()
    if child == 0:
        os._exit(0 if client.run(client.tables.known, client.chain, 0) else 1)
    countdown(0)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert end in (0, -signal.SIGKILL), "machine code should have served this"
    client.killed()
    return client, data, room, end != 0


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
