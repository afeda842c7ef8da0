"""The device behind a relay: an unchanged `VirtioDevice` whose requests come as bytes and go as bytes.

It has no guest memory, no ring and no page. A request that is in flight here is known by queue and counter; when a
relay sends it once more, because the connection or the relay was lost, its answer goes to whom asked last and it is not
begun twice. One that had been answered into the void is carried out again, with `again`, as after the death of a device
process. A reset by the driver waits until what was taken has been finished; what is parked is forgotten.

At most one session at a time; a HELLO of the same machine takes the place of the one before, another machine's is
refused while the first is heard of. What is sent here is bounded by MAX_REQUESTS and MAX_BYTES; a relay that goes
beyond them loses its session.
"""

from __future__ import annotations

import select
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from devproc.device import VirtioDevice
from devproc.kept import Kept
from devproc.request import Buffer, Request
from proto.errors import BackendError, ConfigError, ProtocolError
from proto.relay import MAX_DATA, MAX_MESSAGE, Said, decode, encode
from proto.ring import ChainError

__all__ = ["MAX_BYTES", "MAX_REQUESTS", "Host"]

MAX_REQUESTS = 256
MAX_BYTES = 8 << 20
GONE = 10.0  # seconds without a word after which another machine may have the device
HIGH_WATER = 4 * MAX_REQUESTS
BATCH = 64  # messages before other descriptors are looked at
_IDENTITY = struct.Struct("<QQ")  # owner, life
_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
Key = tuple[int, int]


