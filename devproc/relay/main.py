"""The process of a device behind a relay: `python -m devproc.relay.main`, started with a channel, as devices are.

START brings {id, device, properties, backend, endpoint, log_level, sandbox} and perhaps descriptors: `listen`, a
socket that listens already, at `endpoint` (this process makes none); `keys`, the CURVE keys of a server: its
public and its secret one, and the public ones of those who may connect, a line each; what a predecessor has stored, in
STORED packets before. READY{about} answers it when the device is open and can be reached, FAILED when that cannot be.
`about` is what the device is.

In a swap (`candidate`) the device of another process goes on meanwhile. WAITING{about} answers START once the device is
open, WAITING without it when that must wait until the other one is dead (`late`, or the image is locked). GO is what is
waited for, perhaps after STORED packets; then comes WAITING{about}, if it has not come, or READY.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from devproc.blk.network import use_outlet
from devproc.device import VirtioDevice
from devproc.engine import load_engine
from devproc.fs.journal import kept_memory
from devproc.kept import KEPT_SIZE, Kept
from devproc.needs import needs_of_served
from devproc.registry import explain, make_device
from devproc.relay.backend import Host, about
from devproc.relay.line import read_curve
from devproc.sandbox import Sandbox
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, ConfigError, ImageLocked, ProtocolError
from proto.title import name_process

__all__ = ["Process"]

TICK = 500  # ms


class Process:
    """The loop around one host."""

    def __init__(self, channel: Channel, start: Packet) -> None:
        self._channel = channel
        self._level: int = start.body.get("log_level", 20)
        self._id: str = start.body["id"]
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], object] | None] = {}
        self._context: zmq.Context[Any] = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        self._known: set[bytes] = set()
        self._host: Host | None = None
        body = start.body
        needs = needs_of_served(
            body["device"], body.get("backend") or "", body.get("properties"), "outlet" in start.fds
        )
        engine = load_engine()
        order = body.get("sandbox") or {}
        self.sandbox = Sandbox({"sandbox": order}, None if "needs" in order else needs)
        self.sandbox.begin()
        socket = self._bind(body["endpoint"], start.fds)
        self.sandbox.seal()
        if "outlet" in start.fds:
            use_outlet(start.fds.pop("outlet"))
        device = make_device(start)
        if not isinstance(device, VirtioDevice):
            raise ConfigError(f"{self._id} is not a virtio device", hint="Others answer each access of the guest's.")
        self.device = device
        device.log, device.watch, device.unwatch = self._log, self._watch, self._unwatch
        device.store, device.unstore = self._store, self._unstore
        device.descriptors = start.fds
        opened = body.get("candidate", False) and self._wait_in_line(device, late=body.get("late", False))
        kept = Kept(kept_memory(device, "host", KEPT_SIZE))
        if not opened:
            device.start()
        if body.get("candidate", False) and not opened:
            self._wait_for_go(device, {"about": about(device)})
        self._host = host = Host(device, engine, socket, kept)
        self.endpoint = str(socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._poll.register(channel, select.POLLIN)
        host.watch(self._watch)

    def run(self) -> None:
        """Until STOP, or until whoever started this is gone."""
        assert self._host is not None
        ticked = time.monotonic()
        while True:
            busy = self._host.turn()
            for fd, _ in self._poll.poll(0 if busy else TICK):
                if fd == self._channel.fileno():
                    if not self._from_keeper():
                        return
                elif (ready := self._watched.get(fd)) is not None:
                    ready()
            if time.monotonic() - ticked > TICK / 1000:
                ticked = time.monotonic()
                self.device.tick()

    def close(self) -> None:
        """An orderly end, and said to be one first: what is slow to stop may be killed."""
        if self._host is not None:
            self._host.bye()
        self.device.stop()

    def callback(self, domain: str, key: bytes) -> bool:
        """For ZeroMQ's authenticator: may this public key in?"""
        return key in self._known

    def _from_keeper(self) -> bool:
        """False: this is the end."""
        packet = self._channel.recv()
        packet.close()
        if packet.kind == "TELL":
            self.device.told(str(packet.body.get("kind", "")), packet.body)
        return packet.kind != "STOP"

    def _bind(self, endpoint: str, fds: dict[str, int]) -> zmq.Socket[bytes]:
        socket = Host.bind(self._context, endpoint, fds.pop("listen", -1))
        if "keys" in fds:
            public, secret, *known = read_curve(fds.pop("keys"))
            self._known = set(known)
            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback(credentials_provider=self)
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret
        elif not endpoint.startswith("ipc://"):
            raise ConfigError(f"{endpoint} needs keys", hint="bulkhead keys create DIR, then --keys DIR")
        if "[" in endpoint:
            socket.ipv6 = True
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot listen at {endpoint}: {(error.strerror or '').lower()}") from error
        return socket

    def _wait_in_line(self, device: VirtioDevice, *, late: bool) -> bool:
        """Until the process whose place is taken is dead. True: the device is open already."""
        if not (late or device.starts_late):
            try:
                device.start()
            except ImageLocked:
                pass  # by that process, perhaps
            else:
                self._wait_for_go(device, {"about": about(device)})
                return True
        self._wait_for_go(device, {})
        return False

    def _wait_for_go(self, device: VirtioDevice, body: dict[str, Any]) -> None:
        self._channel.send("WAITING", body)
        while (packet := self._channel.recv()).kind == "STORED":
            for name, fd in packet.fds.items():
                if name in device.descriptors:
                    os.close(device.descriptors[name])
                device.descriptors[name] = fd
            packet.fds.clear()
        packet.close()
        if packet.kind != "GO":
            raise ChannelClosed("told to stop before the start")

    def _watch(self, fd: int, ready: Callable[[], object] | None, events: int = select.POLLIN) -> None:
        self._watched[fd] = ready
        self._poll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _log(self, text: str, level: int = 20) -> None:
        if level >= self._level:
            if self._host is not None:
                self._host.log(text, level)
            with contextlib.suppress(ChannelClosed):
                self._channel.send("LOG", {"level": level, "text": text})

    def _store(self, name: str, fd: int) -> None:
        self._channel.send("STORE", {}, {name: fd})

    def _unstore(self, name: str) -> None:
        self._channel.send("UNSTORE", {"names": [name]})


def main() -> int:
    """Be one device until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        channel = Channel.from_environment()
        start = _receive_start(channel)
    except ChannelClosed:
        return 0
    try:
        process = Process(channel, start)
    except ChannelClosed:
        return 0
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        channel.send("FAILED", {"error": explain(start.body["device"], error), "hint": ""})
        raise
    sandbox = process.sandbox.report()
    ready = {"pid": os.getpid(), "sandbox": sandbox, "endpoint": process.endpoint, "about": about(process.device)}
    channel.send("READY", ready)
    with contextlib.suppress(ChannelClosed):
        process.run()
    process.close()
    return 0


def _receive_start(channel: Channel) -> Packet:
    stored: dict[str, int] = {}
    while (packet := channel.recv()).kind == "STORED":
        stored.update(packet.fds)
    if packet.kind != "START":
        raise ProtocolError(f"{packet.kind} instead of START", field="kind")
    name_process(packet.body.get("machine", ""), packet.body.get("id", ""))
    packet.fds.update(stored)
    return packet


if __name__ == "__main__":
    sys.exit(main())
