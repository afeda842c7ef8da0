"""The relay: a device process as far as core and keeper are concerned, whose device is elsewhere.

It has the guest's memory, the rings and the in-flight table; the device behind it (`devproc.relay.backend`) gets copies
of what each request may read, and says what is to be written. A request stays in flight here until its answer has come,
through lost connections and deaths of either side: what is not answered is sent again in the next session, and a killed
relay's successor finds it in the in-flight table. While there is no connection the guest's requests wait; its reset
does not. What moves requests and answers is machine code (`devproc.relay.carry`), which says what an answer may do.

When the device's process has died with the same requests twice, the next one is sent them one at a time; of what it
dies then, is not sent again, and is answered with an I/O error.

What must outlive this process (which machine, which life, what the device is) lies in memory that the keeper holds.
"""

from __future__ import annotations

import errno
import secrets
import select
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from devproc.device import Queue, VirtioDevice
from devproc.fs.journal import kept_memory
from devproc.kept import KEPT_SIZE, Kept
from devproc.loop import Reason
from devproc.properties import Property
from devproc.relay.carry import Carry, Heard, Held, Out
from devproc.relay.line import Line, address_of, read_curve
from devproc.request import Request
from native.memory import Area
from proto.errors import BackendError, ConfigError, ProtocolError
from proto.relay import MAX_DATA, MAX_LOAD, MAX_WRITES, TARGET, AnswerRecord, Said
from proto.ring import Chain, Segment

__all__ = ["RelayDevice"]

