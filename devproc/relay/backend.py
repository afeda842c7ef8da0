"""The device behind a relay: an unchanged `VirtioDevice` that serves rings of its own, filled from messages.

It has no guest memory, none of the guest's rings and no page of the core's. What is in flight here is known by queue,
head and counter; when a relay sends it once more, because the connection or the relay was lost, it is not begun twice,
and what had been answered into the void is said again. After the death of this process it is carried out again, with
`again`, as after the death of any device. A reset by the driver waits until what was begun has been finished; what is
parked is forgotten, and so are buffers that wait for something to come.

At most one session at a time; a HELLO of the same machine takes the place of the one before, another machine's is
refused while the first is heard of. A relay that sends what it may not loses its session.
"""

from __future__ import annotations

import secrets
import select
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from devproc.device import VirtioDevice
from devproc.kept import Kept
from devproc.relay.line import address_of, load_of
from devproc.relay.twin import LIMIT, Rings
from devproc.relay.twin_code import Place
from proto.errors import ProtocolError
from proto.relay import MAX_LOAD, Said, decode, encode

__all__ = ["Host", "about"]

GONE = 10.0  # seconds without a word after which another machine may have the device
HIGH_WATER = 4096
BATCH = 16  # messages before the device is served, and other descriptors are looked at
_IDENTITY = struct.Struct("<QQ")  # owner, life
_EVENTS, _POLLIN, _NOBLOCK, _SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.SNDMORE)


def about(device: VirtioDevice) -> dict[str, Any]:
    """What a device that is open is to its driver."""
    return {
        "device_id": int(device.device_id),
        "queues": [queue.size for queue in device.queues],
        "features": device.features,
        "config": device.config_bytes(),
    }


