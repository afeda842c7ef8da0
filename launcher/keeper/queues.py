"""A device's queues as they lie in the guest's memory, and what is wrong with them: for `bulkhead queue`.

Everything is read by the keeper, from guest RAM, the in-flight table, the control page and the trace ring; the device's
process is not asked, so that it may be dead, hung or in quarantine. The guest goes on meanwhile: what is read is of
nearly one moment, and believed by nobody. Chains are walked with the checks of `proto.ring`, by their names.

Where the device stands in the available ring is in its own memory; it follows from what is in shared memory, used.idx
and the number of requests in flight.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from launcher.keeper.flights import Guest, decode
from launcher.keeper.member import QUEUE_SIZE, Member
from launcher.keeper.poison import Flight, in_flight
from launcher.machine.description import RAM_BASE
from proto.inflight import INFLIGHT_VERSION, InflightHeader, queue_region_size
from proto.pages import MAX_QUEUES, queue_statistics
from proto.ring import MAX_SEGMENTS, ChainError
from proto.trace import RECORDS, TracePoint, last_records
from proto.virtio import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESC_SIZE,
    USED_F_NO_NOTIFY,
    Feature,
    bit,
)

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["SHOWN", "look", "walk"]

SHOWN = 96  # requests of a device that are decoded, in flight or waiting; the others are counted
DESCRIPTORS = 8  # of a chain that are shown
_DESCRIPTOR = struct.Struct("<QIHH")
_HEADER = struct.Struct("<QHHHH")
_U16 = struct.Struct("<H")


def look(supervisor: Supervisor, member: Member) -> dict[str, Any]:
    """QUEUE {id}: state of the device, and of each queue that the driver has set up."""
    seen = supervisor.quarantine.known(member)
    guest = Guest(supervisor.shared["ram0"].fd, RAM_BASE, supervisor.machine.memory)
    table = member.segments["inflight"].view()
    page = member.segments["device_to_core"].view()
    held, _ = supervisor.faults.held(member)
    flights = in_flight(table, MAX_QUEUES, QUEUE_SIZE)
    queues = []
    for index, ring in sorted(seen["rings"].items()):
        mine = [flight for flight in flights if flight.queue == index]
        queue = _Queue(index, ring, seen, guest, mine)
        found = queue.look(table)
        found["requests"] = _requests(queue, member, held, seen, max(4, SHOWN // len(seen["rings"])))
        found["more"] = len(mine) + len(queue.pending) - len(found["requests"])
        counters = queue_statistics(page, index)
        found |= {"completed": counters.requests, "errors": counters.errors, "malformed": counters.rejected}
        queues.append(found)
    return {
        "id": member.id,
        "state": member.state,
        "reason": member.reason,
        "pid": member.child.pid if member.child else None,
        "epoch": member.epoch,
        "queues": queues,
    }


class _Queue:
    """One queue, read once."""

    def __init__(
        self, index: int, ring: Mapping[str, int], seen: Mapping[str, Any], guest: Guest, flights: list[Flight]
    ) -> None:
        self.index = index
        self.size = ring["size"]
        self.ring = ring
        self.guest = guest
        self.flights = flights
        self.rings = seen["rings"]
        self.kind = seen["device_id"]
        self.event_idx = bool(seen["features"] & bit(Feature.RING_EVENT_IDX))
        self.indirect = bool(seen["features"] & bit(Feature.RING_INDIRECT_DESC))
        self.wrong: list[str] = []
        self.pending: list[int] = []  # heads that the driver offers

    def look(self, table: memoryview) -> dict[str, Any]:
        """Indices, events and what is wrong with them."""
        size, guest = self.size, self.guest
        avail = guest.read(self.ring["avail"], 6 + 2 * size)
        used = guest.read(self.ring["used"], 6 + 8 * size)
        desc = guest.read(self.ring["desc"], DESC_SIZE * size)
        found: dict[str, Any] = {"index": self.index, "size": size, "event_idx": self.event_idx, "wrong": self.wrong}
        found |= {name: self.ring[name] for name in ("desc", "avail", "used")}
        found |= {"in_flight": len(self.flights), "indirect": self.indirect, "waiting": 0}
        for name, data, length, alignment in (
            ("desc", desc, DESC_SIZE * size, 16),
            ("avail", avail, 6 + 2 * size, 2),
            ("used", used, 6 + 8 * size, 4),
        ):
            if len(data) < length:
                self.wrong.append(f"the {name} ring at {self.ring[name]:#x} is not (wholly) in guest memory")
            if self.ring[name] % alignment:
                self.wrong.append(f"the {name} ring at {self.ring[name]:#x} is not aligned to {alignment}")
        if not size or size & (size - 1) or size > QUEUE_SIZE:
            self.wrong.append(f"a size of {size} is no power of two up to {QUEUE_SIZE}")
        if self.wrong:
            return found
        avail_flags, avail_idx = struct.unpack_from("<HH", avail)
        used_flags, used_idx = struct.unpack_from("<HH", used)
        found |= {"avail_idx": avail_idx, "used_idx": used_idx}
        found["no_interrupt"] = bool(avail_flags & AVAIL_F_NO_INTERRUPT)
        found["no_notify"] = bool(used_flags & USED_F_NO_NOTIFY)
        if self.event_idx:
            found["used_event"] = _U16.unpack_from(avail, 4 + 2 * size)[0]
            found["avail_event"] = _U16.unpack_from(used, 4 + 8 * size)[0]
        self._indices(avail, avail_idx, used_idx)
        self._events(found)
        self._table(table, used_idx)
        found["waiting"] = len(self.pending)
        return found

    def _indices(self, avail: bytes, avail_idx: int, used_idx: int) -> None:
        """What the driver offers, if the indices make sense."""
        outstanding = avail_idx - used_idx & 0xFFFF
        taken = used_idx + len(self.flights) & 0xFFFF
        waiting = avail_idx - taken & 0xFFFF
        if outstanding > 0x8000:
            self.wrong.append(f"used.idx {used_idx} is ahead of avail.idx {avail_idx}: more came back than was offered")
        elif outstanding > self.size:
            self.wrong.append(
                f"avail.idx {avail_idx} has jumped: {outstanding} requests are out in a queue of {self.size}"
            )
        elif waiting > self.size:
            self.wrong.append(f"{len(self.flights)} requests are in flight, and only {outstanding} were offered")
        else:
            heads = [_U16.unpack_from(avail, 4 + 2 * ((taken + number) % self.size))[0] for number in range(waiting)]
            self._heads(heads)

    def _heads(self, heads: list[int]) -> None:
        busy = {flight.head for flight in self.flights}
        for head in heads:
            if head >= self.size:
                self.wrong.append(f"head {head} in the available ring is outside the table of {self.size}")
                continue
            if head in busy:
                self.wrong.append(f"head {head} is offered while it is in flight, or twice")
            busy.add(head)
            self.pending.append(head)

    def _events(self, found: dict[str, Any]) -> None:
        """2.7.7.2, 2.7.10.1: does anybody wait for an index that will not come?"""
        if not self.event_idx:
            return
        ahead = found["used_event"] - found["used_idx"] & 0xFFFF
        if self.flights and self.size < ahead < 0x8000:
            self.wrong.append(
                f"used_event {found['used_event']}: the driver waits for {ahead + 1} more requests, "
                f"more than the queue has"
            )

    def _table(self, table: memoryview, used_idx: int) -> None:
        """The in-flight table, against the rings."""
        at = self.index * queue_region_size(QUEUE_SIZE)
        _, version, size, _, seen = _HEADER.unpack_from(table, at)
        if version == INFLIGHT_VERSION and size != self.size:
            self.wrong.append(f"the in-flight table is of a queue of {size}")
        elif version == INFLIGHT_VERSION and seen != used_idx and (used_idx - seen & 0xFFFF) > self.size:
            self.wrong.append(f"used.idx is {used_idx}, and the device left it at {seen}: somebody else has written it")


def _requests(
    queue: _Queue, member: Member, held: list[dict[str, Any]], seen: Mapping[str, Any], shown: int
) -> list[dict[str, Any]]:
    """In flight, oldest first, then those that wait in the ring."""
    taken = _times(member, queue.index)
    holds = {row["number"]: row for row in held if row["queue"] == queue.index}
    now = time.monotonic_ns()
    found = []
    for flight in queue.flights[:shown]:
        row: dict[str, Any] = {"state": "held" if flight.counter in holds else "in flight"}
        if flight.counter in taken:
            row["for"] = (now - taken[flight.counter]) / 1e9
        if flight.counter in holds:
            row["held"] = holds[flight.counter]["at"]
        found.append(row | _tell(queue, flight))
    left = 0 if queue.index in seen["passive"] else shown - len(found)  # empty buffers tell nothing
    for head in queue.pending[:left]:
        row = {"state": "waiting"} | _tell(queue, Flight(queue.index, head, 0))
        del row["counter"]
        found.append(row)
    return found


def _tell(queue: _Queue, flight: Flight) -> dict[str, Any]:
    """What a request is, its descriptors, and what is wrong with its chain."""
    (told,) = decode([flight], queue.rings, queue.guest, queue.kind)
    chain, error = walk(queue.guest, queue.ring, flight.head, indirect=queue.indirect)
    row: dict[str, Any] = {**told, "descriptors": chain[:DESCRIPTORS], "length_of_chain": len(chain)}
    if error:
        row["wrong"] = error
        queue.wrong.append(f"head {flight.head}: {error}")
    return row


def _times(member: Member, queue: int) -> dict[int, int]:
    """When requests were taken first, as far as the trace ring still knows."""
    segment = member.segments.get("trace")
    if segment is None:
        return {}
    found: dict[int, int] = {}
    for record in last_records(segment.view(), RECORDS):
        if record.point == TracePoint.POP and record.queue == queue:
            found.setdefault(record.id, record.time)
    return found


def walk(guest: Guest, ring: Mapping[str, int], head: int, *, indirect: bool) -> tuple[list[dict[str, Any]], str]:
    """2.7.5: the descriptors of a chain, as far as it can be followed, and what is wrong with it, or nothing."""
    chain: list[dict[str, Any]] = []
    for found in _follow(guest, ring, head, indirect):
        if isinstance(found, str):
            return chain, found
        chain.append(found)
    return chain, ""


def _follow(guest: Guest, ring: Mapping[str, int], head: int, indirect: bool) -> Iterator[dict[str, Any] | str]:
    table, entries, index, inside = ring["desc"], ring["size"], head, False
    path: list[int] = []
    writable = False
    count = 0
    while True:
        if index >= entries:
            yield _name(ChainError.NEXT_RANGE, f"descriptor {index} of {entries}")
            return
        if index in path:
            yield _name(ChainError.LOOP, " → ".join(map(str, [*path[path.index(index) :], index])))
            return
        path.append(index)
        data = guest.read(table + DESC_SIZE * index, DESC_SIZE)
        if len(data) < DESC_SIZE:
            yield _name(ChainError.ADDRESS, f"descriptor {index} at {table + DESC_SIZE * index:#x}")
            return
        gpa, length, flags, following = _DESCRIPTOR.unpack(data)
        row = {"index": index, "address": gpa, "length": length, "flags": flags, "next": following}
        if flags & DESC_F_INDIRECT:
            yield row
            if error := _indirect_error(guest, gpa, length, flags, indirect, inside):
                yield error
                return
            table, entries, index, inside, path = gpa, length // DESC_SIZE, 0, True, []
            continue
        yield row
        count += 1
        if error := _buffer_error(guest, gpa, length, bool(flags & DESC_F_WRITE), writable, count):
            yield error
            return
        writable = bool(flags & DESC_F_WRITE)
        if not flags & DESC_F_NEXT:
            return
        index = following


def _buffer_error(guest: Guest, gpa: int, length: int, writes: bool, before: bool, count: int) -> str:
    where = f"{length} bytes at {gpa:#x}"
    if length == 0:
        return _name(ChainError.ZERO_LENGTH, f"at {gpa:#x}")
    if before and not writes:
        return _name(ChainError.ORDER, where)
    if not guest.has(gpa, length):
        return _name(ChainError.ADDRESS, where)
    return _name(ChainError.TOO_LONG, f"more than {MAX_SEGMENTS} buffers") if count > MAX_SEGMENTS else ""


def _indirect_error(guest: Guest, gpa: int, length: int, flags: int, allowed: bool, inside: bool) -> str:
    if not allowed:
        return _name(ChainError.INDIRECT_REFUSED, "VIRTIO_F_INDIRECT_DESC was not negotiated")
    if inside:
        return _name(ChainError.INDIRECT_NESTED, f"at {gpa:#x}")
    if flags & DESC_F_NEXT:
        return _name(ChainError.INDIRECT_CHAINED, "INDIRECT and NEXT together")
    if length == 0 or length % DESC_SIZE:
        return _name(ChainError.INDIRECT_LENGTH, f"{length} bytes")
    return "" if guest.has(gpa, length) else _name(ChainError.INDIRECT_ADDRESS, f"{length} bytes at {gpa:#x}")


_SAID = {
    ChainError.LOOP: "the chain loops",
    ChainError.NEXT_RANGE: "it leads outside the table",
    ChainError.ADDRESS: "a buffer is not (wholly) in guest memory",
    ChainError.ZERO_LENGTH: "a buffer of no bytes",
    ChainError.ORDER: "a readable buffer after a writable one",
    ChainError.TOO_LONG: "the chain is too long",
    ChainError.INDIRECT_REFUSED: "an indirect table",
    ChainError.INDIRECT_NESTED: "an indirect table inside an indirect table",
    ChainError.INDIRECT_CHAINED: "an indirect table in the middle of a chain",
    ChainError.INDIRECT_LENGTH: "an indirect table whose length is no multiple of 16",
    ChainError.INDIRECT_ADDRESS: "an indirect table that is not (wholly) in guest memory",
}


def _name(error: ChainError, detail: str) -> str:
    return f"{_SAID[error]}: {detail} ({error.name})"


assert InflightHeader.offset("desc") == _HEADER.size
