"""Fuzz target of the console: control messages, buffers of every shape on every queue, and a successor in between."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

from devproc.console.device import CONTROL, CONTROL_OUT, ConsoleDevice
from devproc.console.note import INCOMING_MAX
from devproc.console.spec import parse_ports
from devproc.kept import KEPT_SIZE
from proto.virtio import ConsoleEvent, ConsoleFeature, bit
from tests.fuzz.disk import chain, request_seed, unchanged_outside
from tests.fuzz.harness import Source, Target, block

PORTS = "stdio,size=80x25;pty,name=agent;file:/out,name=log,input=/in"
GUEST, HOST, SUCCESSOR, RESET = range(4)
LOOKS = 8  # at descriptors, after each step


class _Bench:
    """A device without a process: what its descriptors lead to, and what it waits for."""

    def __init__(self) -> None:
        count = len(parse_ports(PORTS))
        self.lent = {"kept": _memory(KEPT_SIZE), **{f"port{at}.note": _memory(KEPT_SIZE) for at in range(count)}}
        self.ends = {}
        for number in (0, 1):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self.ends[number] = ours
            self.lent[f"port{number}"] = theirs.detach()
        self.lent["port2"], self.lent["port2.input"] = _memory(0), _memory(64)
        self.watched: dict[int, tuple[Callable[[], None], int]] = {}
        self.begin()

    def begin(self) -> None:
        """A process of the next epoch, with what the one before has kept."""
        self.watched.clear()
        self.device = None  # type: ignore[assignment]  # and its mappings with it
        self.device = device = ConsoleDevice("console0", {}, backend=PORTS)
        device.descriptors = self.lent
        device.watch = lambda fd, ready, events=select.POLLIN: self.watched.__setitem__(fd, (ready, events))
        device.unwatch = lambda fd: self.watched.pop(fd, None)  # type: ignore[assignment, return-value]
        device.start()
        device.driver_features = bit(ConsoleFeature.MULTIPORT)
        device.negotiated()

    def begin_anew(self) -> None:
        """As after the driver's reset, with nothing under way."""
        self.device.reset()
        os.ftruncate(self.lent["port2"], 0)
        for number in self.ends:
            while select.select([self.lent[f"port{number}"]], [], [], 0)[0]:
                os.read(self.lent[f"port{number}"], 1 << 16)
        self.look()

    def look(self) -> None:
        """Tell the device what has happened at its descriptors, and take what it wrote."""
        for _ in range(LOOKS):
            poll = select.poll()
            for fd, (_, events) in self.watched.items():
                poll.register(fd, events)
            for fd, _ in poll.poll(0):
                if fd in self.watched:
                    self.watched[fd][0]()
        for end in self.ends.values():
            while select.select([end], [], [], 0)[0]:
                end.recv(1 << 16)


@cache
def _bench() -> _Bench:
    return _Bench()


def _memory(size: int) -> int:
    fd = os.memfd_create("fuzz")
    os.ftruncate(fd, size)
    return fd


def _say(number: int, event: int, value: int) -> bytes:
    return bytes([GUEST, CONTROL_OUT]) + request_seed(CONTROL.pack(number, event, value), 0)[1:]


def _seeds() -> list[bytes]:
    _bench()  # its descriptors are there from now on
    ready = _say(0, ConsoleEvent.DEVICE_READY, 1)
    for number in range(3):
        ready += _say(number, ConsoleEvent.PORT_READY, 1) + _say(number, ConsoleEvent.PORT_OPEN, 1)

    def chains(*queues: int) -> bytes:
        return b"".join(bytes([GUEST, queue]) + request_seed(b"hello", 64, (2, 7))[1:] for queue in queues)

    come = bytes([HOST, 0]) + block(b"typed") + bytes([HOST, 1]) + block(b"x" * 5000)
    return [
        ready + chains(*range(8)),
        ready + come + chains(0, 4, 4, 6, 2, 2),
        ready + chains(0, 4) + come + bytes([SUCCESSOR]) + chains(0, 4, 1, 5, 7),
        ready + chains(5, 7) + bytes([RESET]) + ready + chains(6, 6),
        struct.pack("<BB", GUEST, CONTROL_OUT) + request_seed(b"\xff" * 8, 8)[1:],
    ]


def _console(data: bytes) -> None:
    """Whatever a driver says, the device writes into the given buffers alone, says each matter once, and keeps what
    its successor can read."""
    source, bench = Source(data), _bench()
    bench.begin_anew()
    checks: list[Callable[[], None]] = []
    while source.left:
        match source.number(1) % 4:
            case 0:
                checks.append(_guest(bench.device, source, len(checks)))
            case 1:
                with suppress(BlockingIOError):
                    bench.ends[source.number(1) % 2].send(source.block()[:INCOMING_MAX] or b"-")
            case 2:
                bench.begin()
            case 3:
                bench.device.reset()
        bench.look()
    for check in checks:
        check()
    said = [tuple(message[:2]) for message in bench.device.pending]
    assert len(said) == len(set(said))
    bench.begin_anew()


def _guest(device: ConsoleDevice, source: Source, number: int) -> Callable[[], None]:
    """A request of the guest's. Returns the check that is made as long as the device may have it."""
    queue = source.number(1) % len(device.queues)
    made, memory, ranges = chain(source)
    made.queue, made.number = queue, number
    before = bytes(memory)
    device.handle(made)
    return partial(unchanged_outside, before, memory, ranges)


TARGETS = (Target("console", "control messages and buffers of a console (devproc.console.device)", _console, _seeds),)
