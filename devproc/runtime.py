"""A device process from START to its end: one thread, one loop, asleep in poll(2) whenever there is nothing to do.

What wakes it: its doorbell (or a message KICK), any other message of the core, a packet of the keeper (STOP, or its
end-of-file), a descriptor that the device itself watches, and twice a second the heartbeat. What is in flight when it
is killed is in the in-flight table; nothing that matters is anywhere else.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

import zmq

from devproc.blk.network import use_outlet
from devproc.breaks import Breaks
from devproc.device import Device, MmioDevice, VirtioDevice
from devproc.engine import load_engine
from devproc.loop import Reason
from devproc.queues import Pages, Queues
from devproc.recorder import Recorder
from devproc.request import Request
from devproc.sandbox import Sandbox
from devproc.session import Session, State
from native.memory import Area
from proto.channel import Channel, Packet
from proto.doorbell import NO_BELL, Signal
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed, ImageLocked, ProtocolError
from proto.memory import GuestMemory
from proto.messages import MAX_BODY, message_fields
from proto.pages import PAGE_SIZE, DeviceToCore, check_pages
from proto.trace import NO_QUEUE, TRACE_SIZE, TracePoint, text_words

__all__ = ["Runtime"]

HEARTBEAT = 0.5  # seconds: an idle device shows this often that it lives, and looks for what it was not told of
SERVICE_NS = 1_000_000  # a busy device looks at its messages this often
CONNECT_DEADLINE = 20.0  # seconds for the core to accept the connection; it listens before there is a START
RETRY = 0.01  # seconds until a message that ZeroMQ would not take is tried again
_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)  # ints: enums are slow
HIGH_WATER = 1000  # messages ZeroMQ may hold for a core that does not read


class Runtime:
    """The process's one object. `run` returns when the keeper said STOP or has gone."""

    def __init__(self, channel: Channel, start: Packet, make_device: Callable[[Packet], Device]) -> None:
        self.stopping = False
        self._channel = channel
        self._body = start.body
        self._epoch: int = start.body["epoch"]
        self._candidate: bool = start.body.get("candidate", False)  # until TAKE_OVER, pages and rings are another's
        self._line: bool | None = None  # what a candidate would have its interrupt line be
        self._level: int = start.body.get("log_level", 20)
        self._due = 0  # CALLs that ZeroMQ would not take, a bit a queue
        self._engine = load_engine()
        self._listens = start.fds.pop("kick", -1)  # the doorbell that the core rings
        self._pages = self._map_pages(start)
        self._waiting = _word(self._pages.device, "waiting")  # what is served now may wait for the host
        self._memory = self._map_memory(start)
        self._poll = select.poll()
        self._watched: dict[int, tuple[Callable[[], None] | None, int]] = {}  # descriptor → what to call, events
        self._ticked = time.monotonic()
        self._queues: Queues | None = None
        self.sandbox = Sandbox(start.body)
        self.sandbox.begin()
        self._socket = self._connect(start.body["endpoint"])
        self.sandbox.seal()
        if "outlet" in start.fds:
            use_outlet(start.fds.pop("outlet"))
        tap = start.fds.pop("tap", None)
        rules = start.fds.pop("rules", None)
        self.device = make_device(start)
        self.device.log, self.device.watch, self.device.unwatch = self.log, self.watch, self.unwatch
        self.device.descriptors = start.fds  # those that are left
        self.device.store, self.device.unstore = self._store, self._unstore
        self.device.traced = self._trace_call
        self.device.away = lambda why: self._tell("STATE", {"state": why, "away": bool(why)})
        self._start_device(start)
        self._queues = self._make_queues()
        self._own_loop, self._any_loop = self._choose_loop()
        self._run_loop = self._own_loop
        if rules is not None:
            self._set_rules(start.body.get("rules", []), rules)
        self._session = Session(
            self.device,
            self._queues,
            self._memory,
            self._engine,
            self._pages.device.address,
            self._epoch,
            self._send,
        )
        for fd in (int(self._socket.fd), channel.fileno()):
            self._poll.register(fd, select.POLLIN)
        if not self._candidate:
            self._listen()
        if isinstance(self.device, VirtioDevice):
            self.device.config_changed = self._config_changed
        if isinstance(self.device, VirtioDevice) and self._queues is not None:
            self.device.want, self.device.posted = self._queues.want, self._queues.posted
        if isinstance(self.device, MmioDevice):
            self.device.set_interrupt = self._set_interrupt
            if not self._candidate:
                self._set_interrupt(False)
        self._recorder = Recorder(self._engine, self.device, self._queues, self._epoch)
        self._tap = tap  # of a candidate, until it is the device
        self._begin_recording()
        self._session.candidate = self._candidate
        self._session.take_over = self._take_over
        self.device.quiet = lambda: self._session.state is State.QUIET

    def run(self) -> None:
        """Say HELLO and serve. Raises ConfigError when the core refuses this process."""
        self._trace(TracePoint.STARTED, 0, 0, self._epoch, os.getpid(), 0, self.device.id)
        self._session.hello(os.getpid())
        heard = time.monotonic()
        while not self.stopping:
            reason = self._turn() if not self._candidate else Reason.SLEEP
            timeout = 0.0
            if reason == Reason.SLEEP:
                timeout = RETRY if self._due else max(0.0, self._next_look() - time.monotonic())
            self._wait(timeout)
            self._tend_breaks()
            self._session.settle()
            if time.monotonic() - self._ticked >= HEARTBEAT:
                self._ticked = time.monotonic()
                self.device.tick()
                self._session.repeat()
            if self._session.state is State.CONNECTING and time.monotonic() - heard > HEARTBEAT:
                heard = time.monotonic()
                self._session.hello(os.getpid())  # the first one, or its answer, was lost
            if self._session.refused is not None:
                raise ConfigError(f"the core refused {self.device.id}: {self._session.refused}")

    def passive(self) -> list[int]:
        """The queues whose buffers wait for something to come; a stand-in leaves them alone."""
        queues = self.device.queues if isinstance(self.device, VirtioDevice) else ()
        return [index for index, queue in enumerate(queues) if queue.passive or queue.on_demand]

    def watch(self, fd: int, ready: Callable[[], None] | None, events: int = select.POLLIN) -> None:
        """Call `ready` whenever one of `events` is true of the descriptor; what it was watched for before is
        forgotten. None: the device's loop looks at it by itself, and needs only be woken."""
        self._watched[fd] = ready, events
        self._poll.register(fd, events)
        self._lay_polled()

    def unwatch(self, fd: int) -> None:
        """The descriptor no longer concerns the loop; it may be closed now."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)
            self._lay_polled()

    def close(self) -> None:
        """An orderly end: what was taken is finished, what was written is stored."""
        self.device.stop()
        self._socket.close(0)
        self._context.term()

    def log(self, text: str, level: int = 20) -> None:
        """One line for the device's log, which the keeper writes."""
        if level >= self._level:
            self._tell("LOG", {"level": level, "text": text})

    # -- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> int:
        """Serve the queues until there is a reason to look elsewhere."""
        queues = self._queues
        if queues is None:
            return self._run_loop()
        queues.sleep_until(int(self._next_look() * 1e9) if self._may_doze(queues) else 0)
        reason = self._run_loop()
        self._waiting[0] = self.device.waits
        if queues.careful.active and queues.go_on() and reason == Reason.SLEEP:
            reason = Reason.SERVICE  # nobody has looked at those yet
        if reason == Reason.WORK:
            queues.work()
        elif reason == Reason.BROKEN:
            queues.report_broken()
        self._waiting[0] = 0
        calls = queues.take_calls() | self._due
        if calls:
            self._send_calls(calls)
        return reason

    def _may_doze(self, queues: Queues) -> bool:
        """May machine code sleep? Not where something waits that is Python's, and has no descriptor to say so."""
        waits = self._due or queues.careful.active or self._session.waits
        return not (waits or self._events() & _POLLIN)

    def _next_look(self) -> float:
        """When Python must look again, by time.monotonic()."""
        return self._ticked + (self._queues.breaks.patience(HEARTBEAT) if self._queues is not None else HEARTBEAT)

    def _wait(self, timeout: float) -> None:
        """Sleep, and handle whatever came. ZeroMQ's descriptor is edge-triggered, and sending may swallow an edge:
        its events are looked at before every sleep, and drained."""
        events = self._events()
        if not events & _POLLIN:
            for fd, _ in self._poll.poll(timeout * 1000):
                if fd == self._channel.fileno():
                    self._from_keeper()
                elif fd == self._listens:
                    self._engine.silence_bell(fd)
                elif fd in self._watched:
                    ready, _ = self._watched[fd]
                    if ready is not None:
                        ready()
                else:
                    events = _POLLIN  # perhaps: then recv says that there is nothing
        while events & _POLLIN and not self.stopping:
            try:
                data = self._socket.recv(_NOBLOCK)
            except zmq.Again:
                return
            self._from_core(data)
            if timeout:
                return  # awake: serve first; what else there is, is found before the next sleep
            events = self._events()

    def _events(self) -> int:
        return int(self._socket.get(_EVENTS))

    def _from_core(self, data: bytes) -> None:
        self._trace_message(TracePoint.MESSAGE_IN, data)
        self._recorder.message(data, message_fields(data)[1], out=False)
        try:
            self._session.receive(data)
        except ProtocolError as error:
            self.log(f"{self.device.id}: dropped a message: {error.describe()}", 30)

    def _from_keeper(self) -> bool:
        """Take what the keeper says. False: nothing, or it is gone."""
        try:
            packet = self._channel.recv(0)
        except DeadlineMissed:
            return False
        except ChannelClosed:
            self.stopping = True
            return False
        tap = packet.fds.pop("tap", None)
        rules = packet.fds.pop("rules", None)
        packet.close()
        if packet.kind == "STOP":
            self.stopping = True
        elif packet.kind == "RULES":
            self._set_rules(packet.body.get("rules", []), rules)
        elif packet.kind == "HELD" and self._queues is not None:
            self._queues.breaks.order(packet.body)
        elif packet.kind == "RECORD":
            self._recorder.end()
            self._tap = tap
            self._begin_recording()
        elif packet.kind == "TELL":
            self.device.told(str(packet.body.get("kind", "")), packet.body)
        return True

    # -- rules -----------------------------------------------------------------------------------------------------

    def _set_rules(self, rules: list[dict[str, Any]], fd: int | None) -> None:
        """These stop or change requests from now on; with none, the device's own loop serves again."""
        if self._queues is not None and isinstance(self.device, VirtioDevice):
            self._queues.breaks.set_rules(rules, fd)
            general = self.device.readable(self._queues.breaks.active or self._body.get("readable", False))
            self._run_loop = self._any_loop if general else self._own_loop
        if fd is not None:
            os.close(fd)

    def _tend_breaks(self) -> None:
        """Let go what was delayed long enough, and tell the keeper what is held. A candidate holds nothing, and does
        not speak for the device."""
        if self._queues is not None and self._queues.breaks.watched and not self._candidate:
            self._queues.breaks.tick()
            if self._queues.breaks.changed:
                self._tell("HELD", self._queues.breaks.report())

    # -- the trace -------------------------------------------------------------------------------------------------

    def _trace(self, point: TracePoint, head: int, position: int, id: int, a: int, b: int, text: str = "") -> None:
        ring = self._pages.trace_address
        if ring:
            words = text_words(text)
            self._engine.trace(ring, time.monotonic_ns(), point, NO_QUEUE, head, position, id, a, b, *words)

    def _trace_call(self, request: Request, call: str, nanoseconds: int, error: int = 0) -> None:
        """Any thread."""
        ring = self._pages.trace_address
        if ring:
            words = text_words(call)
            now, queue, id = time.monotonic_ns(), request.queue, request.number
            self._engine.trace(ring, now, TracePoint.BACKEND, queue, request.head, 0, id, nanoseconds, error, *words)

    def _trace_message(self, point: TracePoint, data: bytes) -> None:
        number, seq, a, flags = message_fields(data)
        self._trace(point, 0, number, seq, a, flags)

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> bool:
        """Never blocks: a core that does not read must not stop its devices."""
        try:
            self._socket.send(data, _NOBLOCK)
        except zmq.Again:
            return False
        self._trace_message(TracePoint.MESSAGE_OUT, data)
        self._recorder.message(data, message_fields(data)[1], out=True)
        return True

    def _send_calls(self, calls: int) -> None:
        self._due = calls
        while self._due:
            queue = self._due.bit_length() - 1
            if not self._session.post("CALL", {"queue": queue}):
                return
            self._due &= ~(1 << queue)

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        try:
            self._channel.send(kind, body)
        except ChannelClosed:
            self.stopping = True

    def _store(self, name: str, fd: int) -> None:
        """The packet is the keeper's from now on, whatever becomes of this process."""
        self._channel.send("STORE", {}, {name: fd})

    def _unstore(self, name: str) -> None:
        self._tell("UNSTORE", {"names": [name]})

    def _broken(self, queue: int, text: str) -> None:
        """The driver broke a queue: the core sets DEVICE_NEEDS_RESET."""
        self.log(f"{self.device.id}: {text}", 30)
        self._session.say("ERR", {"text": f"{self.device.id}: {text}", "queue": queue, "needs_reset": True})

    def _config_changed(self) -> None:
        device = self.device
        assert isinstance(device, VirtioDevice)
        device.config_generation = (device.config_generation + 1) & 0xFFFFFFFF
        self._session.say("CONFIG_CHANGED", {"config": device.config_bytes(), "generation": device.config_generation})

    def _set_interrupt(self, level: bool) -> None:
        if self._candidate:
            self._line = level
            return
        pages, engine = self._pages, self._engine
        page = pages.device.address
        if not engine.set_irq_level(page, int(level)):
            return
        if engine.call_core(page, pages.core.address, 0, pages.bell) == Signal.MESSAGE:
            self._send_calls(self._due | 1)

    # -- a swap ----------------------------------------------------------------------------------------------------

    def _start_device(self, start: Packet) -> None:
        """Open what the device needs. A candidate that needs what its predecessor still holds says WAITING, and tries
        again when it hears GO; STORED packets before that bring what the predecessor has left meanwhile."""
        hint = "An image that both use is opened when the old process has closed it."
        if not (self._candidate and (self.device.starts_late or start.body.get("late"))):
            try:
                self.device.start()
                return
            except ImageLocked as error:
                if not self._candidate:
                    raise
                hint = error.message
        self._tell("WAITING", {"reason": hint})
        while (packet := self._channel.recv()).kind == "STORED":
            for name, fd in packet.fds.items():
                if name in start.fds:
                    os.close(start.fds[name])
                start.fds[name] = fd
        packet.close()
        if packet.kind != "GO":
            raise ChannelClosed("told to stop before the start")
        self.device.start()

    def _begin_recording(self) -> None:
        """If there is a tap, and this process is the device: a tap has one writer."""
        if self._tap is not None and not self._candidate:
            tap, self._tap = self._tap, None
            self._recorder.begin(tap, self._session.status)

    def _take_over(self) -> None:
        """The predecessor is fenced: this process is the device now."""
        while self._from_keeper():  # what it said before, if it did: a tap, rules
            pass
        self._candidate = False
        _write_word(self._pages.device, "awake", 0)
        _write_word(self._pages.device, "epoch", self._epoch)
        self._listen()
        self.device.taken_over()
        self._begin_recording()
        if self._line is not None:
            self._set_interrupt(self._line)

    # -- beginning -------------------------------------------------------------------------------------------------

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        self._context: zmq.Context[Any] = zmq.Context()
        socket = self._context.socket(zmq.PAIR)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.maxmsgsize = 2 * MAX_BODY
        socket.immediate = True  # it can be written to when there is a connection: after that, none is made any more
        socket.connect(endpoint)
        if not socket.poll(int(CONNECT_DEADLINE * 1000), zmq.POLLOUT):
            raise ConfigError(f"the core does not answer at {endpoint}")
        return socket

    def _map_pages(self, start: Packet) -> Pages:
        core = _map(start, "core_to_device", PAGE_SIZE, writable=False)
        device = _map(start, "device_to_core", PAGE_SIZE)
        check_pages(core.view(), device.view())
        if not self._candidate:
            _write_word(device, "awake", 0)
            _write_word(device, "epoch", self._epoch)
        inflight = None
        if "inflight" in start.fds:
            inflight = _map(start, "inflight", os.fstat(start.fds["inflight"]).st_size)
        trace = _map(start, "trace", TRACE_SIZE) if "trace" in start.fds else None
        return Pages(core, device, inflight, trace, start.fds.pop("call", NO_BELL))

    def _listen(self) -> None:
        """From now on the doorbell wakes this process, and so no message need to."""
        if self._listens >= 0:
            os.set_blocking(self._listens, False)  # whatever a predecessor made of it
            self._poll.register(self._listens, select.POLLIN)
            _write_word(self._pages.device, "listens", self._epoch)
        self._lay_polled()

    def _lay_polled(self) -> None:
        """Tell the loop what it may sleep on."""
        if self._queues is None:
            return
        wakers = [(fd, events) for fd, (ready, events) in self._watched.items() if ready is None]
        others = [(fd, events) for fd, (ready, events) in self._watched.items() if ready is not None]
        others += [(int(self._socket.fd), select.POLLIN), (self._channel.fileno(), select.POLLIN)]
        self._queues.sleep_on([(self._listens, select.POLLIN), *wakers, *others], 1 + len(wakers))

    def _map_memory(self, start: Packet) -> GuestMemory:
        memory = GuestMemory()
        for region in start.body.get("regions", []):
            number = region["id"]
            dirty = start.fds.pop(f"dirty{number}", None)
            memory.map(number, _take(start, f"region{number}"), region["size"], dirty)
        return memory

    def _make_queues(self) -> Queues | None:
        if not isinstance(self.device, VirtioDevice):
            return None
        queues = Queues(self.device, self._engine, self._memory, self._pages, self._broken)
        queues.breaks = Breaks(self.device, str(self._body.get("stands_for") or self._body.get("device", "")))
        if self._body.get("careful", False):
            queues.careful.begin(self._body.get("condemned", []))
        return queues

    def _choose_loop(self) -> tuple[Callable[[], int], Callable[[], int]]:
        """The loop that serves, and the one for the readable path: the device's own machine code, or else the general
        one; the general one; or (no queues) the heartbeat alone."""
        engine, queues, page = self._engine, self._queues, self._pages.device
        if queues is None:
            return (lambda: _beat(page),) * 2
        own = self.device.native_loop(engine, queues) if isinstance(self.device, VirtioDevice) else None
        general = lambda: engine.wait_for_work(queues.loop, SERVICE_NS)  # noqa: E731
        return own or general, general


def _map(start: Packet, name: str, size: int, *, writable: bool = True) -> Area:
    fd = _take(start, name)
    try:
        if os.fstat(fd).st_size < size or size == 0:
            raise ConfigError(f"the segment {name} is too small")
        return Area.map_fd(fd, size, writable=writable, shared=True, live_peer=True)
    finally:
        os.close(fd)


def _take(start: Packet, name: str) -> int:
    try:
        return start.fds.pop(name)
    except KeyError:
        raise ConfigError(f"START carries no descriptor {name}") from None


def _word(page: Area, field: str) -> memoryview:
    at = DeviceToCore.offset(field)
    return page.view()[at : at + 4].cast("I")


def _write_word(page: Area, field: str, value: int) -> None:
    _word(page, field)[0] = value


def _beat(page: Area) -> int:
    """The heartbeat of a device without queues, which is never awake."""
    at = DeviceToCore.offset("heartbeat")
    word = page.view()[at : at + 8].cast("Q")
    word[0] += 1
    return Reason.SLEEP
