"""The rings of a device behind a relay, in memory of its own process, and the loop of the device that serves them.

To the device all is as it would be beside the guest: `devproc.queues`, the device's own loop of machine code, requests
served in order or on demand. What fills and empties the rings is `devproc.relay.twin_code`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from devproc.device import VirtioDevice
from devproc.loop import Reason
from devproc.queues import Pages, Queues
from devproc.relay.twin_code import PAGE, TABLE, Placed, Twin
from native.memory import Area
from proto.errors import ProtocolError
from proto.inflight import region_size
from proto.memory import GuestMemory
from proto.pages import PAGE_SIZE, DeviceToCore, QueueStatistics, format_core_page, format_device_page
from proto.relay import MAX_DATA, MAX_LOAD
from proto.ring import Given
from proto.virtio import AVAIL_F_NO_INTERRUPT, DESC_SIZE, USED_ELEM_SIZE, Feature, bit

__all__ = ["LIMIT", "Rings"]

LIMIT = 4 << 20  # bytes of each queue's requests that may be here
SERVICE_NS = 1_000_000
RING_FEATURES = bit(Feature.RING_INDIRECT_DESC) | bit(Feature.RING_EVENT_IDX)
_USED, _AT = Twin.offset("used") // 8, Twin.offset("at") // 8
_MOVED = struct.Struct("<QQ")  # bytes_read, bytes_written
_ALONE = 0xFFFFFFFF  # trials until spinning would be tried: never


def _up(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Rings:
    """One device's."""

    def __init__(self, device: VirtioDevice, engine: Any) -> None:
        self._device, self._engine = device, engine
        self._sizes = [queue.size for queue in device.queues]
        self._parts, end = self._lay_out()
        pages = (len(self._sizes) + 4) * LIMIT // PAGE + sum(self._sizes)
        self._shared = end
        self._memory = self._map("twin", end + pages * PAGE)
        self._area = Area.allocate(Twin.size())
        self.twin = twin = Twin(self._area.address, self._area)
        self._words = self._area.view()[: Twin.size() & ~7].cast("Q")  # records are slow
        twin.count, twin.pages, twin.arena = len(self._sizes), pages, end
        self._more = [Area.allocate(pages), Area.allocate(MAX_LOAD)]
        twin.map, twin.buffer = (area.address for area in self._more)
        self._load = self._more[1].view()
        twin.base = self._memory.host_address(0, 0, end)
        self._lay_queues()
        inflight = Area.allocate(region_size(len(self._sizes), max(self._sizes)))
        core, page = Area.allocate(PAGE_SIZE), Area.allocate(PAGE_SIZE)
        format_core_page(core.view())
        format_device_page(page.view())
        self._counters = page.view()[DeviceToCore.offset("queues") + QueueStatistics.offset("bytes_read") :]
        self._queues = queues = Queues(device, engine, self._memory, Pages(core, page, inflight), self._broken)
        queues.set_inflight(len(self._sizes), max(self._sizes))
        queues.loop.spinning, queues.loop.trials = 0, _ALONE
        device.want, device.posted = queues.want, queues.posted
        self._turn: Callable[[], int] = device.native_loop(engine, queues) or (
            lambda: engine.wait_for_work(queues.loop, SERVICE_NS)
        )
        self._moved = dict.fromkeys(range(len(self._sizes)), (0, 0))

    # -- lives -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The driver has accepted features: the rings are there, empty, and served."""
        self.end()
        self._device.driver_features &= ~RING_FEATURES
        features = self._device.driver_features
        self._device.negotiated()
        self._device.driver_features = features | bit(Feature.RING_INDIRECT_DESC)
        for number, parts in enumerate(self._parts):
            places = {name: {"region": 0, "offset": parts[name]} for name in ("desc", "avail", "used")}
            self._queues.setup({"queue": number, "size": self._sizes[number], "fresh": True, **places})
            self._queues.ring(number).given = self.twin.queues[number].given
            self._queues.begin(number)
        self._device.driver_features = features
        self._queues.told_everything()

    def end(self) -> None:
        """Nothing is served, and what was there is forgotten."""
        self._queues.forget()
        self._engine.twin_forget(self.twin)
        self._memory.slice(0, 0, self._shared)[:] = bytes(self._shared)
        for parts in self._parts:
            self._memory.slice(0, parts["avail"], 2)[:] = AVAIL_F_NO_INTERRUPT.to_bytes(2, "little")

    def pause(self) -> None:
        """Begin nothing new."""
        self._queues.pause()

    def busy(self) -> bool:
        """Is something being carried out that is not parked?"""
        return self._queues.busy() > 0

    # -- serving ---------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Serve. True: there may be more to do at once."""
        reason = self._turn()
        if reason == Reason.WORK:
            self._queues.work()
        elif reason == Reason.BROKEN:
            self._queues.report_broken()
        self._queues.take_calls()
        return reason != Reason.SLEEP

    def place(self, address: int, size: int, start: int) -> tuple[int, int]:
        """Take the requests in a message, from `start` on. Returns what became of them (a `Place`), and where it
        stopped."""
        self._words[_AT] = start
        found = self._engine.twin_place(self.twin, address, size)
        return found, self._words[_AT]

    def collect(self, *, again: bool) -> tuple[memoryview, bool]:
        """A message of what the device has given back, or of what was asked again; and whether there is more. It is
        valid until the next call."""
        self._words[_USED] = 0
        more: bool = (self._engine.twin_repeat if again else self._engine.twin_collect)(self.twin)
        return self._load[: self._words[_USED]], more

    def unask(self) -> None:
        """A session is over: what has been given back since it was said last is kept until it is asked for."""
        self._engine.twin_unask(self.twin)
        while self.collect(again=False)[1]:
            pass

    def moved(self) -> list[dict[str, int]]:
        """What was read and written since this was asked last, by queue."""
        rows = []
        for number, before in self._moved.items():
            now = _MOVED.unpack_from(self._counters, number * QueueStatistics.size())
            if now != before:
                self._moved[number] = now
                rows.append({"queue": number, "read": now[0] - before[0], "written": now[1] - before[1]})
        return rows

    # -- memory ----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> tuple[list[dict[str, int]], int]:
        """Where each queue's parts are, and where they end."""
        end, found = 0, []
        for size in self._sizes:
            parts = {}
            rows = {"desc": DESC_SIZE * size, "avail": 6 + 2 * size, "used": 6 + USED_ELEM_SIZE * size}
            rows |= {"tables": TABLE * size, "given": Given.size() * size, "placed": Placed.size() * size}
            for name, length in rows.items():
                parts[name] = end
                end = _up(end + length)
            found.append(parts)
        return found, end

    def _lay_queues(self) -> None:
        for number, (size, parts) in enumerate(zip(self._sizes, self._parts, strict=True)):
            queue = self.twin.queues[number]
            queue.num = size
            queue.keeps_order = int(self._device.queues[number].in_order)
            for name, offset in parts.items():
                setattr(queue, name, self.twin.base + offset)

    @staticmethod
    def _map(name: str, size: int) -> GuestMemory:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        memory = GuestMemory()
        memory.map(0, fd, size)
        memory.set_table([{"region": 0, "gpa": 0, "size": size, "writable": True}])
        return memory

    @staticmethod
    def _broken(queue: int, text: str) -> None:
        raise ProtocolError(f"the twin of {text}", field="queue")


assert LIMIT >= MAX_DATA
assert QueueStatistics.offset("bytes_written") == QueueStatistics.offset("bytes_read") + 8
