"""The tap: a process that lets viewers elsewhere follow a machine's trace rings, over ZeroMQ.

`python -m launcher.trace.tap`, started by the keeper when somebody asks for it (TRACE_LISTEN). It has the rings for
reading, a socket, and nothing else of the machine; it is killed without loss. One ROUTER socket serves every viewer
by name: what one does not take in time is dropped for that one alone (HIGH_WATER), and the numbers of the records
tell it so.

On anything but ipc:// the socket speaks CURVE, and only to the keys it was given. The key is the role: `viewer` may
look; `control` may also give orders, which are passed on to the keeper's control socket.

Messages are msgpack maps with `op`. A viewer sends
    view {version, payload, from_start}   → machine {machine, rings, version}, then records …
    clock {sent}                          → clock {sent, monotonic, wall}: nanoseconds
    alive {}                              at least every SILENCE seconds
    order {number, kind, body}            → order {number, kind: OK or ERROR, body}
and is sent records {ring, records}: slots of `proto.trace` as they are, one after the other.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import zmq
from zmq.auth.thread import ThreadAuthenticator

from devproc.tellers import strip
from launcher.trace.keys import server_keys
from launcher.trace.rings import RingSet
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed
from proto.trace import TraceRecord, pack_record

__all__ = ["HIGH_WATER", "VERSION", "Tap", "main"]

VERSION = 1
HIGH_WATER = 200  # messages that wait for one viewer
SILENCE = 10.0  # seconds after which a viewer that says nothing is forgotten
PERIOD = 10  # ms between two looks at the rings while somebody looks
IDLE = 1000  # ms while nobody does
ASK_PERIOD = 1.0  # seconds between two questions whether the rings are still those
ORDERS = frozenset(  # what may be ordered from elsewhere (`launcher.control`)
    ["PS", "PAUSE", "CONT", "STOP", "RESTART", "BREAK", "BREAKS", "BREAK_CLEAR", "HOLD", "QUEUE"]
)
MAX_MESSAGE = 1 << 16  # bytes that a viewer may send at once
CHUNK = 1024  # records in one message


class Viewer:
    """One viewer, by the name its connection has."""

    def __init__(self, payload: bool, now: float) -> None:
        self.payload = payload
        self.heard = now


class Tap:
    """The process's one object."""

    def __init__(self, channel: Channel, body: dict[str, Any], fds: dict[str, int]) -> None:
        """Bind. Raises ConfigError."""
        self._channel = channel
        self._body = body
        self._payload = bool(body.get("payload", True))
        self._rings: list[dict[str, Any]] = body["rings"]
        self._generation = body["generation"]
        self._devices = {ring["id"]: ring["device"] for ring in self._rings}
        self._set = RingSet()
        self._set.take(fds, from_start=True)
        self._viewers: dict[bytes, Viewer] = {}
        self._asked = time.monotonic()
        self._context: zmq.Context[Any] = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        self._roles: dict[bytes, str] = {}
        self._socket = self._bind(body["endpoint"], body.get("keys"))
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def run(self) -> None:
        """Until the keeper has gone."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._channel, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(PERIOD if self._viewers else IDLE))
            if self._channel.fileno() in ready and not self._from_keeper():
                return
            while self._receive():
                pass
            now = time.monotonic()
            if now - self._asked > ASK_PERIOD:
                self._asked = now
                self._channel.send("TRACE", {"generation": self._generation})
            self._viewers = {name: viewer for name, viewer in self._viewers.items() if now - viewer.heard < SILENCE}
            if self._viewers:
                self._publish()

    def close(self) -> None:
        """Let go of everything."""
        self._socket.close(0)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        self._set.close()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        for ring, records in self._set.read():
            whole = b"".join(map(pack_record, records))
            self._tell(ring, whole, payload=True)
            if any(not viewer.payload for viewer in self._viewers.values()) or not self._payload:
                self._tell(ring, self._stripped(ring, records), payload=False)

    def _send_history(self, name: bytes, viewer: Viewer) -> None:
        for ring, records in self._set.history():
            for first in range(0, len(records), CHUNK):
                part = records[first : first + CHUNK]
                whole = viewer.payload and self._payload
                data = b"".join(map(pack_record, part)) if whole else self._stripped(ring, part)
                self._send(name, msgpack.packb({"op": "records", "ring": ring, "records": data}))

    def _stripped(self, ring: str, records: list[TraceRecord]) -> bytes:
        device = self._devices.get(ring, "")
        return b"".join(pack_record(record._replace(data=strip(device, record))) for record in records)

    def _tell(self, ring: str, data: bytes, *, payload: bool) -> None:
        message = msgpack.packb({"op": "records", "ring": ring, "records": data})
        for name, viewer in self._viewers.items():
            if (viewer.payload and self._payload) == payload:
                self._send(name, message)

    def _send(self, name: bytes, message: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it does not take more now, or has gone: it will miss numbers
            self._socket.send_multipart([name, message], zmq.NOBLOCK)

    # -- receiving -------------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        if len(frames) == 2:
            with contextlib.suppress(Exception):  # what is no message of ours is nobody's
                message = msgpack.unpackb(frames[1].bytes)
                self._handle(frames[0].bytes, message, self._role(frames[1]))
        return True

    def _role(self, frame: zmq.Frame) -> str:
        """Of whoever sent it, by the key that ZeroMQ has checked; everybody on a Unix socket is the machine's user."""
        if self._guard is None:
            return "control"
        return self._roles.get(str(frame.get("User-Id")).encode(), "")

    def _handle(self, name: bytes, message: dict[str, Any], role: str) -> None:
        op = message.get("op")
        if name in self._viewers:
            self._viewers[name].heard = time.monotonic()
        if op == "view":
            if not self._viewers:
                self._set.skip()
            viewer = self._viewers[name] = Viewer(bool(message.get("payload", True)), time.monotonic())
            self._send(name, self._description())
            if message.get("from_start"):
                self._send_history(name, viewer)
        elif op == "clock":
            clock = {"op": "clock", "sent": message.get("sent"), "monotonic": time.monotonic_ns()}
            self._send(name, msgpack.packb(clock | {"wall": time.time_ns()}))
        elif op == "order":
            kind, body = self._order(str(message.get("kind", "")), message.get("body") or {}, role)
            answer = {"op": "order", "number": message.get("number"), "kind": kind, "body": body}
            self._send(name, msgpack.packb(answer))

    def _description(self) -> bytes:
        body = {"op": "machine", "version": VERSION, "machine": self._body["machine"], "rings": self._rings}
        packed: bytes = msgpack.packb(body)
        return packed

    def _order(self, kind: str, body: dict[str, Any], role: str) -> tuple[str, dict[str, Any]]:
        """Pass an order on to the keeper, for who may give one."""
        if role != "control":
            return "ERROR", {"error": f"this key may look, not order {kind}", "hint": "control.secret may."}
        if kind not in ORDERS:
            return "ERROR", {"error": f"{kind} is not done from elsewhere", "hint": ""}
        from launcher.control import connect, request

        try:
            with connect(self._body["machine"]) as channel:
                if kind == "STOP":  # that it is done is seen by the tap's end
                    channel.send(kind, body)
                    return "OK", {}
                return "OK", request(channel, kind, **body)
        except ConfigError as error:
            return "ERROR", {"error": error.message, "hint": error.hint}

    # -- the keeper ------------------------------------------------------------------------------------------------

    def _from_keeper(self) -> bool:
        """False: it has gone."""
        try:
            packet = self._channel.recv(0)
        except DeadlineMissed:
            return True
        except ChannelClosed:
            return False
        if packet.kind == "TRACE":
            self._rings = packet.body["rings"]
            self._devices = {ring["id"]: ring["device"] for ring in self._rings}
            if packet.body["generation"] != self._generation and packet.fds:
                self._generation = packet.body["generation"]
                self._set.take(packet.fds, from_start=True)
                for name in self._viewers:
                    self._send(name, self._description())
        return True

    # -- beginning -------------------------------------------------------------------------------------------------

    def _bind(self, endpoint: str, keys: str | None) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.maxmsgsize = MAX_MESSAGE
        if not endpoint.startswith("ipc://"):
            if not keys:
                raise ConfigError(f"{endpoint} needs keys", hint="bulkhead keys create DIR, then --keys DIR")
            public, secret, self._roles = server_keys(Path(keys))
            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback(credentials_provider=self)
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret
        if _is_ipv6(endpoint):
            socket.ipv6 = True
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(0)
            raise ConfigError(f"cannot listen at {endpoint}: {(error.strerror or '').lower()}") from error
        return socket

    def callback(self, domain: str, key: bytes) -> bool:
        """For ZeroMQ's authenticator: may this public key in?"""
        return key in self._roles


def _is_ipv6(endpoint: str) -> bool:
    host = endpoint.partition("://")[2].rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).version == 6
    return False


def main() -> int:
    """Entry of the process."""
    channel = Channel.from_environment()
    try:
        start = channel.recv()
        tap = Tap(channel, start.body, start.fds)
    except ChannelClosed:
        return 0
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    channel.send("READY", {"endpoint": tap.endpoint, "pid": os.getpid()})
    with contextlib.suppress(ChannelClosed):
        tap.run()
    tap.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
