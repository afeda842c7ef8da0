"""Both queues of a virtio-fs device have work at once: each request is answered in its own place, once."""

import struct

from fuse_client import ROOT, message

from devproc.fs.fuse.messages import Opcode
from launcher.replay.frontend import GPA, FrontEnd

NEXT, WRITE = 1, 2
ROOM = 1024  # bytes of a request, and as many of an answer
BUFFERS = 0x400000
HIPRIO, REQUESTS = 0, 1
MANY = 100  # more than machine code takes from one queue before it looks at the next
ROUNDS = 40


class Guest:
    """A driver with a place in memory for the request of each head; heads are even."""

    def __init__(self, share):
        self.front = FrontEnd("virtiofs", {"tag": "here"}, backend=str(share))
        self.front.start()
        self.front.negotiate()
        requests = self.front.add_queue(REQUESTS, 256, 0)  # the first that the device looks at
        self.queues = [self.front.add_queue(HIPRIO, 128, 0x20000), requests]
        self.front.driver_ok()

    def offer(self, queue, slot, data):
        """Publish a request; the device sees it at once if it is awake."""
        layout, ram = self.queues[queue], self.front.ram.view
        at = BUFFERS + (queue * 256 + slot) * 2 * ROOM
        ram[at : at + len(data)] = data
        for index, (place, size, flags) in enumerate(((at, len(data), NEXT), (at + ROOM, ROOM, WRITE)), 2 * slot):
            struct.pack_into("<QIHH", ram, layout.desc + 16 * index, GPA + place, size, flags, index + 1)
        self.front.native.publish(layout.driver, 2 * slot)

    def answer(self, queue):
        """The next answer: its slot and `unique`."""
        head, length = self.front.wait_used(self.queues[queue])
        at = BUFFERS + (queue * 256 + head // 2) * 2 * ROOM + ROOM
        size, error, unique = struct.unpack_from("<IiQ", self.front.ram.view, at)
        assert (size, error) == (length, 0), f"queue {queue}, head {head}: {length} bytes, error {error}"
        return head // 2, unique

    def ask(self, queue, slot, data):
        self.offer(queue, slot, data)
        self.front.notify(self.queues[queue])
        return self.answer(queue)


def test_what_python_answers_is_not_taken_for_what_comes_on_the_other_queue(share):
    """Machine code leaves STATFS to Python, which then finds more on the other queue than one turn takes."""
    guest = Guest(share)
    try:
        guest.ask(REQUESTS, 0, message(Opcode.INIT, 0, 7, 31, 1 << 20, 0))
        for round in range(ROUNDS):
            number = 1000 * (round + 1)
            guest.ask(REQUESTS, 0, message(Opcode.GETATTR, ROOT, 0, 0, 0, unique=number))  # it is awake, and looks
            guest.offer(HIPRIO, 1, message(Opcode.STATFS, ROOT, unique=number))
            for slot in range(MANY):
                guest.offer(REQUESTS, slot, message(Opcode.GETATTR, ROOT, 0, 0, 0, unique=number + slot))
            for queue in guest.queues:
                guest.front.notify(queue)
            assert [guest.answer(REQUESTS) for _ in range(MANY)] == [(slot, number + slot) for slot in range(MANY)]
            assert guest.answer(HIPRIO) == (1, number)
    finally:
        guest.front.close()
