"""A virtio-9p device process: its machine code answers as the session in Python does, however often it is killed."""

import os
import random
import struct

import pytest
from ninep_client import Client, message
from ninep_fast_client import plain

from devproc.fs.journal import make_memory
from devproc.fs.ninep.device import JOURNAL
from devproc.fs.ninep.messages import Type
from launcher.replay.frontend import GPA, FrontEnd

NEXT, WRITE = 1, 2
ROOM = 2048  # bytes of a request, and as many of an answer
BUFFERS = 0x400000
SLOTS = 64
ROUNDS = 25


class Guest:
    """A driver with a place in memory for the request of each head; heads are even."""

    def __init__(self, share, journal):
        self.front = FrontEnd("9p", {"tag": "here"}, backend=str(share), lent={JOURNAL: journal})
        self.front.start()
        self.front.negotiate()
        self.queue = self.front.add_queue(0, 2 * SLOTS, 0)
        self.front.driver_ok()

    def offer(self, slot, data):
        """Publish a request; the device sees it at once if it is awake."""
        ram, at = self.front.ram.view, BUFFERS + slot * 2 * ROOM
        ram[at : at + len(data)] = data
        for index, (place, size, flags) in enumerate(((at, len(data), NEXT), (at + ROOM, ROOM, WRITE)), 2 * slot):
            struct.pack_into("<QIHH", ram, self.queue.desc + 16 * index, GPA + place, size, flags, index + 1)
        self.front.native.publish(self.queue.driver, 2 * slot)

    def take(self):
        """The next answer, and its slot."""
        head, length = self.front.wait_used(self.queue)
        at = BUFFERS + head * ROOM + ROOM
        return head // 2, bytes(self.front.ram.view[at : at + length])

    def ask(self, requests):
        """The answers to at most SLOTS requests, in their order."""
        for slot, data in enumerate(requests):
            self.offer(slot, data)
        self.front.notify(self.queue)
        answers = dict(self.take() for _ in requests)
        return [answers[slot] for slot in range(len(requests))]

    def ask_and_kill(self, requests, answered):
        """The same, but the process is killed when so many were answered, or a little later; its successor goes on."""
        for slot, data in enumerate(requests):
            self.offer(slot, data)
        self.front.notify(self.queue)
        answers = dict(self.take() for _ in range(answered))
        self.front.kill()
        self.front.start()
        self.front.replay()
        answers.update(self.take() for _ in requests[answered:])
        return [answers[slot] for slot in range(len(requests))]


@pytest.fixture
def journal():
    memory = make_memory("test")
    yield memory
    os.close(memory)


def fill(place):
    (place / "d").mkdir(parents=True)
    for number in range(30):
        (place / "d" / f"{number:02}").write_bytes(b"contents" * number)
    return place


@pytest.fixture
def guest(tmp_path, journal):
    made = Guest(fill(tmp_path / "device"), journal)
    yield made
    made.front.close()


@pytest.fixture
def client(tmp_path):
    """A session in Python, on a directory of its own."""
    made = Client(fill(tmp_path / "python"), attach=False)
    yield made
    made.close()


def begin():
    return [message(Type.VERSION, 7, 65536, b"9P2000.L"), message(Type.ATTACH, 7, 0, 0xFFFFFFFF, b"", b"", 0)]


def batch(choose):
    """Requests of a client that uses no fid twice, mostly such as machine code answers. None is left over."""
    made, held = [], []
    while len(made) + len(held) < SLOTS - 8:
        fid = len(made) + 1
        made += [
            message(Type.WALK, 1, 0, fid, [b"d", b"%02d" % choose.randrange(30)]),
            message(Type.GETATTR, 2, fid, 0x7FF),
            message(Type.LOPEN, 3, fid, choose.choice([0, 2, 2, 0o1002])),
            message(Type.WRITE, 4, fid, choose.choice([0, 5]), 3, data=b"new"),
            message(Type.READ, 5, fid, choose.choice([0, 5]), 500),
            message(Type.STATFS, 6, 0),
            message(Type.WALK, 7, fid, fid + 1, []),
        ]
        held += [fid, fid + 1]
        choose.shuffle(held)
        while len(held) > 3:
            made.append(message(Type.CLUNK, 8, held.pop()))
    return made + [message(Type.CLUNK, 8, fid) for fid in held]


def same(answers, client, requests):
    """Are these the answers of Python's session?"""
    for number, (answer, data) in enumerate(zip(answers, requests, strict=True)):
        wanted = client.raw(data, ROOM)
        if data[4] == Type.STATFS:  # free blocks come and go
            answer, wanted = answer[:15], wanted[:15]
        assert plain(answer, data[4]) == plain(wanted, data[4]), f"request {number}: {data!r}"


def test_the_device_answers_as_the_session_does(guest, client):
    choose = random.Random(1)
    same(guest.ask(begin()), client, begin())
    for _ in range(ROUNDS):
        requests = batch(choose)
        same(guest.ask(requests), client, requests)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_answers_as_one_that_lives(guest, client, seed):
    choose = random.Random(seed)
    same(guest.ask(begin()), client, begin())
    for _ in range(ROUNDS):
        requests = batch(choose)
        same(guest.ask_and_kill(requests, choose.randrange(len(requests))), client, requests)
