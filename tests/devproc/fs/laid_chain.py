"""Requests as `ring_pop` would hand them to machine code: a chain in memory of this process."""

from __future__ import annotations

from native.memory import Area
from proto.ring import Chain

ROOM = 1 << 17  # bytes of a request, and as many of an answer


class LaidChain:
    """`pieces`: into how many buffers a request and its answer are cut."""

    def __init__(self, pieces=3):
        self.area = Area.allocate(Chain.size() + 2 * ROOM)
        self.view = self.area.view()
        self.chain = Chain(self.area.address, self.area)
        self.pieces = pieces

    def lay_out(self, data, room, again=False, head=0, number=0):
        chain = self.chain
        chain.counter = number
        chain.head, chain.error, chain.again = head, 0, int(again)
        begin = Chain.size()
        self.view[begin : begin + len(data)] = data
        count = 0
        for at, size in ((begin, len(data)), (begin + ROOM, room)):
            step = max(1, -(-size // self.pieces))
            for offset in range(0, size, step):
                segment = chain.segments[count]
                segment.host, segment.length = self.area.address + at + offset, min(step, size - offset)
                count += 1
            if at == begin:
                chain.readable = count
        chain.writable, chain.readable_bytes, chain.writable_bytes = count - chain.readable, len(data), room

    def answer(self, size):
        """What was written for the driver."""
        return bytes(self.view[Chain.size() + ROOM :][:size])

    def free(self):
        self.view.release()
        self.area.close()
