"""Frames that have arrived for a driver, under rules (`devproc.breaks`): held, delayed, lost or changed before any of
the driver's buffers is taken.

While there are rules the machine code stops at each message that it has read and accepted, and `judge` says whether it
goes on. One that is held is in none of the driver's rings, so that others pass it: it is kept in the rules' room
(`proto.room`), where a successor of this process finds it. What goes on again is put back into the machine code's
hands as if it had just been read (`deliver`).

Promises: a held frame outlives the process, and is delivered at least once. Does not: keep more than there is room for;
what comes then is lost, as on a full cable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from devproc.breaks import Breaks, Held, change
from devproc.net.offload import HEADER
from devproc.request import Buffer, Request
from proto.faults import STAGES, Rule
from proto.room import Entry, Room

__all__ = ["Arrivals"]


class Arrival(Request):
    """A message that has come: header and frame, as the driver will read them."""

    __slots__ = ("block", "entry")
    arrived = True

    def __init__(self, data: memoryview, entry: Entry, block: int | None = None) -> None:
        size = len(data)
        super().__init__(
            entry.queue,
            0,
            [],
            [Buffer(0, 0, size)],
            lambda region, offset, length: data[offset : offset + length],
            again=block is not None,
            number=entry.number,
        )
        self.written = size
        self.entry = entry
        self.block = block  # in the room


class Arrivals:
    """The frames that have arrived at one card; `net` is the machine code's memory, `message` its message."""

    def __init__(self, net: Any, message: memoryview, engine: Any, breaks: Breaks, log: Callable[..., None]) -> None:
        self.lost = 0  # failed by a rule: errors, for the statistics
        self._net = net
        self._message = message
        self._engine = engine
        self._breaks = breaks
        self._log = log
        self._room: Room | None = None
        self._going: deque[Arrival] = deque()
        self._current: Arrival | None = None  # out of the room, in the machine code's hands
        self._full = False

    def before(self) -> None:
        """The machine code is about to run: give it the next of the frames that go on."""
        if self._room is None and self._breaks.room is not None:
            self._take_over(Room(self._breaks.room))
        net = self._net
        while self._going and net.length == 0:
            frame = self._going.popleft()
            self._current = frame
            if not frame.entry.complete and not self._passes(frame, ["complete"]):
                self._current = None
                continue
            net.length = frame.written
            self._message[: frame.written] = b"".join(frame.views(0, frame.written))
            net.accepted = net.judged = 1
            net.vouched = net.segment = 0
            if not self._engine.net_fits(net):
                net.length = 0
                self._forget(frame)
        net.stop = int(bool(self._going))

    def after(self) -> bool:
        """The machine code has run. True: there is more for it to do at once."""
        net = self._net
        if net.length == 0:
            if self._current is not None:
                self._forget(self._current)
            return bool(self._going)
        if not (net.readable and net.accepted) or net.judged:
            return False
        number = self._room.number() if self._room is not None else 0
        frame = Arrival(self._message[: net.length], Entry(self._engine.net_queue(net), number, 0))
        net.judged = 1
        if not self._passes(frame, list(STAGES)) or not self._engine.net_fits(net):
            net.length = 0
        return True

    def reset(self) -> None:
        """The driver has reset the device: what was on its way to it is gone."""
        self._going.clear()
        self._current = None
        if self._room is not None:
            self._room.clear()

    # -- judging ---------------------------------------------------------------------------------------------------

    def _passes(self, frame: Arrival, stages: list[str]) -> bool:
        """Ask the rules of these stages. False: the frame does not go on, now or ever."""
        for at in stages:
            stopped = self._breaks.judge(at, frame, HEADER)
            if stopped is None:
                continue
            rule, fields = stopped
            if rule.action in ("hold", "delay"):
                self._hold(frame, rule, at, fields)
                return False
            if rule.action != "set":
                self._lose(frame, rule.action)
                return False
            change(frame, at, rule.data, rule.offset)
        return True

    def _hold(self, frame: Arrival, rule: Rule, at: str, fields: dict[str, Any]) -> None:
        assert self._room is not None
        entry = frame.entry
        entry.rule, entry.complete, entry.going = rule.slot, at == "complete", False
        if frame.block is None:
            block = self._room.put(b"".join(frame.views(0, frame.written)), entry)
            if block is None:
                self._log_full()
                return
            frame = Arrival(self._room.data(block), entry, block)
        frame.park()
        held = self._breaks.hold(frame, rule, at, fields)
        self._wait(frame, held)

    def _wait(self, frame: Arrival, held: Held) -> None:
        assert self._room is not None and frame.block is not None
        frame.entry.since, frame.entry.due = held.since, held.due
        self._room.note(frame.block, frame.entry)
        frame.finish = lambda: self._released(frame, held)

    def _released(self, frame: Arrival, held: Held) -> None:
        """It is held no longer."""
        assert self._room is not None and frame.block is not None
        self._breaks.gone(held)
        frame.finish = lambda: None
        if held.then in ("drop", "fail"):
            self._lose(frame, held.then)
            return
        frame.entry.going = True
        self._room.note(frame.block, frame.entry)
        self._going.append(frame)

    def _lose(self, frame: Arrival, how: str) -> None:
        self.lost += how == "fail"
        self._forget(frame)

    def _forget(self, frame: Arrival) -> None:
        if frame is self._current:
            self._current = None
        if frame.block is not None and self._room is not None:
            self._room.free(frame.block)
            self._full = False

    def _log_full(self) -> None:
        if not self._full:
            self._full = True
            self._log("no more frames can be held: what comes is lost", 30)

    # -- a predecessor's -------------------------------------------------------------------------------------------

    def _take_over(self, room: Room) -> None:
        """What a process before this one held: it goes on being held, unless its rule is gone."""
        self._room = room
        for block, entry, data in sorted(room.messages(), key=lambda found: found[1].number):
            frame = Arrival(data, entry, block)
            rule = self._breaks.rule(entry.rule)
            if entry.going or rule is None:
                entry.going = True
                self._going.append(frame)
                continue
            at = "complete" if entry.complete else "pop"
            frame.park()
            fields = self._breaks.tell(at, frame, HEADER)
            self._wait(frame, self._breaks.remember(Held(frame, rule, at, fields, entry.since, entry.due)))