class Host:
    """One device and its socket, a bound ROUTER; `kept` is memory that outlives the process."""

    def __init__(self, device: VirtioDevice, socket: zmq.Socket[bytes], kept: Kept) -> None:
        if any(queue.in_order or queue.on_demand for queue in device.queues):
            raise ConfigError(
                f"{device.id} cannot be served through a relay",
                hint="Its queues are served in order or on demand: disks, 9p, virtiofs and simple devices can be.",
            )
        self._device = device
        self._socket = socket
        self._kept = kept
        data = kept.load()
        self._owner, self._life = _IDENTITY.unpack(data) if len(data) == _IDENTITY.size else (0, 0)
        self._peer: bytes | None = None
        self._session = 0
        self._ready = False  # READY was said in this session
        self._heard = 0.0
        self._open: dict[Key, Request] = {}
        self._bytes = 0
        self._waiting: deque[tuple[bytes, Said]] = deque()  # what came while another life's requests are finished
        self._then: Callable[[], None] | None = None  # when they are
        device.config_changed = self._config_changed

    @classmethod
    def bind(cls, context: zmq.Context[Any], endpoint: str, fd: int = -1) -> zmq.Socket[bytes]:
        """A socket as a host wants it, not yet guarded; `fd` listens already. `bind` of ZeroMQ is the caller's."""
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.maxmsgsize = MAX_MESSAGE
        socket.router_mandatory = True
        socket.tcp_keepalive = 1
        if fd >= 0:
            socket.set(zmq.USE_FD, fd)
        return socket

    def watch(self, watch: Callable[..., None]) -> None:
        """Have whoever polls call `ready`."""
        watch(int(self._socket.fd), self.ready, select.POLLIN)

    def ready(self) -> bool:
        """Take what has come. True: there may be more."""
        for _ in range(BATCH):
            if not int(self._socket.get(_EVENTS)) & _POLLIN:
                return False
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return False
            if len(frames) == 2:
                self._take(frames[0], frames[1])
        return True

    def log(self, text: str, level: int = 20) -> None:
        """A line for the relay's log too."""
        if self._ready:
            self._say("LOG", {"level": level, "text": text[:1000]})

    # -- what comes ------------------------------------------------------------------------------------------------

    def _take(self, peer: bytes, data: bytes) -> None:
        try:
            said = decode(data, "relay")
        except ProtocolError:
            return  # nobody's; a relay that is one goes on without an answer, and begins anew
        if said.name == "LOOK":
            self._send(peer, encode("ABOUT", self._about()))
        elif said.name == "HELLO":
            self._hello(peer, said)
        elif peer == self._peer and said.session == self._session:
            self._heard = time.monotonic()
            if self._then is not None:
                self._waiting.append((peer, said))
            else:
                self._carry(said)

    def _carry(self, said: Said) -> None:
        body = said.body
        if said.name == "REQUEST":
            self._request(body)
        elif said.name == "PING":
            self._say("PONG")
        elif said.name == "RESET":
            self._begin_life(body["life"], lambda: None)
        elif said.name == "FEATURES":
            self._negotiate(body["features"])
        elif said.name == "CONFIG_SET":
            self._write_config(body)
            self._say("CONFIG", {"number": body["number"], **self._config()})

    def _hello(self, peer: bytes, said: Said) -> None:
        body, now = said.body, time.monotonic()
        if peer == self._peer and said.session == self._session:
            self._heard = now
            if self._ready:
                self._say("READY", self._config())
            return
        if self._peer is not None and body["owner"] != self._owner and now - self._heard < GONE:
            refusal = {"text": f"{self._device.id} is in use by another machine"}
            self._send(peer, encode("REFUSED", refusal, session=said.session))
            return
        self._peer, self._session, self._ready, self._heard = peer, said.session, False, now
        self._waiting.clear()
        if (self._owner, self._life) == (body["owner"], body["life"]) and self._then is None:
            self._welcome(body)
            return
        fresh = (self._owner, self._life) == (0, 0)
        self._owner = body["owner"]
        self._begin_life(body["life"], lambda: self._welcome(body), fresh=fresh)

    def _welcome(self, body: dict[str, Any]) -> None:
        if body["features"] and body["features"] != self._device.driver_features:
            self._negotiate(body["features"])
        for write in body["writes"]:
            self._write_config(write)
        self._ready = True
        self._say("READY", self._config())

    # -- a life ----------------------------------------------------------------------------------------------------

    def _begin_life(self, life: int, then: Callable[[], None], *, fresh: bool = False) -> None:
        """Once nothing of the one before is being carried out."""

        def begin() -> None:
            self._open.clear()  # what is left is parked: nobody waits for it any more
            self._bytes = 0
            self._life = life
            if not fresh:
                self._device.reset()
                self._device.driver_features = 0
            self._kept.store(_IDENTITY.pack(self._owner, life))
            then()

        self._then = begin
        self._settle()

    def _settle(self) -> None:
        if self._then is None or any(not request.parked for request in self._open.values()):
            return
        then, self._then = self._then, None
        then()
        while self._waiting and self._then is None:
            peer, said = self._waiting.popleft()
            if peer == self._peer and said.session == self._session:
                self._carry(said)

    # -- requests --------------------------------------------------------------------------------------------------

    def _request(self, body: dict[str, Any]) -> None:
        key, device = (body["queue"], body["counter"]), self._device
        if key in self._open:
            return
        cost = len(body["data"]) + body["writable"]
        if (
            body["queue"] >= len(device.queues)
            or body["writable"] > MAX_DATA
            or len(self._open) >= MAX_REQUESTS + len(device.queues)
            or (self._open and self._bytes + cost > 2 * MAX_BYTES)
        ):
            self._drop_session("a request beyond what is allowed")
            return
        parts = (memoryview(bytearray(body["data"])), memoryview(bytearray(body["writable"])))
        request = Request(
            body["queue"],
            body["head"],
            [Buffer(0, 0, len(parts[0]))] if parts[0] else [],
            [Buffer(1, 0, len(parts[1]))] if parts[1] else [],
            lambda part, offset, length: parts[part][offset : offset + length],
            error=body["error"],
            again=body["again"],
            number=body["counter"],
        )
        self._open[key] = request
        self._bytes += cost
        self._carry_out(request, lambda: self._done(key, request, parts[1], cost))

    def _carry_out(self, request: Request, done: Callable[[], None]) -> None:
        device = self._device
        request.finish = done
        try:
            if request.error == ChainError.POISONED:
                raise BackendError("not carried out: device after device died of it")
            device.malformed(request) if request.error else device.handle(request)
        except (BackendError, OSError) as error:
            device.log(f"{device.id}: queue {request.queue} head {request.head}: {error}", 30)
            device.failed(request, error)
            request.deferred = False
        if not request.deferred:
            done()
        elif request.parked:
            self._settle()

    def _done(self, key: Key, request: Request, written: memoryview, cost: int) -> None:
        request.finish = lambda: None
        if self._open.get(key) is not request:
            return  # of another life
        del self._open[key]
        self._bytes -= cost
        if self._ready and self._then is None:
            self._say(
                "ANSWER",
                {
                    "queue": key[0],
                    "counter": key[1],
                    "data": bytes(written[: request.written]),
                    "failed": request.failed,
                    "bytes_read": min(request.bytes_read, 0xFFFFFFFF),
                    "bytes_written": min(request.bytes_written, 0xFFFFFFFF),
                },
            )
        self._settle()

    # -- the device ------------------------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        queues = self._device.queues
        return {
            "device_id": int(self._device.device_id),
            "queues": [queue.size for queue in queues],
            "passive": [index for index, queue in enumerate(queues) if queue.passive],
            "features": self._device.features,
            **self._config(),
            "requests": MAX_REQUESTS,
            "bytes": MAX_BYTES,
        }

    def _config(self) -> dict[str, Any]:
        return {"config": self._device.config_bytes(), "generation": self._device.config_generation}

    def _negotiate(self, features: int) -> None:
        self._device.driver_features = features
        self._device.negotiated()

    def _write_config(self, write: dict[str, Any]) -> None:
        if write["offset"] + len(write["data"]) <= len(self._device.config_bytes()):
            self._device.config_written(write["offset"], write["data"])

    def _config_changed(self) -> None:
        self._device.config_generation = (self._device.config_generation + 1) & 0xFFFFFFFF
        if self._ready:
            self._say("CONFIG", {"number": 0, **self._config()})

    # -- sending ---------------------------------------------------------------------------------------------------

    def _say(self, name: str, body: dict[str, Any] | None = None) -> None:
        if self._peer is not None and not self._send(self._peer, encode(name, body, session=self._session)):
            self._drop_session("the connection is gone")

    def _send(self, peer: bytes, data: bytes) -> bool:
        """False: it has gone, or does not read; it will ask again for what it misses, in its next session."""
        try:
            self._socket.send_multipart((peer, data), _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _drop_session(self, why: str) -> None:
        peer, session = self._peer, self._session
        self._peer, self._ready, self._session = None, False, 0
        if peer is not None:
            self._send(peer, encode("REFUSED", {"text": why}, session=session))