class Host:
    """One device and its socket, a bound ROUTER; `kept` is memory that outlives the process."""

    def __init__(self, device: VirtioDevice, engine: Any, socket: zmq.Socket[bytes], kept: Kept) -> None:
        self._device = device
        self._socket = socket
        self._kept = kept
        data = kept.load()
        self._owner, self._life = _IDENTITY.unpack(data) if len(data) == _IDENTITY.size else (0, 0)
        self._process = secrets.randbits(63) + 1
        self._peer: bytes | None = None
        self._session = 0
        self._ready = False  # READY was said in this session
        self._heard = 0.0
        self._rings = Rings(device, engine)
        self._serving = False  # the driver has accepted features:
        self._features = 0
        self._load: tuple[bytes | memoryview, int] | None = (
            None  # requests for which there was no room, and how many bytes are done
        )
        self._asked = False  # something may have to be said again
        self._config_said = b""
        self._waiting: deque[tuple[bytes, Said]] = deque()  # what came while another life's requests are finished
        self._then: Callable[[], None] | None = None  # when they are
        device.config_changed = self._config_changed

    @classmethod
    def bind(cls, context: zmq.Context[Any], endpoint: str, fd: int = -1) -> zmq.Socket[bytes]:
        """A socket as a host wants it, not yet guarded; `fd` listens already. `bind` of ZeroMQ is the caller's."""
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.maxmsgsize = MAX_LOAD
        socket.router_mandatory = True
        socket.tcp_keepalive = 1
        if fd >= 0:
            socket.set(zmq.USE_FD, fd)
        return socket

    def watch(self, watch: Callable[..., None]) -> None:
        """Have whoever polls wake when something comes; `turn` takes it."""
        watch(int(self._socket.fd), lambda: None, select.POLLIN)

    def turn(self) -> bool:
        """Take what has come, serve the device, say what it has answered. True: there may be more."""
        more = self._receive()
        if self._load is not None and self._then is None:
            more = self._place(*self._load) or more
        if self._serving and self._then is None:
            more = self._rings.turn() or more
        self._answer()
        self._settle()
        return more or (self._load is None and bool(int(self._socket.get(_EVENTS)) & _POLLIN))

    def log(self, text: str, level: int = 20) -> None:
        """A line for the relay's log too."""
        if self._ready:
            self._say("LOG", {"level": level, "text": text[:1000]})

    def bye(self) -> None:
        """The process ends because it was told to."""
        if self._ready:
            self._socket.linger = 200
            self._say("BYE")

    # -- what comes ------------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        for _ in range(BATCH):
            if self._load is not None or not int(self._socket.get(_EVENTS)) & _POLLIN:
                return False
            try:
                frames = self._socket.recv_multipart(_NOBLOCK, copy=False)
            except zmq.Again:
                return False
            if 2 <= len(frames) <= 3:
                load = load_of(frames[2]) if len(frames) == 3 else None
                self._take(frames[0].bytes, frames[1].bytes, load)
        return True

    def _take(self, peer: bytes, data: bytes, load: bytes | memoryview | None = None) -> None:
        try:
            said = decode(data, "relay", load)
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
        if said.name == "REQUESTS":
            if body["life"] == self._life:
                self._place(said.load, 0)
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
                self._say_ready()
            return
        if self._peer is not None and body["owner"] != self._owner and now - self._heard < GONE:
            refusal = {"text": f"{self._device.id} is in use by another machine"}
            self._send(peer, encode("REFUSED", refusal, session=said.session))
            return
        self._leave()
        self._peer, self._session, self._heard = peer, said.session, now
        if (self._owner, self._life) == (body["owner"], body["life"]) and self._then is None:
            self._welcome(body)
            return
        fresh = (self._owner, self._life) == (0, 0)
        self._owner = body["owner"]
        self._begin_life(body["life"], lambda: self._welcome(body), fresh=fresh)

    def _welcome(self, body: dict[str, Any]) -> None:
        if body["features"]:
            self._negotiate(body["features"])
        for write in body["writes"]:
            self._write_config(write)
        self._ready = True
        self._say_ready()

    def _say_ready(self) -> None:
        self._say("READY", {"process": self._process, **self._config()})

    def _leave(self) -> None:
        """The session is over."""
        self._peer, self._ready, self._session = None, False, 0
        self._waiting.clear()
        self._load = None
        self._rings.unask()

    # -- a life ----------------------------------------------------------------------------------------------------

    def _begin_life(self, life: int, then: Callable[[], None], *, fresh: bool = False) -> None:
        """Once nothing of the one before is being carried out."""

        def begin() -> None:
            self._load = None
            self._serving = False
            self._life = life
            if not fresh:
                self._device.reset()
                self._device.driver_features = 0
            self._rings.end()
            self._kept.store(_IDENTITY.pack(self._owner, life))
            then()

        self._rings.pause()
        self._then = begin
        self._settle()

    def _settle(self) -> None:
        if self._then is None or self._rings.busy():
            return
        then, self._then = self._then, None
        then()
        while self._waiting and self._then is None:
            peer, said = self._waiting.popleft()
            if peer == self._peer and said.session == self._session:
                self._carry(said)

    # -- requests and answers --------------------------------------------------------------------------------------

    def _place(self, load: bytes | memoryview, start: int) -> bool:
        """True when something was placed."""
        self._load = None
        if not self._serving:
            self._drop_session("a request before the driver was there")
            return False
        found, at = self._rings.place(address_of(load), len(load), start)
        self._asked = True
        if found == Place.NONSENSE:
            self._drop_session("a request beyond what is allowed")
        elif found == Place.FULL:
            self._load = load, at
        return at != start

    def _answer(self) -> None:
        """Say what there is to be said."""
        if not self._ready or self._then is not None:
            return
        for again in (False, True) if self._asked else (False,):
            more = True
            while more and self._ready:
                records, more = self._rings.collect(again=again)
                if records:
                    self._say_silent_change()
                    self._say("ANSWERS", {"life": self._life, "moved": self._rings.moved()}, records)
        self._asked = False

    # -- the device ------------------------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        queues = self._device.queues
        passive = [index for index, queue in enumerate(queues) if queue.passive or queue.on_demand]
        return {**about(self._device), "passive": passive, **self._config(), "bytes": LIMIT}

    def _config(self) -> dict[str, Any]:
        self._config_said = self._device.config_bytes()
        return {"config": self._config_said, "generation": self._device.config_generation}

    def _say_silent_change(self) -> None:
        """What the driver ordered may show in the configuration space, of which it is not told."""
        if self._device.config_bytes() != self._config_said:
            self._say("CONFIG", {"number": 0, **self._config()})

    def _negotiate(self, features: int) -> None:
        if not self._serving or features != self._features:
            self._device.driver_features = self._features = features
            self._rings.begin()
            self._serving = True

    def _write_config(self, write: dict[str, Any]) -> None:
        if write["offset"] + len(write["data"]) <= len(self._device.config_bytes()):
            self._device.config_written(write["offset"], write["data"])

    def _config_changed(self) -> None:
        self._device.config_generation = (self._device.config_generation + 1) & 0xFFFFFFFF
        if self._ready:
            self._say("CONFIG", {"number": 0, **self._config()})

    # -- sending ---------------------------------------------------------------------------------------------------

    def _say(self, name: str, body: dict[str, Any] | None = None, load: memoryview | None = None) -> None:
        data = encode(name, body, session=self._session)
        if self._peer is not None and not self._send(self._peer, data, load):
            self._drop_session("the connection is gone")

    def _send(self, peer: bytes, data: bytes, load: memoryview | None = None) -> bool:
        """False: it has gone, or does not read; it will ask again for what it misses, in its next session."""
        try:
            self._socket.send(peer, _NOBLOCK | _SNDMORE)
            if load is None:
                self._socket.send(data, _NOBLOCK)
            else:
                self._socket.send(data, _NOBLOCK | _SNDMORE)
                self._socket.send(load, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _drop_session(self, why: str) -> None:
        peer, session = self._peer, self._session
        self._leave()
        if peer is not None:
            self._send(peer, encode("REFUSED", {"text": why}, session=session))
