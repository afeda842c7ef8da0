"""How a process begins whose predecessors died with the same requests in flight: one suspect at a time, in the open.

START then says `careful`, and which requests are condemned already. What the predecessors left in flight is carried out
one request at a time, each marked in the device's page meanwhile (`QueueStatistics.marked`), and nothing else of that
queue or of any other: when this process dies too, the keeper sees whose fault it was. A condemned request never reaches
the device's code; it is answered with the device's I/O error. When the suspects are through, the process serves as
any other does.

The rule of one request at a time is `proto.ring`'s, so that it also holds in loops of machine code. Here is which
queues it concerns, and in what order they are served. A queue that is served in order gives its requests back to the
available ring (`ring_rewind`), so its suspects come among the others; it is not served alone, which its loop would not
wait for anyhow. Buffers that wait for something to come (`Queue.passive`, `on_demand`) are to blame for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from devproc.device import VirtioDevice
from native.memory import Area
from proto.pages import queue_statistics
from proto.ring import CONDEMNED_MAX, Ring

__all__ = ["Careful"]


class Careful:
    """Which rings are guarded, and which may be served now. Does nothing until `begin`."""

    def __init__(self, device: VirtioDevice, page: Area) -> None:
        self.active = False
        self._page = page
        self._held = False
        self._condemned: dict[int, list[int]] = {}  # queue → counters
        self._passive = {index for index, queue in enumerate(device.queues) if queue.passive or queue.on_demand}
        self._in_order = {index for index, queue in enumerate(device.queues) if queue.in_order}

    def begin(self, condemned: Sequence[Sequence[int]]) -> None:
        """Serve nothing until every queue is known (`release`), and then suspects first. `condemned` are pairs of
        queue and counter."""
        self.active = self._held = True
        for queue, counter in condemned:
            self._condemned.setdefault(queue, []).append(counter)

    def release(self) -> None:
        """The core has told of every queue that the driver has set up."""
        self._held = False

    def guard(self, ring: Ring) -> None:
        """A ring that was just recovered."""
        if not self.active:
            return
        condemned = self._condemned.get(ring.queue, [])[:CONDEMNED_MAX]
        for number, counter in enumerate(condemned):
            ring.condemn[number] = counter
        ring.condemned = len(condemned)
        ring.careful = 0 if ring.queue in self._passive or ring.in_flight == 0 else ring.again_to
        ring.guarded = int(bool(condemned) or ring.careful != 0)

    def forget(self, queue: int | None = None) -> None:
        """The driver has set a queue (None: everything) up anew: counters begin again, and mean other requests."""
        if queue is None:
            self._condemned.clear()
            self.active = self._held = False
        else:
            self._condemned.pop(queue, None)

    def choose(self, rings: list[Ring]) -> list[Ring]:
        """Of the rings that are enabled, those to serve now."""
        if not self.active:
            return rings
        if self._held:
            return []
        suspected = [ring for ring in rings if self._has_suspects(ring)]
        if not suspected:
            self.active = False
        return suspected[:1] or rings

    def _has_suspects(self, ring: Ring) -> bool:
        if ring.careful == 0 or ring.error or ring.queue in self._in_order:
            return False
        return ring.again_left != 0 or queue_statistics(self._page.view(), ring.queue).marked != 0
