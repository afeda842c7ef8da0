"""The virtqueues of one device process: set up, begun, stopped, and the readable path from a popped chain to `handle`.

`Queues` owns the native memory of the loop, the rings and the chain, and knows which queues are served. It calls only
native functions on anything that guest or core share. One thread uses it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from devproc.breaks import Breaks, Held, change
from devproc.careful import Careful
from devproc.device import VirtioDevice
from devproc.loop import POLLED_MAX, SPIN_MAX, Loop
from devproc.request import Buffer, Request
from native.memory import Area
from proto.doorbell import NO_BELL
from proto.errors import BackendError, ProtocolError
from proto.faults import Rule
from proto.inflight import InflightEntry, InflightHeader, queue_region_size
from proto.memory import GuestMemory
from proto.pages import MAX_QUEUES, DeviceToCore, QueueStatistics
from proto.ring import Chain, ChainError, Pop, Ring, RingError, Segment
from proto.virtio import DESC_SIZE, QUEUE_SIZE_MAX, USED_ELEM_SIZE, Feature, bit

__all__ = ["Pages", "Queues"]

BATCH = 64  # requests handled before messages are looked at
_CHAIN = struct.Struct("<HHIIIQQQ")  # proto.ring.Chain up to its segments
_SEGMENT = struct.Struct("<QQIHH")  # proto.ring.Segment
_READY, _CALLS = Loop.offset("ready") // 4, Loop.offset("calls") // 4  # read every turn: not through records
assert _CHAIN.size == Chain.offset("segments") and _SEGMENT.size == Segment.size()


@dataclass
class Pages:
    """What this process has for its link: the two pages, the in-flight table (None: not virtio), its trace ring (None:
    nobody has made one), and the doorbell."""

    core: Area
    device: Area
    inflight: Area | None = None
    trace: Area | None = None
    bell: int = NO_BELL  # rings at the core

    @property
    def trace_address(self) -> int:
        """Of the trace ring; 0 when there is none."""
        return self.trace.address if self.trace is not None else 0


@dataclass
class _Queue:
    """One queue as the core set it up."""

    setup: dict[str, Any]
    ring: Ring
    enabled: bool = False


class Queues:
    """The queues of `device`."""

    def __init__(
        self,
        device: VirtioDevice,
        engine: Any,
        memory: GuestMemory,
        pages: Pages,
        broken: Callable[[int, str], None],
    ) -> None:
        self._device = device
        self._engine = engine
        self._memory = memory
        self._pages = pages
        self._broken = broken
        self._area = Area.allocate(Loop.size() + Chain.size() + MAX_QUEUES * Ring.size())
        self._view = self._area.view()
        self.loop = Loop(self._area.address)
        self.loop.mine = pages.device.address
        self.loop.theirs = pages.core.address
        self.loop.spinning = 1
        self.loop.sleep_gap = SPIN_MAX
        self.loop.trials = 1
        self.loop.trace = pages.trace_address
        self.loop.bell = pages.bell
        self._words = self._view[: Loop.size()].cast("I")
        until = Loop.offset("until")
        self._until = self._view[until : until + 8].cast("Q")  # written every turn
        self.chain = Chain(self._area.address + Loop.size())
        self._chain_at = Loop.size()
        self._queues: dict[int, _Queue] = {}
        self._table_size = 0
        self._deferred = 0
        self.careful = Careful(device, pages.device)
        self._parked: set[int] = set()  # numbers of the parked requests
        self._serial = 0
        self._paused = False
        self._late: list[Callable[[], None]] = []  # parked requests that found their end while nothing was served
        self._unwanted = {index for index, queue in enumerate(device.queues) if queue.on_demand}
        self.breaks = Breaks(device, "")
        self._tap = 0

    # -- what the core says ----------------------------------------------------------------------------------------

    def set_inflight(self, queues: int, size: int) -> None:
        """INFLIGHT: the geometry of the table. Raises ProtocolError when the segment is too small for it."""
        area = self._pages.inflight
        if area is None or queues * queue_region_size(size) > area.size:
            raise ProtocolError(
                f"an in-flight table of {queues} queues of {size} was not given", field="size", value=size
            )
        if queues < len(self._device.queues):
            raise ProtocolError(f"{queues} in-flight tables for {len(self._device.queues)} queues", field="queues")
        self._table_size = size

    def setup(self, body: dict[str, Any]) -> None:
        """RING_SETUP. The same once more is nothing new; another one needs the queue to be stopped."""
        index, setup = body["queue"], {name: value for name, value in body.items() if name != "fresh"}
        queue = self._queues.get(index)
        if queue is not None and queue.enabled:
            if queue.setup == setup:
                return
            raise ProtocolError(f"queue {index} is being served", field="queue", value=index)
        ring = self._make_ring(setup)
        if body.get("fresh", False):
            self._engine.ring_forget(ring.inflight)
            self.careful.forget(index)
        self._queues[index] = _Queue(setup, ring)

    def begin(self, index: int) -> int:
        """RING_ENABLE on. Recovers what a predecessor left; returns how many requests will come again."""
        queue = self._queues.get(index)
        if queue is None:
            raise ProtocolError(f"queue {index} was never set up", field="queue", value=index)
        again = 0 if queue.enabled else self._begin(queue)
        queue.ring.draining = 0
        queue.enabled = True
        self._serve_enabled()
        return again

    def drain(self, index: int) -> None:
        """Take nothing new from a queue; what is in flight, here or since a predecessor, is finished."""
        if index in self._queues:
            self._queues[index].ring.draining = 1
            self.breaks.release(self.breaks.of_queue(index), "go")

    def end(self, index: int) -> int:
        """Stop serving a drained queue. Returns where the driver's ring goes on: the next avail index."""
        if index not in self._queues:
            return 0
        queue = self._queues[index]
        queue.enabled = False
        self._serve_enabled()
        return queue.ring.last_avail

    def busy(self) -> int:
        """Requests that this process has taken and not yet given back."""
        taken = sum(queue.ring.in_flight - queue.ring.again_left for queue in self._queues.values())
        return taken - len(self._parked) - self._device.lent()

    def in_flight(self, index: int | None = None) -> int:
        """Requests in the in-flight table: those, and a predecessor's that have not come again yet."""
        return sum(queue.ring.in_flight for number, queue in self._queues.items() if index in (None, number))

    def pause(self) -> None:
        """Serve nothing, remembering what was enabled."""
        self.loop.count = 0
        self._paused = True

    def resume(self) -> None:
        """Serve what is enabled again."""
        self._paused = False
        self._serve_enabled()
        late, self._late = self._late, []
        for finish in late:
            finish()

    def forget(self) -> None:
        """RESET: the rings are gone, and nothing of them is in flight any more."""
        self._queues.clear()
        self.careful.forget()
        self._parked.clear()
        self.breaks.forget()
        self._late.clear()
        self._paused = False
        self._serve_enabled()
        if self._table_size:
            for index in range(len(self._device.queues)):
                self._engine.ring_forget(self._inflight(index))

    def move(self) -> None:
        """MEM_TABLE changed: find every ring again. Raises ProtocolError when one is no longer in memory."""
        for queue in self._queues.values():
            self._place(queue.ring, queue.setup)

    def want(self, index: int, wanted: bool) -> None:
        """Take requests from a queue that is served on demand, or leave them with the driver."""
        (self._unwanted.discard if wanted else self._unwanted.add)(index)
        if index in self._queues:
            self._halt(self._queues[index].ring)

    def posted(self, index: int) -> bool:
        """Is there a request to be taken from this queue?"""
        queue = self._queues.get(index)
        return queue is not None and queue.enabled and bool(self._engine.ring_has_work(queue.ring))

    def sleep_on(self, polled: list[tuple[int, int]], wakers: int) -> None:
        """The descriptors and events that end a sleep: first the doorbell (-1: there is none), then what only wakes the
        loop, `wakers` of them with the doorbell, then what Python is to see."""
        loop = self.loop
        loop.npolled = 0
        if len(polled) > POLLED_MAX:
            return  # Python sleeps on them
        for place, (fd, events) in enumerate(polled):
            loop.polled[place].fd, loop.polled[place].events = fd & 0xFFFFFFFF, events
        loop.wakers, loop.npolled = wakers, len(polled)

    def sleep_until(self, deadline: int) -> None:
        """When the loop must come back to Python at the latest, CLOCK_MONOTONIC in ns; 0: it must not sleep."""
        self._until[0] = deadline

    def tap(self, address: int) -> None:
        """Write everything into this tap from now on; 0: nowhere."""
        self._tap = address
        for queue in self._queues.values():
            queue.ring.tap = address

    def has(self, index: int) -> bool:
        """Has the driver set this queue up?"""
        return index in self._queues

    def ring(self, index: int) -> Ring:
        """A queue that was set up, as machine code sees it."""
        return self._queues[index].ring

    def sizes(self) -> dict[int, int]:
        """The entries of each queue that the driver has set up."""
        return {index: int(queue.ring.num) for index, queue in self._queues.items()}

    def told_everything(self) -> None:
        """The core has told of every queue that the driver has set up."""
        self.careful.release()
        self.go_on()

    def go_on(self) -> bool:
        """While suspects are served first: serve the others, if it is their turn. True when it is others' turn now."""
        before = self._served()
        if not self._paused:
            self._serve_enabled()
        return self._served() != before

    def take_calls(self) -> int:
        """The queues, a bit each, for which a CALL is due; it is the caller's to send now."""
        calls = self._words[_CALLS]
        if calls:
            self._words[_CALLS] = 0
        return calls

    # -- serving ---------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """The readable path: pop and handle up to BATCH requests of every queue that has some."""
        ready = self._words[_READY]
        for index, queue in list(self._queues.items()):
            if queue.enabled and ready >> index & 1:
                self._work_one(queue.ring)

    def handle_popped(self, index: int) -> None:
        """The request in the chain, which a loop of machine code has popped, is the readable path's."""
        ring = self._queues[index].ring
        self._handle(ring)
        self._engine.flush_and_call(self.loop, ring)

    def refuse(self, index: int, chain: memoryview) -> None:
        """Answer a request whose chain a loop of machine code has kept with the device's I/O error."""
        ring = self._queues[index].ring
        self._view[self._chain_at : self._chain_at + len(chain)] = chain
        request = self._request(ring)
        self._device.failed(request, BackendError("not carried out: process after process died of it", errno=errno.EIO))
        request.failed = True
        self._put(ring, request)
        self._engine.flush_and_call(self.loop, ring)

    def report_broken(self) -> None:
        """Stop every queue that the driver has broken, and say so."""
        for index, queue in self._queues.items():
            if queue.enabled and queue.ring.error:
                error = RingError(queue.ring.error)
                queue.enabled = False
                self._broken(index, f"queue {index}: {error.name.lower()}; the driver is at fault")
        self._serve_enabled()

    def close(self) -> None:
        """Release the native memory; nothing may run any more."""
        self.loop.count = 0
        self._words.release()
        self._until.release()
        self._view.release()
        self._area.close()

    def _work_one(self, ring: Ring) -> None:
        pop = self._engine.pop_now if self.breaks.active else self._device.native_pop or self._engine.pop_now
        for _ in range(BATCH):
            if ring.parked:
                break
            found = pop(ring, self.chain)
            if found == Pop.BROKEN:
                self.report_broken()
                break
            if found == Pop.EMPTY:
                break
            self._handle(ring)
        self._engine.flush_and_call(self.loop, ring)

    def _handle(self, ring: Ring) -> None:
        request = self._request(ring)
        if self.breaks.active and request.error != ChainError.POISONED:
            stopped = self.breaks.judge("pop", request, ring.first)
            if stopped is not None:
                self._stop(ring, request, "pop", *stopped)
                return
        self._carry_out(ring, request)

    def _carry_out(self, ring: Ring, request: Request) -> None:
        device = self._device
        try:
            if request.error == ChainError.POISONED:
                raise BackendError("not carried out: device after device died of it", errno=errno.EIO)
            device.malformed(request) if request.error else device.handle(request)
        except (BackendError, OSError) as error:
            device.log(f"{device.id}: queue {request.queue} head {request.head}: {error}", 30)
            device.failed(request, error)
            request.deferred = False
        if request.deferred:
            self._remember(ring, request, lambda: self._complete(ring, request))
        else:
            self._complete(ring, request)

    def _complete(self, ring: Ring, request: Request) -> None:
        stopped = self.breaks.judge("complete", request, ring.first) if self.breaks.active else None
        if stopped is not None:
            self._stop(ring, request, "complete", *stopped)
        else:
            self._put(ring, request)

    # -- rules -----------------------------------------------------------------------------------------------------

    def _stop(self, ring: Ring, request: Request, at: str, rule: Rule, fields: dict[str, Any]) -> None:
        """A rule takes a request."""
        if rule.action in ("hold", "delay"):
            request.park()
            held = self.breaks.hold(request, rule, at, fields)
            self._unmark(request)
            self._halt(ring)
            self._remember(ring, request, lambda: self._go_on(ring, held))
            return
        if rule.action == "set":
            change(request, at, rule.data, rule.offset)
        self._finish(ring, request, at, rule.action)

    def _unmark(self, request: Request) -> None:
        """While it waits it is to blame for nothing (`devproc.careful`)."""
        statistics = DeviceToCore.offset("queues") + request.queue * QueueStatistics.size()
        at = statistics + QueueStatistics.offset("marked")
        word = self._pages.device.view()[at : at + 8].cast("Q")
        if word[0] == request.number + 1:
            word[0] = 0

    def _go_on(self, ring: Ring, held: Held) -> None:
        """A request is held no longer."""
        self.breaks.gone(held)
        self._halt(ring)
        held.request.deferred = held.request.parked = False
        self._finish(ring, held.request, held.at, held.then)

    def _finish(self, ring: Ring, request: Request, at: str, how: str) -> None:
        if how == "fail":
            self.breaks.fail(request)
        elif how == "drop" and at == "pop":
            self.breaks.drop(request)
        elif at == "pop":
            self._carry_out(ring, request)
            return
        self._put(ring, request)

    def _halt(self, ring: Ring) -> None:
        """Take nothing from a queue that nobody wants, or that is served in order while one of its requests waits."""
        held = self._device.queues[ring.queue].in_order and bool(self.breaks.of_queue(ring.queue))
        ring.parked = int(held or ring.queue in self._unwanted)

    # -- giving back -----------------------------------------------------------------------------------------------

    def _put(self, ring: Ring, request: Request) -> None:
        if request.failed or request.bytes_read or request.bytes_written:
            self._engine.account(ring, request.bytes_read, request.bytes_written, int(request.failed))
        self._engine.put_now(ring, self.chain, min(request.written, 0xFFFFFFFF), int(request.failed))

    def _request(self, ring: Ring) -> Request:
        at = self._chain_at
        head, error, readable, writable, again, _, _, number = _CHAIN.unpack_from(self._view, at)
        start = at + _CHAIN.size
        span = self._view[start : start + (readable + writable) * _SEGMENT.size]
        buffers = [Buffer(region, offset, length) for _, offset, length, region, _ in _SEGMENT.iter_unpack(span)]
        return Request(
            ring.queue,
            head,
            buffers[:readable],
            buffers[readable:],
            self._memory.slice,
            error=error,
            again=bool(again),
            number=number,
        )

    def _remember(self, ring: Ring, request: Request, then: Callable[[], None]) -> None:
        """A deferred request: keep its chain, and do `then` with it when `finish` is called."""
        used = _CHAIN.size + (self.chain.readable + self.chain.writable) * _SEGMENT.size
        kept = bytes(self._view[self._chain_at : self._chain_at + used])
        self._deferred += 1
        self._serial += 1
        number = self._serial
        if request.parked:
            self._parked.add(number)

        def finish() -> None:
            if request.parked and number not in self._parked:
                return
            if request.parked and self._paused:
                self._late.append(finish)
                return
            self._parked.discard(number)
            request.finish = lambda: None
            self._deferred -= 1
            now = bytes(self._view[self._chain_at : self._chain_at + used])  # of a request being handled meanwhile
            self._view[self._chain_at : self._chain_at + used] = kept
            then()
            self._view[self._chain_at : self._chain_at + used] = now
            self._engine.flush_and_call(self.loop, ring)

        request.finish = finish

    # -- rings -----------------------------------------------------------------------------------------------------

    def _make_ring(self, setup: dict[str, Any]) -> Ring:
        index, size = setup["queue"], setup["size"]
        if index >= len(self._device.queues):
            raise ProtocolError(f"{self._device.id} has no queue {index}", field="queue", value=index)
        if not 0 < size <= min(self._device.queues[index].size, QUEUE_SIZE_MAX) or size & (size - 1):
            raise ProtocolError(f"queue {index} cannot have {size} entries", field="size", value=size)
        if size > self._table_size:
            raise ProtocolError(
                f"queue {index} has {size} entries, its in-flight table {self._table_size}", field="size"
            )
        ring = Ring(self._area.address + Loop.size() + Chain.size() + index * Ring.size())
        offset = ring.address - self._area.address
        self._view[offset : offset + Ring.size()] = bytes(Ring.size())
        ring.num = size
        ring.queue = index
        ring.parked = int(index in self._unwanted)
        ring.table = self._memory.table.address
        ring.inflight = self._inflight(index)
        page = self._pages.device.address
        ring.statistics = page + DeviceToCore.offset("queues") + index * QueueStatistics.size()
        ring.generation = page + DeviceToCore.offset("dirty_generation")
        ring.trace = self._pages.trace_address
        ring.tap = self._tap
        self._place(ring, setup)
        return ring

    def _place(self, ring: Ring, setup: dict[str, Any]) -> None:
        """2.7: the parts of a ring, their sizes and alignments."""
        size = setup["size"]
        parts = {
            "desc": (DESC_SIZE * size, 16),
            "avail": (6 + 2 * size, 2),
            "used": (6 + USED_ELEM_SIZE * size, 4),
        }
        for name, (length, alignment) in parts.items():
            where = setup[name]
            setattr(ring, name, self._memory.host_address(where["region"], where["offset"], length, alignment))

    def _begin(self, queue: _Queue) -> int:
        ring = queue.ring
        features = self._device.driver_features
        ring.event_idx = int(bool(features & bit(Feature.RING_EVENT_IDX)))
        ring.indirect = int(bool(features & bit(Feature.RING_INDIRECT_DESC)))
        if "base" in queue.setup:
            self._check_base(queue)
        again: int = self._engine.ring_recover(ring)
        self.careful.guard(ring)
        if not ring.error and self._device.queues[ring.queue].in_order:
            self._engine.ring_rewind(ring)
            again = 0
        if not ring.error:
            self._engine.call(self.loop, ring.queue)  # the one unconditional call: the predecessor's may be lost
        return again

    def _check_base(self, queue: _Queue) -> None:
        """A base only says what the rings must say too, once nothing is in flight."""
        ring = queue.ring
        self._engine.ring_recover(ring)
        if ring.last_avail != queue.setup["base"]:
            raise ProtocolError(
                f"queue {ring.queue}: base {queue.setup['base']}, the rings say {ring.last_avail}", field="base"
            )

    def _inflight(self, index: int) -> int:
        assert self._pages.inflight is not None
        return self._pages.inflight.address + index * queue_region_size(self._table_size)

    def _served(self) -> list[int]:
        return [int(self.loop.rings[number]) for number in range(self.loop.count)]

    def _serve_enabled(self) -> None:
        serving = self.careful.choose([queue.ring for queue in self._queues.values() if queue.enabled])
        for number, ring in enumerate(serving):
            self.loop.rings[number] = ring.address
        self.loop.count = len(serving)


assert InflightHeader.size() == InflightEntry.size() == 16  # vhost-user's, whatever else changes
