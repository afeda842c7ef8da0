"""Ring-level virtio-fs: this project's device process against QEMU's virtiofsd.

`python -m bench.fs_ring` alternates the two on the same directory in the page cache, with the same driver program
(`bench.script`), and prints operations a second and their ratio. The FUSE requests are those Linux sends; an operation
is what its name says with everything that belongs to it (a file that is made is closed, removed and forgotten).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.__main__ import line
from bench.measure import Figure, Goal, Missing, Run, alternate, compare
from bench.pinning import pinned
from bench.script import Script, load_script
from bench.vhost_user import VirtioFsDaemon
from launcher.replay.driver import Driver
from launcher.replay.frontend import GPA, FrontEnd
from native.memory import Area

PEER = "virtiofsd"
PROGRAMS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
NEXT, WRITE = 1, 2
REQUESTS, RESPONSES, PIECE = 0x40000, 0x400000, 64 << 10
RESPONSE_ROOM = 1 << 21
SPIN = 20_000  # ns the driver looks before it sleeps, as in `bench.blk_ring`
IN_HEADER = struct.Struct("<IIQQIIIHH")
LOOKUP, FORGET, GETATTR, UNLINK, OPEN, READ, FUSE_WRITE, RELEASE = 1, 2, 3, 10, 14, 15, 16, 18
INIT, OPENDIR, READDIR, RELEASEDIR, CREATE = 26, 27, 28, 29, 35
MIB = 1 << 20
OFFERED = 0x3BFFFFFF  # flags of INIT: all that Linux has, but no DAX


@dataclass
class Request:
    """One request: its bytes, the bytes its response may have, and what of the response others need, as (offset in the
    response, step, offset in that step's request)."""

    opcode: int
    node: int = 1
    body: bytes = b""
    room: int = 256
    gives: tuple[tuple[int, int, int], ...] = ()

    def bytes(self) -> bytes:
        return IN_HEADER.pack(40 + len(self.body), self.opcode, 9, self.node, 0, 0, 1, 0, 0) + self.body


@dataclass(frozen=True)
class Case:
    """An operation: the requests it takes, given the node and handle of `data`, a file of 1 MiB."""

    name: str
    make: Callable[[int, int], list[Request]]
    times: int


def transfer(handle: int, size: int) -> bytes:
    return struct.pack("<QQIIQII", handle, 0, size, 0, 0, 0, 0)


def create(node: int, handle: int) -> list[Request]:
    fields = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o100644, 0, 0)
    return [
        Request(CREATE, body=fields + b"new\0", gives=((16, 3, 16), (16 + 128, 1, 40))),
        Request(RELEASE, body=bytes(24)),
        Request(UNLINK, body=b"new\0"),
        Request(FORGET, body=struct.pack("<Q", 1), room=0),
    ]


def listing(node: int, handle: int) -> list[Request]:
    return [
        Request(OPENDIR, body=bytes(8), gives=((16, 1, 40), (16, 2, 40))),
        Request(READDIR, body=transfer(0, 32768), room=32768 + 16),
        Request(RELEASEDIR, body=bytes(24)),
    ]


CASES = (
    Case("look a name up", lambda node, handle: [Request(LOOKUP, body=b"data\0")], 20_000),
    Case("ask for attributes", lambda node, handle: [Request(GETATTR, node, bytes(16))], 20_000),
    Case("make, close, remove a file", create, 2_000),
    Case("list 100 names", listing, 3_000),
    Case("read 4 KiB", lambda node, handle: [Request(READ, node, transfer(handle, 4096), 4096 + 16)], 20_000),
    Case("read 1 MiB", lambda node, handle: [Request(READ, node, transfer(handle, MIB), MIB + 16)], 2_000),
    Case("write 1 MiB", lambda node, handle: [Request(FUSE_WRITE, node, transfer(handle, MIB) + bytes(MIB))], 2_000),
)


