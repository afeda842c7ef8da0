"""The core's side of a device's session: HELLO, negotiation replayed to every new process, notifications, resets.

One `DeviceLink` a device, all of them owned by the link thread. It binds one ZeroMQ PAIR endpoint an epoch, speaks the
messages of `proto.messages`, and keeps the guest-visible half in a `Port` (the virtio-mmio transport, or the MMIO
window of a device that is not virtio), which is what survives the device process.

The order when a process of a new epoch says HELLO: the layout and the identity are checked, the control pages are
opened for the epoch, and what the guest's driver had already settled is replayed: MEM_TABLE, FEATURES_OK, INFLIGHT,
RING_SETUP and RING_ENABLE for each live queue, STATUS. The device then recovers from its in-flight table.

A hart held by a reset or a queue stop is released when the device answers, or when its process is known to be dead
(nobody else may touch the rings before that), or at once when there is no session. A device that does not answer in
time is reported to the keeper, which fences it; nothing here waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from core.handover import Handover, check_hello
from core.noise import Noise
from proto.errors import BulkheadError, ProtocolError
from proto.messages import MAX_BODY, MESSAGES, Message, decode, encode
from proto.pages import MAX_QUEUES
from proto.throttle import Throttle
from proto.trace import TracePoint
from proto.virtio import Status

HOLD_DEADLINE = 2.0  # seconds a device has for a request that holds a hart, before the keeper is asked to fence it
ANSWER_DEADLINE = 2.0  # seconds for the others; the keeper knows whether the device is busy, or a message was lost
HOLDS = frozenset({"RESET", "GET_BASE", "CONFIG_SET", "MMIO_READ"})  # a hart waits for their answers
SEND_QUEUE = 1000  # messages ZeroMQ may hold for a device that does not read
RECEIVE_QUEUE = 64  # messages ZeroMQ takes from a device before we have
BATCH = 64  # messages of one device before others are heard
LOG_RATE, LOG_BURST = 20, 200  # lines that one device may cause, a second and at once


def _bounded(report: Callable[[str, dict[str, Any]], None]) -> Callable[[str, dict[str, Any]], None]:
    """The same, but for lines beyond what a log can take: a device must not fill the keeper's channel with them."""
    throttle = Throttle(LOG_RATE, LOG_BURST)

    def bounded(kind: str, body: dict[str, Any]) -> None:
        if kind != "LOG" or throttle.allow():
            report(kind, body)

    return bounded


@dataclass(frozen=True)
class Region:
    """One region of guest memory, as MEM_TABLE names it."""

    number: int
    gpa: int
    size: int
    writable: bool = True


@dataclass(frozen=True)
class QueueState:
    """One queue as the driver has set it up; addresses are guest physical."""

    index: int
    size: int
    desc: int
    avail: int
    used: int


class Port(Protocol):
    """The guest-visible half of a device, in the core: what the link needs of it."""

    @property
    def status(self) -> int:
        """Virtio device status."""

    @property
    def driver_features(self) -> int:
        """The features that the driver has accepted."""

    def check(self, hello: dict[str, Any]) -> None:
        """Raises ProtocolError when a process that says this does not fit what the guest has already seen."""

    def config(self) -> bytes:
        """The configuration space that the guest sees."""

    def attach(self, hello: dict[str, Any], epoch: int) -> None:
        """A process of `epoch` is there. Raises ProtocolError when it does not fit what the guest has already seen."""

    def detach(self) -> None:
        """The process is gone; registers stay, notifications wait."""

    def live_queues(self) -> Iterable[QueueState]:
        """The queues that the driver has made ready."""

    def configure(self, config: bytes, generation: int, interrupt: bool) -> None:
        """The configuration space and its generation change together."""

    def answer(self, value: int = 0, sequence: int = 0) -> None:
        """Release the hart that waits for this device; of a read, with its value and sequence number."""

    def needs_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and interrupt."""

    def take_calls(self) -> None:
        """Look at the device's words and raise the interrupt that is due."""

    def kick_failed(self) -> None:
        """A KICK could not be sent: the next notification must be sent again."""


