"""Notification and MMIO round trips over the link, against a bare pyzmq round trip (and a pair of eventfds).

* *wake-up*: driver and device both asleep; KICK wakes the device, which reads 512 bytes, and CALL wakes the driver;
* *awake*: the same load with the awake words on, against the wake-up: it must never be slower;
* *both awake*: the driver looks for 50 us before it sleeps, as a running hart does;
* *MMIO read*: MMIO_READ of a register of a device in Python, and its answer.

The bare round trip is 48 bytes between two PAIR sockets over ipc, in Python, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import zmq

from bench.blk_ring import Case, make_image, prepare
from bench.pinning import pinned
from launcher.replay.frontend import FrontEnd
from proto.pages import LinkMode

PEER = "bare pyzmq"
MESSAGE = bytes(48)

ECHO_ZMQ = """
import sys, zmq
socket = zmq.Context().socket(zmq.PAIR)
socket.connect(sys.argv[1])
while True:
    socket.send(socket.recv())
"""
ECHO_EVENTFD = """
import os, select, sys
there, back = int(sys.argv[1]), int(sys.argv[2])
poll = select.poll()
poll.register(there, select.POLLIN)
while True:
    poll.poll()
    os.eventfd_read(there)
    os.eventfd_write(back, 1)
"""


class BareZmq:
    """One PAIR socket each side, 48 bytes there and back, nothing else."""

    def __init__(self, folder: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(f"ipc://{folder}/echo")
        self.process = subprocess.Popen([sys.executable, "-c", ECHO_ZMQ, f"ipc://{folder}/echo"])

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, trips: int) -> float:
        begun = time.perf_counter()
        for _ in range(trips):
            self.socket.send(MESSAGE)
            self.socket.recv()
        return (time.perf_counter() - begun) / trips

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close(0)


class EventfdPair:
    """Two eventfds and poll."""

    def __init__(self) -> None:
        self.there, self.back = os.eventfd(0), os.eventfd(0)
        arguments = [str(self.there), str(self.back)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO_EVENTFD, *arguments], pass_fds=[self.there, self.back]
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, trips: int) -> float:
        begun = time.perf_counter()
        for _ in range(trips):
            os.eventfd_write(self.there, 1)
            os.eventfd_read(self.back)
        return (time.perf_counter() - begun) / trips

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.there)
        os.close(self.back)


class Notifications:
    """Depth 1 on a block device: one notification and one interrupt a trip."""

    def __init__(self, image: str, mode: LinkMode, spin: int) -> None:
        self.front = FrontEnd("blk", backend=f"file:{image},ro", mode=mode)
        self.front.start()
        self.front.negotiate()
        self.layout = self.front.add_queue()
        self.front.driver_ok()
        self.spin = spin
        assert self.front.process is not None
        self.pid = self.front.process.pid

    def run(self, trips: int) -> float:
        ram = self.front.ram
        prepare(ram.view, ram.area.address, self.layout.driver, Case(512, 1, trips))
        self.layout.driver.spin = self.spin
        return self.front.run(self.layout) / trips

    def close(self) -> None:
        self.front.close()


class MmioReads:
    """A register of the mailbox."""

    def __init__(self) -> None:
        self.front = FrontEnd("mailbox")
        self.front.start()
        self.sequence = 0
        assert self.front.process is not None
        self.pid = self.front.process.pid

    def run(self, trips: int) -> float:
        begun = time.perf_counter()
        for _ in range(trips):
            self.sequence += 1
            self.front.request("MMIO_READ", {"offset": 4, "size": 4, "sequence": self.sequence})
        return (time.perf_counter() - begun) / trips

    def close(self) -> None:
        self.front.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trips", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-pin", action="store_true", help="let the host place the two sides")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkhead-bench-"))
        image = make_image(folder)
        sides: dict[str, Any] = {
            PEER: BareZmq(folder),
            "eventfd pair": EventfdPair(),
            "wake-up": Notifications(image, LinkMode.MESSAGES, 0),
            "awake": Notifications(image, LinkMode.WORDS, 0),
            "both awake": Notifications(image, LinkMode.WORDS, 50_000),
            "MMIO read": MmioReads(),
        }
        for side in sides.values():
            stack.callback(side.close)
            side.run(100)
        if not options.no_pin:
            stack.enter_context(pinned(*(side.pid for side in sides.values())))
        rows = measure(sides, options.rounds, options.trips)
    print(json.dumps(rows) if options.json else "\n".join(line(name, row) for name, row in rows.items()))
    return 0


def measure(sides: dict[str, Any], rounds: int, trips: int) -> dict[str, dict[str, Any]]:
    """Microseconds a trip and ratios to the bare round trip, each round by itself."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            taken[name].append(sides[name].run(trips) * 1e6)
    return {name: row(times, taken[PEER]) for name, times in taken.items()} | {
        "awake against wake-up": row(taken["awake"], taken["wake-up"])
    }


def row(times: list[float], others: list[float]) -> dict[str, Any]:
    ratios = [mine / theirs for mine, theirs in zip(times, others, strict=True)]
    return {
        "us": round(statistics.median(times), 1),
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def line(name: str, values: dict[str, Any]) -> str:
    low, high = values["range"]
    peer = "the wake-up" if name == "awake against wake-up" else PEER
    return f"{name:22} {values['us']:8.1f} us  {values['ratio']:5.2f} x {peer} ({low}-{high})"


if __name__ == "__main__":
    sys.exit(main())