class Side:
    """A device, its queue of requests, and a script in its RAM."""

    name = ""
    pid = 0
    ram: Any
    driver: Driver

    def begin(self) -> None:
        """INIT, and a handle of `data`."""
        self._area = Area.allocate(Script.size())
        self.script = Script(self._area.address, self._area)
        self.driver.spin = SPIN
        self.play([Request(INIT, 0, struct.pack("<IIII", 7, 31, 1 << 20, OFFERED))], 1)
        self.play([Request(LOOKUP, body=b"data\0")], 1)
        self.node = self.answer("<Q", 16)
        self.play([Request(OPEN, self.node, struct.pack("<II", os.O_RDWR, 0))], 1)
        self.handle = self.answer("<Q", 16)

    def answer(self, layout: str, offset: int) -> int:
        """A number of the last script's first response."""
        value: int = struct.unpack_from(layout, self.ram.view, RESPONSES + offset)[0]
        return value

    def play(self, requests: Sequence[Request], times: int) -> float:
        """Seconds. Raises RuntimeError when a request fails."""
        self.lay_out(requests)
        script = self.script
        script.count, script.left, script.at, script.failed = len(requests), times, 0, 0
        begun = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - begun
        if script.failed:
            error = struct.unpack_from("<i", self.ram.view, RESPONSES + 4)[0]
            raise RuntimeError(f"{self.name}: {script.failed} requests failed, the first step with {error}")
        return seconds

    def lay_out(self, requests: Sequence[Request]) -> None:
        """Write requests and descriptors, and the steps."""
        request_at, response_at, free = REQUESTS, RESPONSES, 0
        places = []
        for request in requests:
            places.append((request_at, response_at))
            request_at += len(request.bytes()) + 0xFFF & ~0xFFF
            response_at += request.room + 0xFFF & ~0xFFF
        for number, (request, (readable, writable)) in enumerate(zip(requests, places, strict=True)):
            data = request.bytes()
            self.ram.view[readable : readable + len(data)] = data
            self.ram.view[writable : writable + 16] = bytes(16)
            chain = [*pieces(readable, len(data), 0), *pieces(writable, request.room, WRITE)]
            for place, (at, size, flags) in enumerate(chain):
                last = place == len(chain) - 1
                flags |= 0 if last else NEXT
                struct.pack_into("<QIHH", self.ram.view, 16 * (free + place), GPA + at, size, flags, free + place + 1)
            step, base = self.script.steps[number], self.ram.area.address
            step.head = free
            step.error = base + writable + 4 if request.room else 0
            for slot in range(2):
                step.source[slot] = 0
            for slot, (offset, other, where) in enumerate(request.gives):
                step.source[slot] = base + writable + offset
                step.target[slot] = base + places[other][0] + where
            free += len(chain)

    def run(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def pieces(at: int, size: int, flags: int) -> Iterator[tuple[int, int, int]]:
    """Header and data apart, data in pieces, as a guest's memory is."""
    head = min(size, 16 if flags & WRITE else 80)
    if head:
        yield at, head, flags
    for offset in range(head, size, PIECE):
        yield at + offset, min(PIECE, size - offset), flags


class Ours(Side):
    """This project's device."""

    name = "bulkhead"

    def __init__(self, directory: str) -> None:
        self.front = FrontEnd("virtiofs", {"tag": "bench"}, backend=directory)
        self.front.start()
        self.front.negotiate()
        self.front.add_queue(0, 128, 0x20000)
        self.layout = self.front.add_queue(1, 256, 0)
        self.front.driver_ok()
        self.driver, self.ram = self.layout.driver, self.front.ram
        assert self.front.process is not None
        self.pid = self.front.process.pid
        self.begin()

    def run(self) -> None:
        play = load_script().play
        while stop := play(self.driver, self.script):
            if stop == 1:
                self.front.kick(self.layout.index)
            else:
                self.front.sleep()
                self.front.native.take_calls(self.front.mine, self.front.theirs)

    def close(self) -> None:
        self.front.close()


class Theirs(Side):
    """QEMU's virtiofsd, without a sandbox of its own and asking the host each time, as ours does."""

    name = PEER

    def __init__(self, directory: str) -> None:
        program = next((path for path in PROGRAMS if Path(path).exists()), None)
        if program is None:
            raise Missing("virtiofsd is missing: apt install qemu-system-common")
        self.daemon = VirtioFsDaemon(program, directory, "cache=none", "sandbox=chroot")
        self.driver = self.daemon.add_queue(256, 0, index=1)
        self.ram, self.pid = self.daemon.ram, self.daemon.process.pid
        self.begin()

    def run(self) -> None:
        if load_script().play(self.driver, self.script):
            raise RuntimeError("virtiofsd does not answer")

    def close(self) -> None:
        self.daemon.close()


def fill(directory: str) -> None:
    """What the cases find."""
    Path(directory, "data").write_bytes(os.urandom(MIB))
    for number in range(100):
        Path(directory, f"a name, the {number:03}th of them").touch()


@contextlib.contextmanager
def sides() -> Iterator[tuple[Side, Side]]:
    """Both, each on a directory of its own."""
    with contextlib.ExitStack() as stack:
        made: list[Side] = []
        for kind in (Ours, Theirs):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkhead-bench-"))
            fill(directory)
            side = kind(directory)
            stack.callback(side.close)
            made.append(side)
        yield made[0], made[1]


def rate(side: Side, case: Case, times: int) -> float:
    """Operations a second."""
    return times / side.play(case.make(side.node, side.handle), times)


def measure(run: Run) -> Iterator[Figure]:
    """The figures, for `python -m bench`."""
    with sides() as (ours, theirs), pinned(ours.pid, theirs.pid):
        for case in CASES:
            times = max(100, case.times // (10 if run.quick else 1))
            for side in (ours, theirs):
                rate(side, case, max(50, times // 10))  # warm up
            values = alternate(
                lambda case=case, times=times: rate(ours, case, times),  # type: ignore[misc]
                lambda case=case, times=times: rate(theirs, case, times),  # type: ignore[misc]
                rounds=run.rounds(7, 3),
                progress=lambda text, case=case: run.progress(f"{case.name}: {text}"),  # type: ignore[misc]
            )
            yield Figure.compared(case.name, "/s", compare(*values), Goal(">=", 1.0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        for figure in measure(Run(quick=options.quick)):
            print(json.dumps(figure.as_dict()) if options.json else line(PEER, figure), flush=True)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
