"""The relay: a device process as far as core and keeper are concerned, whose device is elsewhere.

It has the guest's memory, the rings and the in-flight table; the device behind it (`devproc.relay.backend`) gets copies
of what each request may read, and says what is to be written. A request stays in flight here until its ANSWER has come,
through lost connections and deaths of either side: what is not answered is sent again in the next session, and a killed
relay's successor finds it in the in-flight table. Only an answer to a request that was sent in this session and is not
answered yet touches the guest's memory, and only that request's writable buffers. While there is no connection the
guest's requests wait; its reset does not.

What must outlive this process (which machine, which life, what the device is) lies in memory that the keeper holds.
"""

from __future__ import annotations

import errno
import secrets
import select
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from devproc.device import Queue, VirtioDevice
from devproc.fs.journal import kept_memory
from devproc.kept import KEPT_SIZE, Kept
from devproc.properties import Property
from devproc.relay.line import Line, read_curve
from devproc.request import Request
from proto.errors import BackendError, ConfigError, ProtocolError
from proto.relay import MAX_DATA, MAX_WRITES, Said

__all__ = ["RelayDevice"]

FIRST_DEADLINE = 20.0  # seconds for a device that has never been seen to say what it is
CONFIG_DEADLINE = 1.0  # seconds that the driver's write to the configuration space may take
OVERHEAD = 64  # bytes that count for a request besides its data
Key = tuple[int, int]  # queue, counter


class _Open:
    """A request without an answer."""

    __slots__ = ("cost", "request", "sent", "told")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cost = request.readable + request.writable + OVERHEAD
        self.sent = False  # in this session
        self.told = False  # in any, this process's


class RelayDevice(VirtioDevice):
    """Whatever the device behind it is."""

    waits = True
    endpoint = Property(str, "", "where the device listens: tcp://HOST:PORT, or ipc://PATH")
    expects = Property(int, 0, "the virtio device type that it must be; 0: any", minimum=0, maximum=255)

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self._open: dict[Key, _Open] = {}  # in the order in which they were popped
        self._bytes = self._sent = 0  # of the requests sent in this session and not answered
        self._late: list[Callable[[], None]] = []
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
        self._line.known = bool(self._about)
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
        if self._late and not self.quiet():
            late, self._late = self._late, []
            for finish in late:
                finish()

    def reset(self) -> None:
        """What was not answered is forgotten here; the device finishes it before it hears of the next life."""
        self._open.clear()
        self._late.clear()
        self._bytes = self._sent = 0
        self._life += 1
        self._writes.clear()
        self._store()
        self._line.post("RESET", {"life": self._life})

    def negotiated(self) -> None:
        self._line.post("FEATURES", {"features": self.driver_features})

    # -- requests --------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        if max(request.readable, request.writable) > MAX_DATA:
            raise BackendError(f"more than {MAX_DATA >> 20} MiB in one request", errno=errno.EMSGSIZE)
        request.park()
        self._open[request.queue, request.number] = entry = _Open(request)
        if self._line.up and len(self._open) == self._sent + 1:  # nothing waits before it
            self._send(entry)

    def malformed(self, request: Request) -> None:
        self.handle(request)

    def _send(self, entry: _Open) -> bool:
        """False: not now; the device has as much as it takes."""
        request, about = entry.request, self._about
        if self._sent and (self._sent >= about["requests"] or self._bytes + entry.cost > about["bytes"]):
            return False
        body = {
            "queue": request.queue,
            "counter": request.number,
            "head": request.head,
            "again": request.again or entry.told,
            "error": int(request.error),
            "writable": request.writable,
            "data": b"".join(request.views_readable(0, request.readable)),
        }
        if not self._line.post("REQUEST", body):
            return False
        entry.sent = entry.told = True
        self._sent += 1
        self._bytes += entry.cost
        return True

    def _send_rest(self) -> None:
        if len(self._open) > self._sent and self._line.up:
            for entry in list(self._open.values()):
                if not entry.sent and not self._send(entry):
                    return

    def _answer(self, body: dict[str, Any]) -> None:
        key = body["queue"], body["counter"]
        entry = self._open.get(key)
        if entry is None or not entry.sent:
            raise ProtocolError(f"an answer to request {key}, which is not in flight", field="counter")
        request, data = entry.request, body["data"]
        if len(data) > request.writable:
            raise ProtocolError(f"{len(data)} bytes for the {request.writable} of request {key}", field="data")
        del self._open[key]
        self._sent -= 1
        self._bytes -= entry.cost

        def finish() -> None:
            request.write_at(0, data)
            request.failed = body["failed"]
            request.bytes_read, request.bytes_written = body["bytes_read"], body["bytes_written"]
            request.finish()

        if self.quiet():
            self._late.append(finish)
        else:
            finish()

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
            self._send_rest()
        elif said.name == "ANSWER":
            self._answer(body)
            self._send_rest()
        elif said.name == "CONFIG":
            if body["number"] > self._written:
                raise ProtocolError("an answer to a write that was not made", field="number")
            self._take_config(body, changed=body["number"] == 0)
            self._answered = max(self._answered, body["number"])
        elif said.name == "LOG":
            self.log(f"{self.id}: {body['text']}", body["level"])

    def _introduce(self, body: dict[str, Any]) -> None:
        """ABOUT. What the guest has been told of already must be so again."""
        if self.expects and body["device_id"] != self.expects:
            raise ProtocolError(f"it is a device of type {body['device_id']}, not {self.expects}", field="device_id")
        if not body["queues"] or any(not size or size & (size - 1) for size in body["queues"]):
            raise ProtocolError(f"queues of {body['queues']}", field="queues")
        if not body["requests"] or not body["bytes"]:
            raise ProtocolError("it takes no requests", field="requests")
        known = ("device_id", "queues", "features")
        if self._about and any(body[name] != self._about[name] for name in known):
            raise ProtocolError("it is another device than before", field="device_id")
        if not self._about:
            self._about = body
            self._store()

    def _lost(self, why: str) -> None:
        for entry in self._open.values():
            entry.sent = False
        self._bytes = self._sent = 0
        self._say(f"{self.endpoint}: lost: {why}; {len(self._open)} requests wait", 30)
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
