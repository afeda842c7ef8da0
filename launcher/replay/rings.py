"""A front end's rings as a replay fills them: requests of any shape, as many at a time as the recorded driver had.

Each request gets one piece of the front end's RAM for all its buffers and, if the driver could do that, for an indirect
table of descriptors; otherwise descriptors of the queue's table. All is free again when it is answered.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from launcher.replay.frontend import GPA, FrontEnd, QueueLayout
from proto.errors import DeadlineMissed
from proto.recording import Request
from proto.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE, Feature, bit

__all__ = ["BUFFERS", "QUEUE_ROOM", "Answer", "Rings", "room_of"]

QUEUE_ROOM = 0x10000  # bytes of a queue's rings
BUFFERS = 16 * QUEUE_ROOM  # where buffers begin in RAM
ALIGN = 64
_DESCRIPTOR = struct.Struct("<QIHH")
POLL = 0.25  # seconds between two looks whether the device still lives


@dataclass
class Answer:
    """What came back."""

    used: int
    data: bytes


@dataclass
class _Taken:
    """What a request in flight occupies."""

    request: Request
    at: int
    size: int
    writable: int  # where its writable bytes begin
    descriptors: list[int]


def room_of(request: Request) -> int:
    """Bytes of RAM that a request takes."""
    count = len(request.sizes) + len(request.room)
    whole = DESC_SIZE * count + sum(request.sizes) + sum(request.room)
    return -(-whole // ALIGN) * ALIGN + ALIGN


class Rings:
    """The queues of one front end."""

    def __init__(self, front: FrontEnd, size: int) -> None:
        self._front = front
        self._free: list[tuple[int, int]] = [(BUFFERS, size - BUFFERS)]  # (at, size), by place
        self._taken: dict[tuple[int, int], _Taken] = {}  # by queue and head
        self._spare: dict[int, list[int]] = {}  # descriptors of each queue that nobody uses
        self._answers: dict[int, Answer] = {}  # by the request's number

    def add(self, index: int, size: int) -> None:
        """Lay out a queue and have it served."""
        self._front.add_queue(index, size, index * QUEUE_ROOM)
        self._spare[index] = list(range(size))

    def forget(self) -> None:
        """After a reset nothing is in flight, and there are no queues."""
        for taken in list(self._taken.values()):
            self._give(taken.at, taken.size)
        for layout in self._front.queues.values():
            layout.area.close()
        self._front.queues.clear()
        self._taken.clear()
        self._spare.clear()

    def submit(self, request: Request) -> None:
        """Put a request into its ring, which must be there, and notify. Raises MemoryError when there is no room."""
        layout = self._front.queues[request.pop.queue]
        size = room_of(request)
        at = self._take(size)
        lengths = [*request.sizes, *request.room]
        table, place = at, at + -(-DESC_SIZE * len(lengths) // ALIGN) * ALIGN if len(lengths) else at
        ram = self._front.ram.view
        writable = place + sum(request.sizes)
        ram[place : place + len(request.readable)] = request.readable
        ram[writable : writable + sum(request.room)] = bytes(sum(request.room))
        entries = []
        for number, length in enumerate(lengths):
            entries.append((GPA + place, length, 0 if number < len(request.sizes) else DESC_F_WRITE))
            place += length
        heads = self._describe(layout, table, entries)
        self._taken[layout.index, heads[0]] = _Taken(request, at, size, writable, heads)
        self._front.native.publish(layout.driver, heads[0])
        self._front.notify(layout)
        self._front.hear()

    def wait(self, request: Request, timeout: float) -> Answer | None:
        """The answer of a request that was submitted; None when there is none by then. Raises RuntimeError when the
        device has died."""
        layout = self._front.queues[request.pop.queue]
        left = timeout
        while request.number not in self._answers:
            if left <= 0:
                return None
            try:
                head, used = self._front.wait_used(layout, min(POLL, left))
            except DeadlineMissed:
                left -= POLL
                self.check()
                continue
            self._answered(layout.index, head, used)
        return self._answers.pop(request.number)

    def check(self) -> None:
        """Raises RuntimeError when the device has died."""
        self._front.hear()
        process = self._front.process
        assert process is not None
        status = process.poll()
        if status is not None:
            raise RuntimeError(f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}")

    def _answered(self, queue: int, head: int, used: int) -> None:
        taken = self._taken.pop((queue, head), None)
        if taken is None:
            raise RuntimeError(f"gave back head {head} of queue {queue}, which it does not have")
        size = min(used, sum(taken.request.room))
        data = bytes(self._front.ram.view[taken.writable : taken.writable + size])
        self._answers[taken.request.number] = Answer(used, data)
        self._spare[queue] += taken.descriptors
        self._give(taken.at, taken.size)

    def _describe(self, layout: QueueLayout, table: int, entries: list[tuple[int, int, int]]) -> list[int]:
        """Write descriptors. Returns those of the queue that are used, the head first."""
        spare, ram = self._spare[layout.index], self._front.ram.view
        if len(entries) > 1 and self._front.features & bit(Feature.RING_INDIRECT_DESC):
            self._write(table, entries, list(range(len(entries))))
            head = spare.pop()
            size = DESC_SIZE * len(entries)
            _DESCRIPTOR.pack_into(ram, layout.desc + DESC_SIZE * head, GPA + table, size, DESC_F_INDIRECT, 0)
            return [head]
        if len(entries) > len(spare):
            raise MemoryError(f"a request of {len(entries)} buffers, and {len(spare)} free descriptors")
        chosen = [spare.pop() for _ in entries]
        self._write(layout.desc, entries, chosen)
        return chosen

    def _write(self, table: int, entries: list[tuple[int, int, int]], numbers: list[int]) -> None:
        for place, (address, length, flags) in enumerate(entries):
            last = place == len(entries) - 1
            following = (0, 0) if last else (DESC_F_NEXT, numbers[place + 1])
            where = table + DESC_SIZE * numbers[place]
            _DESCRIPTOR.pack_into(self._front.ram.view, where, address, length, flags | following[0], following[1])

    def _take(self, size: int) -> int:
        """First fit."""
        for number, (at, free) in enumerate(self._free):
            if free >= size:
                self._free[number : number + 1] = [(at + size, free - size)] if free > size else []
                return at
        raise MemoryError(f"no room for {size} bytes")

    def _give(self, at: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for place, free in sorted([*self._free, (at, size)]):
            if merged and sum(merged[-1]) == place:
                merged[-1] = (merged[-1][0], merged[-1][1] + free)
            else:
                merged.append((place, free))
        self._free = merged