FIRST_DEADLINE = 20.0  # seconds for a device that has never been seen to say what it is
CONFIG_DEADLINE = 1.0  # seconds that the driver's write to the configuration space may take
SERVICE_NS = 1_000_000
LIMIT_MAX = 64 << 20  # bytes of a queue that may be out, whatever the device says
DEATHS = 2  # of the device's process with a request, after which it is sent alone
NOBODY = (1 << 64) - 1
_USED, _COUNT, _UP = (Carry.offset(name) // 4 for name in ("used", "count", "up"))
_REFUSED, _OPEN, _AT = (Carry.offset(name) // 4 for name in ("refused", "open", "at"))
_ANSWER = struct.Struct("<QIIHHHH")  # proto.relay.AnswerRecord
_CHAIN_HEAD = struct.Struct("<HHII")  # proto.ring.Chain, as far as its numbers of segments
assert _ANSWER.size == AnswerRecord.size()
_MASK = (1 << 48) - 1  # what one message may say that was moved
Key = tuple[int, int]  # queue, head


class RelayDevice(VirtioDevice):
    """Whatever the device behind it is."""

    waits = True
    endpoint = Property(str, "", "where the device listens: tcp://HOST:PORT, or ipc://PATH")
    expects = Property(int, 0, "the virtio device type that it must be; 0: any", minimum=0, maximum=255)

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self._python: dict[Key, Request] = {}  # those that came by the readable path
        self._late: deque[Callable[[], None]] = deque()  # what came while nothing may change the guest's memory
        self._alone: Key | None = None  # a suspect that is being carried out
        self._process = 0  # of the device's, as READY says
        self._orderly = False  # it has said that it ends
        self._queues: Any = None
        self._about: dict[str, Any] = {}
        self._life = self._owner = 0
        self._writes: list[dict[str, Any]] = []
        self._written = self._answered = 0  # numbers of CONFIG_SET
        self._kept: Kept
        self._line: Line
        self._watching: dict[int, Callable[[], None]] = {}

    # -- from start to end -----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._kept = Kept(kept_memory(self, "relay", KEPT_SIZE))
        self._remember(self._kept.load())
        keys = read_curve(self.descriptors.pop("curve")) if "curve" in self.descriptors else None
        if keys is None and not self.endpoint.startswith("ipc://"):
            raise ConfigError(f"{self.endpoint} needs keys", hint="Make some: bulkhead keys create DIR. Then: keys=DIR")
        curve = (keys[0], keys[1], keys[2]) if keys else None
        self._line = Line(
            self.endpoint, curve, self._watch, self._unwatch, self._hello, self._heard, self._lost, self._say
        )
        self._line.tick()
        if not self._pump(lambda: bool(self._about), FIRST_DEADLINE):
            raise ConfigError(
                f"nobody answers at {self.endpoint}",
                hint="Does `bulkhead serve` run there, and are these its keys?" if curve else "",
            )
        self._become()
        if not self._line.up:
            self.away(f"waits for {self.endpoint}")

    def stop(self) -> None:
        self._line.close()

    def tick(self) -> None:
        self._line.tick()

    def reset(self) -> None:
        """What was not answered is forgotten here; the device finishes it before it hears of the next life."""
        if self._queues is not None:
            self._engine.carry_forget(self._carry)
        self._python.clear()
        self._late.clear()
        self._alone = None
        self._life += 1
        self._writes.clear()
        self._store()
        self._line.post("RESET", {"life": self._life})

    def negotiated(self) -> None:
        self._line.post("FEATURES", {"features": self.driver_features})

    # -- requests --------------------------------------------------------------------------------------------------

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int]:
        self._engine, self._queues, self._loop = engine, queues, queues.loop
        self._make_carry()
        self.lent = lambda: int(self._words[_OPEN])
        words, carry, loop = self._words, self._carry, queues.loop

        def turn() -> int:
            while self._late and not self.quiet():
                self._late.popleft()()
            reason: int = engine.carry_loop(loop, carry, SERVICE_NS)
            if words[_REFUSED]:
                queue, words[_REFUSED] = words[_REFUSED] - 1, 0
                queues.handle_popped(queue)
            if words[_COUNT]:
                self._send()
            return int(Reason.SERVICE if reason == Reason.WORK else reason)

        return turn

    def readable(self, on: bool) -> bool:
        if on:
            for queue in self._queues.sizes():
                self._queues.ring(queue).parked = 0
        return on

    def handle(self, request: Request) -> None:
        if max(request.readable, request.writable) > MAX_DATA:
            raise BackendError(f"more than {MAX_DATA >> 20} MiB in one request", errno=errno.EMSGSIZE)
        request.park()
        self._python[request.queue, request.head] = request
        self._engine.carry_take(self._carry, request.queue)
        self._send()

    def malformed(self, request: Request) -> None:
        self.handle(request)

    def _send(self) -> None:
        """The message that was made."""
        words = self._words
        if words[_COUNT]:
            load = self._message[: words[_USED]]
            words[_COUNT] = words[_USED] = 0
            if self._line.up and not self._line.post("REQUESTS", {"life": self._life}, load):
                self._line.lose("it does not read")

    def _go_on(self) -> None:
        """In a new session, or when a suspect has been carried out: say what is not answered, or one suspect alone."""
        engine, carry = self._engine, self._carry
        suspect = engine.carry_suspect(carry, DEATHS)
        self._words[_UP] = 0
        if suspect != NOBODY:
            self._alone = queue, head = suspect >> 32, suspect & 0xFFFFFFFF
            engine.carry_next(carry, queue, self._held(queue, head).counter)
            self._send()
            return
        self._alone = None
        for queue in range(len(self.queues)):
            least = 0
            while least := engine.carry_next(carry, queue, least):
                if self._words[_USED] >= TARGET:
                    self._send()
        self._send()
        self._words[_UP] = int(self._line.up)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answers(self, said: Said) -> None:
        if said.body["life"] != self._life:
            return
        if self.quiet() or self._late:
            self._late.append(lambda: self._late_answers(said))
        else:
            self._carry_out(said)

    def _late_answers(self, said: Said) -> None:
        try:
            self._carry_out(said)
        except ProtocolError as error:
            self._line.lose(f"it sends nonsense: {error}")

    def _carry_out(self, said: Said) -> None:
        engine, carry, load = self._engine, self._carry, said.load
        self._words[_AT] = self._words[_AT + 1] = 0
        if self._python:
            self._find_rings()
        while True:
            found = engine.carry_answers(carry, self._loop, address_of(load), len(load))
            if found == Heard.ALL:
                break
            if found == Heard.NONSENSE:
                raise ProtocolError("an answer that fits no request", field="counter")
            carry.at = self._answer_python(load, carry.at)
        for row in said.body["moved"]:
            if self._queues.has(row["queue"]):
                engine.account(self._queues.ring(row["queue"]), row["read"] & _MASK, row["written"] & _MASK, 0)
        if self._alone is not None and self._held(*self._alone).out == Out.NOT:
            self._go_on()

    def _answer_python(self, load: bytes | memoryview, at: int) -> int:
        """An answer for a request that came by the readable path. Returns where the next one is."""
        _, written, status, head, queue, _, _ = _ANSWER.unpack_from(load, at)
        self._engine.carry_settle(self._carry, queue, head)
        request = self._python.pop((queue, head))
        request.write_at(0, load[at + _ANSWER.size : at + _ANSWER.size + written])
        request.failed = status != 0
        request.finish()
        return at + int(_ANSWER.size + (written + 7 & ~7))

    def _find_rings(self) -> None:
        for queue in self._queues.sizes():
            self._carry.rings[queue] = self._queues.ring(queue).address

    # -- deaths of the device --------------------------------------------------------------------------------------

    def _look_at_process(self, process: int) -> None:
        """Is it another one than in the session before? Then some request may be to blame."""
        died = self._process not in (0, process) and not self._orderly
        self._process, self._orderly = process, False
        alone, self._alone = self._alone, None
        if not died or self._queues is None:
            return
        if alone is None:
            self._engine.carry_blame(self._carry)
        elif self._held(*alone).out != Out.NOT:
            self._condemn(*alone)

    def _condemn(self, queue: int, head: int) -> None:
        held = self._held(queue, head)
        self._say(f"queue {queue}: request {held.counter} is not carried out again: the device has died of it", 40)
        self._engine.carry_settle(self._carry, queue, head)
        request = self._python.pop((queue, head), None)
        if request is not None:
            self.failed(request, BackendError("not carried out: process after process died of it", errno=errno.EIO))
            request.failed = True
            refuse: Callable[[], None] = request.finish
        else:
            at = held.chain.address - self._tables.address
            _, _, readable, writable = _CHAIN_HEAD.unpack_from(self._tables_view, at)
            size = Chain.offset("segments") + (readable + writable) * Segment.size()
            chain = memoryview(bytes(self._tables_view[at : at + size]))
            refuse = lambda: self._queues.refuse(queue, chain)  # noqa: E731
        if self.quiet():
            self._late.append(refuse)
        else:
            refuse()

    def _held(self, queue: int, head: int) -> Held:
        return Held(self._carry.held[queue] + head * Held.size())

    # -- the configuration space -----------------------------------------------------------------------------------

    def config_bytes(self) -> bytes:
        return bytes(self._about.get("config", b""))

    def config_written(self, offset: int, data: bytes) -> None:
        if len(self._writes) >= MAX_WRITES:
            self._writes.pop(0)
        self._writes.append({"offset": offset, "data": bytes(data)})
        self._store()
        self._written += 1
        number = self._written
        if self._line.post("CONFIG_SET", {"number": number, "offset": offset, "data": bytes(data)}):
            self._pump(lambda: self._answered >= number or not self._line.up, CONFIG_DEADLINE)

    def _take_config(self, body: dict[str, Any], *, changed: bool) -> None:
        if len(body["config"]) != len(self._about["config"]):
            raise ProtocolError("the configuration space has another size now", field="config")
        if body["config"] != self._about["config"]:
            self._about["config"] = body["config"]
            self._store()
            if changed:
                self.config_changed()

    # -- the line --------------------------------------------------------------------------------------------------

    def _hello(self) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "life": self._life,
            "features": self.driver_features,
            "writes": self._writes,
        }

    def _heard(self, said: Said) -> None:
        body = said.body
        if said.name == "ABOUT":
            self._introduce(body)
        elif said.name == "READY":
            self._take_config(body, changed=True)
            self.away("")
            self._look_at_process(body["process"])
            if self._queues is not None:
                self._go_on()
        elif said.name == "ANSWERS":
            self._answers(said)
        elif said.name == "CONFIG":
            if body["number"] > self._written:
                raise ProtocolError("an answer to a write that was not made", field="number")
            told = body["generation"] != self._about["generation"]
            self._about["generation"] = body["generation"]
            self._take_config(body, changed=body["number"] == 0 and told)
            self._answered = max(self._answered, body["number"])
        elif said.name == "LOG":
            self.log(f"{self.id}: {body['text']}", body["level"])
        elif said.name == "BYE":
            self._orderly = True

    def _introduce(self, body: dict[str, Any]) -> None:
        """ABOUT. What the guest has been told of already must be so again."""
        if self.expects and body["device_id"] != self.expects:
            raise ProtocolError(f"it is a device of type {body['device_id']}, not {self.expects}", field="device_id")
        if not body["queues"] or any(not size or size & (size - 1) for size in body["queues"]):
            raise ProtocolError(f"queues of {body['queues']}", field="queues")
        if not body["bytes"]:
            raise ProtocolError("it takes no requests", field="bytes")
        about = self._about
        if about and (
            any(body[name] != about[name] for name in ("device_id", "queues"))
            or about["features"] & ~body["features"]  # more of them are nothing to a guest that was not offered them
        ):
            raise ProtocolError("it is another device than before", field="device_id")
        if not self._about:
            self._about = body
            self._store()

    def _lost(self, why: str) -> None:
        waiting = len(self._python)
        if self._queues is not None:
            waiting += int(self._words[_OPEN])
            self._words[_UP] = self._words[_USED] = self._words[_COUNT] = 0
            for queue in self._queues.sizes() if not self.quiet() else ():
                self._engine.flush_and_call(self._loop, self._queues.ring(queue))
        self._say(f"{self.endpoint}: lost: {why}; {waiting} requests wait", 30)
        self.away(f"waits for {self.endpoint}: {why}")

    def _say(self, text: str, level: int = 20) -> None:
        self.log(f"{self.id}: {text}", level)

    def _watch(self, fd: int, ready: Callable[[], None], events: int = select.POLLIN) -> None:
        self._watching[fd] = ready
        self.watch(fd, ready, events)

    def _unwatch(self, fd: int) -> None:
        self._watching.pop(fd, None)
        self.unwatch(fd)

    def _pump(self, done: Callable[[], bool], seconds: float) -> bool:
        """Serve the line alone until something is so, or for at most some seconds."""
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            poll = select.poll()
            for fd in self._watching:
                poll.register(fd, select.POLLIN)
            poll.poll(min(left, 0.2) * 1000)
            self._line.tick()
        return True

    # -- what outlives this process --------------------------------------------------------------------------------

    def _become(self) -> None:
        about = self._about
        self.device_id = about["device_id"]
        self.features = about["features"]
        self.config_generation = about["generation"]
        passive = set(about["passive"])
        self.queues = tuple(
            Queue(f"queue{index}", size, passive=index in passive) for index, size in enumerate(about["queues"])
        )

    def _make_carry(self) -> None:
        """The memory of the machine code."""
        sizes = [queue.size for queue in self.queues]
        self._tables = Area.allocate(sum(sizes) * Held.size())
        self._tables_view = self._tables.view()
        self._buffers = [Area.allocate(Carry.size()), Area.allocate(MAX_LOAD)]
        self._carry = carry = Carry(self._buffers[0].address, self._buffers[0])
        self._words = self._buffers[0].view()[: Carry.size() & ~3].cast("I")
        self._message = self._buffers[1].view()
        carry.buffer = self._buffers[1].address
        carry.chain = self._queues.chain.address
        carry.limit = min(self._about["bytes"], LIMIT_MAX)
        carry.passive = sum(1 << queue for queue in set(self._about["passive"]))
        carry.up = int(self._line.up)
        at = self._tables.address
        for number, size in enumerate(sizes):
            carry.held[number], carry.sizes[number] = at, size
            at += size * Held.size()

    def _remember(self, data: bytes) -> None:
        if data:
            kept = msgpack.unpackb(data)
            self._owner, self._life, self._about = kept["owner"], kept["life"], kept["about"]
            self._writes = kept["writes"]
        else:
            self._owner, self._life = secrets.randbits(63), secrets.randbits(62)
            self._store()

    def _store(self) -> None:
        kept = {"owner": self._owner, "life": self._life, "about": self._about, "writes": self._writes}
        data: bytes = msgpack.packb(kept)
        try:
            self._kept.store(data)
        except ValueError:  # many long writes: the latest ones are left out for a successor
            self._kept.store(msgpack.packb(kept | {"writes": []}))
