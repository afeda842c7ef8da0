"""A console's driver, as the tests play it: a real device process, and the host's ends of its ports."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devproc.console.spec import parse_ports
from devproc.kept import KEPT_SIZE
from launcher.replay.frontend import GPA, FrontEnd, QueueLayout
from proto.virtio import ConsoleEvent

CONTROL = struct.Struct("<IHH")
BUFFERS, ROOM, SLOTS = 0x800000, 0x4000, 16
NEXT, WRITE = 1, 2
DEADLINE = 60.0


def queue_of(port: int) -> int:
    """A port's receive queue; the next one is its transmit queue (5.3.2)."""
    return 0 if port == 0 else 2 + 2 * port


class ConsoleCard:
    """`ports` as `devproc.console.spec` has them; `ends` are the host's ends, by port."""

    def __init__(self, ports: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bh-", dir="/tmp")
        self.ports = parse_ports(ports)
        self.ends: dict[int, Any] = {}
        self._open: list[socket.socket] = []
        self.lent = {"kept": memory()}
        for number, port in enumerate(self.ports):
            self.lent[f"port{number}.note"] = memory()
            self._lend(number, port.kind, port.input)
        self.front = FrontEnd("console", {}, backend=ports, lent=self.lent)
        self.queues: dict[int, QueueLayout] = {}
        self._turn: dict[int, int] = {}
        self.told: list[tuple[int, int, int, bytes]] = []  # control messages

    def _lend(self, number: int, kind: str, input: str) -> None:
        path = f"{self.folder.name}/{number}"
        if kind == "stdio":
            ours, theirs = socket.socketpair()
            self.ends[number] = ours
            self.lent[f"port{number}"] = theirs.detach()
        elif kind == "pty":
            master, slave = os.openpty()
            os.set_blocking(slave, False)
            import tty

            tty.setraw(slave)
            self.ends[number] = slave
            self.lent[f"port{number}"] = master
        elif kind == "socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            self.ends[number] = path
            self.lent[f"port{number}"] = listener.detach()
        else:
            self.ends[number] = Path(path)
            self.lent[f"port{number}"] = os.open(path, os.O_RDWR | os.O_CREAT)
            if input:
                self.lent[f"port{number}.input"] = os.open(input, os.O_RDONLY)

    def start(self) -> ConsoleCard:
        """Device and driver up, every port ready and open."""
        self.front.start()
        self.front.negotiate()
        for index in range(2 * len(self.ports) + 2):
            self.queues[index] = self.front.add_queue(index, 64, index * 0x10000)
        self.front.driver_ok()
        self.offer(2, 64, times=SLOTS)
        self.order(0, ConsoleEvent.DEVICE_READY, 1)
        for number in range(len(self.ports)):
            self.order(number, ConsoleEvent.PORT_READY, 1)
            self.order(number, ConsoleEvent.PORT_OPEN, 1)
        return self

    def connect(self, number: int) -> socket.socket:
        """A client of a socket."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.ends[number])
        client.settimeout(DEADLINE)
        self._open.append(client)
        return client

    def put(self, queue: int, readable: list[bytes], writable: list[int]) -> None:
        layout, ram = self.queues[queue], self.front.ram.view
        slot = self._turn.get(queue, 0)
        self._turn[queue] = (slot + 1) % SLOTS
        at = BUFFERS + (queue * SLOTS + slot) * ROOM
        pieces = [(len(data), 0) for data in readable] + [(size, WRITE) for size in writable]
        for number, (size, flags) in enumerate(pieces):
            if number < len(readable):
                ram[at : at + size] = readable[number]
            last = number == len(pieces) - 1
            index = slot * 4 + number
            entry = (GPA + at, size, flags | (0 if last else NEXT), 0 if last else index + 1)
            struct.pack_into("<QIHH", ram, layout.desc + 16 * index, *entry)
            at += size
        self.front.native.publish(layout.driver, slot * 4)

    def send(self, port: int, data: bytes, *, wait: bool = True) -> None:
        """The guest writes."""
        queue = queue_of(port) + 1
        self.put(queue, [data], [])
        self.front.notify(self.queues[queue])
        if wait:
            self.front.wait_used(self.queues[queue])

    def offer(self, queue: int, size: int, times: int = 1) -> None:
        for _ in range(times):
            self.put(queue, [], [size])
        self.front.notify(self.queues[queue])

    def receive(self, port: int, timeout: float = DEADLINE) -> bytes:
        """What the guest reads next, into a buffer that was offered."""
        return self._used(queue_of(port), timeout)

    def _used(self, queue: int, timeout: float = DEADLINE) -> bytes:
        head, length = self.front.wait_used(self.queues[queue], timeout)
        at = BUFFERS + (queue * SLOTS + head // 4) * ROOM
        return bytes(self.front.ram.view[at : at + length])

    def order(self, port: int, event: int, value: int) -> None:
        """A control message of the driver."""
        self.put(3, [CONTROL.pack(port, event, value)], [])
        self.front.notify(self.queues[3])
        self.front.wait_used(self.queues[3])

    def hear(self, port: int, event: int) -> tuple[int, bytes]:
        """Wait for a control message of the device: its value and what follows it."""
        while True:
            for message in self.told:
                if message[:2] == (port, event):
                    self.told.remove(message)
                    return message[2:]
            data = self._used(2)
            self.told.append((*CONTROL.unpack_from(data), data[CONTROL.size :]))
            self.offer(2, 64)

    def kill(self) -> None:
        """kill -9, and a successor that goes on, with what the first had stored."""
        self.keep_stored()
        self.front.kill()
        self.front.start()
        self.front.replay()

    def keep_stored(self) -> None:
        """As the keeper does: descriptors that the device left come back with the next START."""
        assert self.front.channel is not None
        while True:
            from proto.errors import DeadlineMissed

            try:
                packet = self.front.channel.recv(0.05)
            except DeadlineMissed:
                return
            if packet.kind == "STORE":
                self.lent.update(packet.fds)
            elif packet.kind == "UNSTORE":
                for name in packet.body["names"]:
                    os.close(self.lent.pop(name))
            self.front._lent = self.lent

    def close(self) -> None:
        self.front.close()
        for fd in self.lent.values():
            os.close(fd)
        for end in [*self.ends.values(), *self._open]:
            if isinstance(end, socket.socket):
                end.close()
            elif isinstance(end, int):
                os.close(end)
        self.folder.cleanup()


def memory() -> int:
    """A page for kept state."""
    fd = os.memfd_create("kept")
    os.truncate(fd, KEPT_SIZE)
    return fd


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Its first true value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)
    return value