class DeviceLink:
    """One device's session with the core."""

    def __init__(
        self,
        context: zmq.Context[Any],
        name: str,
        port: Port,
        regions: list[Region],
        report: Callable[[str, dict[str, Any]], None],
        queue_size: int,
    ) -> None:
        self.name = name
        self.port = port
        self.epoch = 0
        self.up = False  # HELLO accepted, process not known to be dead
        self.dead = True  # no process may touch the rings now
        self.socket: zmq.Socket[bytes] | None = None
        self.trace_message: Callable[[TracePoint, bytes], None] = lambda point, data: None
        self.trace_session: Callable[[int, bool], None] = lambda epoch, up: None
        self.sent = 0
        self.received = 0
        self._context = context
        self._regions = regions
        self._report = self.report = _bounded(report)
        self._queue_size = queue_size
        self._seq = 0
        self._waiting: dict[int, tuple[str, Callable[[dict[str, Any] | None], None], float]] = {}
        self._owed = 0  # answers due to harts when the process is dead
        self._correlation = 0
        self._served: set[int] = set()  # queues that a device process has begun to serve since the driver set them up
        self._eras = [0] * MAX_QUEUES  # how often the driver has stopped each queue
        self._held: list[Callable[[], None]] | None = None  # what harts want while a swap hands the device over
        self._noise: Noise | None = None  # what loses and garbles messages, when that is wanted
        self.handover = Handover(self, self._bind)

    # -- what the keeper says --------------------------------------------------------------------------------------

    def expect(self, epoch: int, endpoint: str) -> None:
        """Bind the endpoint for a process of `epoch` that is about to start."""
        self._close_socket()
        self.epoch = epoch
        self.up = False
        self.dead = False
        self.socket = self._bind(endpoint)

    def gone(self) -> None:
        """The process is dead: its pidfd said so. Whatever waited for it is answered."""
        self.up = False
        self.dead = True
        self._close_socket()
        self.port.detach()
        self.trace_session(self.epoch, False)
        self._answer_all()
        self._release()
        if not self.handover.epoch:
            self.let_go()

    # -- a swap ----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """From now on, what harts want by message waits until `adopt` or `let_go`."""
        if self._held is None:
            self._held = []

    def let_go(self) -> None:
        """What waited is done."""
        held, self._held = self._held, None
        for action in held or ():
            action()

    def ask(
        self, name: str, body: dict[str, Any], then: Callable[[dict[str, Any] | None], None], deadline: float
    ) -> bool:
        """A request of the handover to the process that serves. False when there is none, or it does not read."""
        return self._request(name, body, then, deadline)

    def adopt(self, socket: zmq.Socket[bytes], epoch: int, hello: dict[str, Any]) -> None:
        """The process behind `socket`, whose HELLO was answered, is the device from now on; its predecessor is
        fenced."""
        self._close_socket()
        self.socket, self.epoch = socket, epoch
        self.up = False
        self._answer_all()
        try:
            self.port.attach(hello, epoch)
        except ProtocolError as error:  # the driver has settled something else since it was checked
            self._report("REFUSED", {"id": self.name, "epoch": epoch, "error": error.describe()})
            return
        self.dead = False
        self.up = True
        self.trace_session(epoch, True)

        def taken_over(body: dict[str, Any] | None) -> None:
            if body is not None:
                self._report("CONNECTED", {"id": self.name, "epoch": epoch, "config": hello["config"]})

        self._request("TAKE_OVER", {}, taken_over)
        self._replay(hello)
        self._tell_seen(hello)
        self._release()
        self.let_go()

    def _answer_all(self) -> None:
        """What the process was asked, it will not answer any more."""
        waiting, self._waiting = self._waiting, {}
        for _, then, _ in waiting.values():
            then(None)

    # -- what the guest does ---------------------------------------------------------------------------------------

    def notify(self, queue: int) -> None:
        """The driver wrote QueueNotify and the device sleeps."""
        if not self._post("KICK", {"queue": queue}):
            self.port.kick_failed()

    def status_written(self, status: int) -> None:
        """The driver wrote the status register; 0 holds the hart until the device is quiet or dead."""
        if self._held is not None:
            self._held.append(lambda: self.status_written(status))
            return
        if status == 0:
            self._set_up_anew(range(MAX_QUEUES))
            self._hold("RESET", {})
        elif self.up:
            if status & Status.FEATURES_OK and not status & Status.DRIVER_OK:
                self._request("FEATURES_OK", {"features": self.port.driver_features})
            if status & Status.DRIVER_OK:
                for queue in self.port.live_queues():
                    self._start_queue(queue)
                self._tell_rings()
            self._request("STATUS", {"status": status})

    def queue_written(self, queue: int, ready: bool) -> None:
        """The driver wrote QueueReady; 0 holds the hart until the queue is quiet."""
        if self._held is not None:
            self._held.append(lambda: self.queue_written(queue, ready))
            return
        if not ready:
            self._set_up_anew([queue])
            self._hold("GET_BASE", {"queue": queue})
        elif self.up and self.port.status & Status.DRIVER_OK:
            for state in self.port.live_queues():
                if state.index == queue:
                    self._start_queue(state)
            self._tell_rings()

    def config_written(self, offset: int, size: int, value: int) -> None:
        """The driver wrote the configuration space; the hart waits for what it is now."""
        if self._held is not None:
            self._held.append(lambda: self.config_written(offset, size, value))
            return

        def done(body: dict[str, Any] | None) -> None:
            if body is not None:
                self.port.configure(body["config"], body["generation"], interrupt=False)
                self._tell("SEEN", config=body["config"], config_generation=body["generation"])
            self.port.answer()

        if not self._request(
            "CONFIG_SET", {"offset": offset, "data": value.to_bytes(size, "little")}, done, HOLD_DEADLINE
        ):
            self.port.answer()

    def mmio_read(self, offset: int, size: int, sequence: int) -> None:
        """A hart reads a register of a device that is not virtio and waits for the value."""
        if self._held is not None:
            self._held.append(lambda: self.mmio_read(offset, size, sequence))
            return

        def done(body: dict[str, Any] | None) -> None:
            if body is not None:
                self.port.answer(body["value"], sequence)

        self._request("MMIO_READ", {"offset": offset, "size": size, "sequence": sequence}, done, HOLD_DEADLINE)

    def mmio_write(self, offset: int, size: int, sequence: int, value: int) -> None:
        """A hart wrote a register of a device that is not virtio."""
        if self._held is not None:
            self._held.append(lambda: self.mmio_write(offset, size, sequence, value))
            return
        self._post("MMIO_WRITE", {"offset": offset, "size": size, "sequence": sequence, "value": value})

    # -- what the device says --------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Handle some of the messages that have arrived; what is left is heard in the next turn, after the other
        devices'. A malformed one is reported and dropped; the session goes on."""
        for _ in range(BATCH):
            if self.socket is None or not int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            data = self.socket.recv(zmq.NOBLOCK)
            self.received += 1
            for arrived in self.through(data):
                self.trace_message(TracePoint.MESSAGE_IN, arrived)
                try:
                    message = decode(arrived)
                    if message.epoch == self.epoch:
                        self._dispatch(message)
                except BulkheadError as error:
                    self._report("LOG", {"id": self.name, "level": 30, "text": f"{self.name}: {error.describe()}"})

    def overdue(self, now: float) -> bool:
        """True when requests have not been answered in time; they are reported to the keeper, again and again."""
        late = [seq for seq, (_, _, deadline) in self._waiting.items() if now > deadline]
        if late:
            requests = ", ".join(self._waiting[seq][0] for seq in late)
            held = any(self._waiting[seq][0] in HOLDS for seq in late)
            self._report("OVERDUE", {"id": self.name, "epoch": self.epoch, "request": requests, "held": held})
        for seq in late:
            name, then, _ = self._waiting[seq]
            self._waiting[seq] = (name, then, now + ANSWER_DEADLINE)
        return bool(late)

    def noise(self, lost: int = 0, garbled: int = 0, doubled: int = 0, seed: int = 0) -> None:
        """Lose, garble and double so many of a thousand messages from now on; with all of them 0, no more."""
        if self._noise is not None:
            self._report("LOG", {"id": self.name, "level": 20, "text": f"{self.name}: messages: {self._noise.told()}"})
        self._noise = Noise(lost, garbled, doubled, seed) if lost or garbled or doubled else None

    def through(self, data: bytes) -> list[bytes]:
        """What becomes of a message on its way."""
        return [data] if self._noise is None else self._noise.through(data)

    def close(self) -> None:
        """End the session without a word; the keeper ends the process."""
        self.handover.close()
        self._close_socket()

    def _dispatch(self, message: Message) -> None:
        kind = MESSAGES[message.name]
        if message.reply:
            waiting = self._waiting.pop(message.seq, None)
            if waiting is not None:
                self._answered(waiting[0], waiting[1], message)
            return
        if kind.sender != "device":
            raise ProtocolError(f"{message.name} is the core's to send", field="type")
        if message.name == "HELLO":
            self._hello(message)
        elif not self.up:
            raise ProtocolError(f"{message.name} before HELLO", field="type")
        elif message.name == "CALL":
            self.port.take_calls()
        elif message.name == "CONFIG_CHANGED":
            self._send(message.name, {}, seq=message.seq, reply=True)
            self.port.configure(message.body["config"], message.body["generation"], interrupt=True)
            self._tell("SEEN", config=message.body["config"], config_generation=message.body["generation"])
        elif message.name == "LOG":
            self._report("LOG", {"id": self.name, **message.body})
        elif message.name == "ERR":
            self._send(message.name, {}, seq=message.seq, reply=True)
            self._report("LOG", {"id": self.name, "level": 40, "text": message.body["text"]})
            if message.body["needs_reset"]:
                self.port.needs_reset()

    def _answered(self, name: str, then: Callable[[dict[str, Any] | None], None], message: Message) -> None:
        if message.error:
            text = f"{self.name} refused {name}: {message.body['text']}"
            self._report("LOG", {"id": self.name, "level": 40, "text": text})
            then(None)
        else:
            then(message.body)

    def _hello(self, message: Message) -> None:
        body = message.body
        try:
            check_hello(body, self.name, self.epoch)
            self.port.attach(body, self.epoch)
        except ProtocolError as error:
            refusal = {"code": type(error).__name__, "text": error.describe()[:4000]}
            self._send("HELLO", refusal, seq=message.seq, reply=True, error=True)
            self._report("REFUSED", {"id": self.name, "epoch": self.epoch, "error": error.describe()})
            return
        self.up = True
        self.trace_session(self.epoch, True)
        self._send("HELLO", {}, seq=message.seq, reply=True)
        self._replay(body)
        self._tell_seen(body)
        self._release()  # a new process has touched no ring that was not replayed to it
        self._report("CONNECTED", {"id": self.name, "epoch": self.epoch, "config": body["config"]})

    def _tell_seen(self, hello: dict[str, Any]) -> None:
        """Tell the keeper what the guest takes the device for, as a stand-in would have to be."""
        names = ("device_id", "queues", "features", "config", "config_generation", "mmio_size")
        self._tell("SEEN", **{name: hello[name] for name in names if name in hello})

    def _tell_rings(self) -> None:
        """Tell the keeper where the queues are, which a dead process cannot be asked."""
        queues = [dataclasses.asdict(queue) for queue in self.port.live_queues()]
        self._tell("RINGS", queues=queues, features=self.port.driver_features)

    def _tell(self, kind: str, **body: Any) -> None:
        self._report(kind, {"id": self.name, "epoch": self.epoch, **body})

    def _release(self) -> None:
        """Let go the harts that wait for a process to be dead, or for its successor."""
        owed, self._owed = self._owed, 0
        for _ in range(owed):
            self.port.answer()

    def _replay(self, hello: dict[str, Any]) -> None:
        """Tell a new process everything that the guest's driver had settled before it came."""
        regions = [
            {"region": region.number, "gpa": region.gpa, "size": region.size, "writable": region.writable}
            for region in self._regions
        ]
        self._request("MEM_TABLE", {"regions": regions})
        if hello["queues"]:
            self._request("INFLIGHT", {"queues": len(hello["queues"]), "size": self._queue_size})
        status = self.port.status
        if status & Status.FEATURES_OK:
            self._request("FEATURES_OK", {"features": self.port.driver_features})
        if status & Status.DRIVER_OK:
            for queue in self.port.live_queues():
                self._start_queue(queue)
        if status:
            self._request("STATUS", {"status": status})

    # -- sending ---------------------------------------------------------------------------------------------------

    def _start_queue(self, queue: QueueState) -> None:
        try:
            setup = {
                "queue": queue.index,
                "size": queue.size,
                "desc": self._locate(queue.desc, 16 * queue.size),
                "avail": self._locate(queue.avail, 6 + 2 * queue.size),
                "used": self._locate(queue.used, 6 + 8 * queue.size),
                "fresh": queue.index not in self._served,
            }
        except ProtocolError as error:
            text = f"queue {queue.index}: {error}; the driver is at fault"
            self._report("LOG", {"id": self.name, "level": 40, "text": text})
            self.port.needs_reset()
            return
        self._request("RING_SETUP", setup)

        era = self._eras[queue.index]

        def enabled(body: dict[str, Any] | None) -> None:
            if body is not None and self._eras[queue.index] == era:
                self._served.add(queue.index)

        self._request("RING_ENABLE", {"queue": queue.index, "enabled": True}, enabled)

    def _set_up_anew(self, queues: Iterable[int]) -> None:
        """The driver stopped these queues: the next setup is a fresh one."""
        for queue in queues:
            self._eras[queue] += 1
            self._served.discard(queue)

    def _locate(self, gpa: int, size: int) -> dict[str, int]:
        """A guest physical range as region and offset."""
        for region in self._regions:
            if region.gpa <= gpa and gpa + size <= region.gpa + region.size:
                return {"region": region.number, "offset": gpa - region.gpa}
        raise ProtocolError(f"{size} bytes at guest address {gpa:#x} are not in memory", field="address", value=gpa)

    def _hold(self, name: str, body: dict[str, Any]) -> None:
        """Ask for quiet; the hart goes on when the device answers or is dead, whichever comes first."""
        if self.dead:
            self.port.answer()
            return

        def done(_: dict[str, Any] | None) -> None:
            self.port.answer()

        if not self.up or not self._request(name, body, done, HOLD_DEADLINE):
            self._owed += 1
            if self.up:
                self._report("OVERDUE", {"id": self.name, "epoch": self.epoch, "request": name})

    def _request(
        self,
        name: str,
        body: dict[str, Any],
        then: Callable[[dict[str, Any] | None], None] = lambda _: None,
        deadline: float = ANSWER_DEADLINE,
    ) -> bool:
        if not self.up:
            return False
        self._seq += 1
        self._waiting[self._seq] = (name, then, time.monotonic() + deadline)
        if self._send(name, body, seq=self._seq):
            return True
        del self._waiting[self._seq]
        return False

    def _post(self, name: str, body: dict[str, Any]) -> bool:
        if not self.up:
            return False
        self._seq += 1
        return self._send(name, body, seq=self._seq)

    def _send(self, name: str, body: dict[str, Any], *, seq: int, reply: bool = False, error: bool = False) -> bool:
        """Never blocks. False when the device does not read, or is gone."""
        if self.socket is None:
            return False
        data = encode(name, body, epoch=self.epoch, seq=seq, reply=reply, error=error)
        try:
            for leaving in self.through(data):
                self.socket.send(leaving, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        self.trace_message(TracePoint.MESSAGE_OUT, data)
        self.sent += 1
        return True

    def _bind(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        socket.linger = 0
        socket.sndhwm = SEND_QUEUE
        socket.rcvhwm = RECEIVE_QUEUE
        socket.maxmsgsize = 2 * MAX_BODY
        socket.bind(endpoint)
        return socket

    def _close_socket(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                self.socket.close(0)
            self.socket = None
