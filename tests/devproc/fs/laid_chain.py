"""Requests as `ring_pop` would hand them to machine code: a chain in memory of this process."""

from __future__ import annotations

from contextlib import contextmanager

from ninep_client import request

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


class Fast(LaidChain):
    """A protocol's client beside it, served by machine code, `run`, and by Python what that leaves. `native` is what
    both know, `table` the session's part of that. `served` counts what machine code answered, `left` what it left."""

    def __init__(self, run, pieces):
        super().__init__(pieces)
        self.run = run
        self.served, self.left = 0, 0

    @property
    def table(self):
        raise NotImplementedError

    def successor(self):
        self.session.close()
        self.native.close()
        self.session = self.make_session()

    def killed(self):
        """A child of this process was killed in its place: what it has changed meanwhile is no news for us."""
        self.table.close_files()
        for part in (self.session.nameless, self.session.locks):
            part.close()
        self.native.close()
        self.session = self.make_session()

    def raw(self, data, room=8192, again=False, head=0, number=0):
        self.lay_out(data, room, again, head, number)
        if self.run(self.native.known, self.chain, 0):
            self.served += 1
            return self.answer(self.native.share.written)
        self.left += 1
        made, answer = request(data, room, bool(self.chain.again))
        made.head, made.number = head, number
        self.session.handle(made)
        return bytes(answer[: made.written])

    def close_fast(self):
        """After the client itself."""
        self.native.close()
        self.free()


@contextmanager
def each_its_own(folder, fast, slow):
    """A client by machine code and one in Python, each on a directory of its own."""
    places = [folder / name for name in ("fast", "slow")]
    for place in places:
        place.mkdir()
    made = [fast(places[0]), slow(places[1])]
    yield made
    for client in made:
        client.close()
