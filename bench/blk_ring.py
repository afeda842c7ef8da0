"""Ring-level virtio-blk: this project's device process against qemu-storage-daemon.

`python -m bench.blk_ring` alternates the two on the same image in the page cache, with the same driver program, and
prints IOPS and their ratio (median of the rounds, lowest and highest beside it), and for ours the messages a request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

from bench.pinning import pinned
from bench.vhost_user import StorageDaemon
from launcher.replay.driver import SLOT_HEADERS, Driver, load_driver
from launcher.replay.frontend import GPA, FrontEnd

IMAGE_SIZE = 128 << 20
RINGS, HEADERS, DATA = 0x0, 0x20000, 0x100000
NEXT, WRITE = 1, 2
SPIN = 20_000  # ns the driver looks before it sleeps: what a guest does between a notify and its WFI


@dataclass(frozen=True)
class Case:
    """One shape of load."""

    block: int
    depth: int
    requests: int
    write: bool = False
    sequential: bool = False
    cold: bool = False  # the host's page cache has nothing of the image before each run

    @property
    def name(self) -> str:
        order = " sequential" if self.sequential else ""
        where = ", from the disk" if self.cold else ""
        return f"{'write' if self.write else 'read'} {self.block // 1024} KiB{order} depth {self.depth}{where}"


CASES = (
    Case(4096, 1, 20_000),
    Case(4096, 1, 20_000, write=True),
    Case(4096, 32, 200_000),
    Case(4096, 32, 200_000, write=True),
    Case(131072, 1, 4_000, sequential=True),
    Case(131072, 1, 4_000, write=True, sequential=True),
    Case(131072, 32, 8_000, sequential=True),
    Case(131072, 32, 8_000, write=True, sequential=True),
    Case(4096, 32, 6_000, cold=True),  # the last: it leaves little of the image in the page cache
)


def prepare(ram: memoryview, address: int, driver: Driver, case: Case) -> None:
    """Three descriptors a slot: header, data, status."""
    for slot in range(case.depth):
        header = HEADERS + slot * SLOT_HEADERS
        data = DATA + slot * case.block
        first = RINGS + 16 * 3 * slot
        struct.pack_into("<QIHH", ram, first, GPA + header, 16, NEXT, 3 * slot + 1)
        flags = NEXT | (0 if case.write else WRITE)
        struct.pack_into("<QIHH", ram, first + 16, GPA + data, case.block, flags, 3 * slot + 2)
        struct.pack_into("<QIHH", ram, first + 32, GPA + header + 16, 1, WRITE, 0)
    driver.headers = address + HEADERS
    driver.depth = driver.idle = case.depth
    driver.total = driver.sent + case.requests
    driver.seed = 1
    driver.blocks = IMAGE_SIZE // case.block
    driver.sequential = int(case.sequential)
    driver.block_sectors = case.block // 512
    driver.type = int(case.write)
    driver.spin = SPIN


class Ours:
    """This project's block device."""

    name = "bulkhead"

    def __init__(self, image: str) -> None:
        self.image = image
        self.front = FrontEnd("blk", backend=f"file:{image}")
        self.front.start()
        self.front.negotiate()
        self.layout = self.front.add_queue(0, 256, RINGS)
        self.front.driver_ok()
        self.driver = self.layout.driver
        self.ram = self.front.ram
        assert self.front.process is not None
        self.pid = self.front.process.pid

    def run(self) -> float:
        return self.front.run(self.layout)

    def messages(self) -> int:
        return self.front.kicks + self.front.calls

    def close(self) -> None:
        self.front.close()


class Theirs:
    """qemu-storage-daemon with io_uring, or threads where the host has none."""

    name = "qemu-storage-daemon"

    def __init__(self, image: str) -> None:
        self.image = image
        try:
            self.daemon = StorageDaemon(image)
        except OSError:
            self.daemon = StorageDaemon(image, aio="threads")
        self.driver = self.daemon.add_queue(256, RINGS)
        self.ram = self.daemon.ram
        self.pid = self.daemon.process.pid

    def run(self) -> float:
        native = load_driver()
        begun = time.perf_counter()
        stop = native.run(self.driver)
        assert stop == 0
        return time.perf_counter() - begun

    def messages(self) -> int:
        return self.driver.kicks + self.driver.sleeps

    def close(self) -> None:
        self.daemon.close()


def measure(side: Any, case: Case) -> tuple[float, float]:
    """IOPS, and notifications a request."""
    driver = side.driver
    if case.cold:
        forget(side.image)
    prepare(side.ram.view, side.ram.area.address, driver, case)
    before, failed = side.messages(), driver.failed
    seconds = side.run()
    if driver.failed != failed:
        raise RuntimeError(f"{side.name}: {driver.failed - failed} requests failed")
    return case.requests / seconds, (side.messages() - before) / case.requests


def forget(image: str) -> None:
    """What the host's page cache has of it."""
    with open(image, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_image(folder: str, name: str = "disk.img") -> str:
    """A file of random bytes, in the page cache in pages of 4 KiB: a large folio, which a large write makes, costs ext4
    8 us at each small write to it, whoever makes it, and that would be all that is measured."""
    path = f"{folder}/{name}"
    with open(path, "wb", buffering=0) as image:
        for _ in range(IMAGE_SIZE >> 12):
            image.write(os.urandom(1 << 12))
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-pin", action="store_true", help="let the host place driver and device")
    options = parser.parse_args()
    if not shutil.which("qemu-storage-daemon"):
        print("qemu-storage-daemon is missing: apt install qemu-utils", file=sys.stderr)
        return 1
    rows = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkhead-bench-"))
        image, other = make_image(folder), make_image(folder, "other.img")
        sides = Ours(image), Theirs(other)
        stack.enter_context(contextlib.nullcontext() if options.no_pin else pinned(*(side.pid for side in sides)))
        try:
            for case in CASES:
                rows.append(compare(sides, case, options.rounds, options.scale))
                if not options.json:
                    print(line(rows[-1]), flush=True)
        finally:
            for side in sides:
                side.close()
    if options.json:
        print(json.dumps(rows))
    return 0


def compare(sides: tuple[Any, Any], case: Case, rounds: int, scale: float) -> dict[str, Any]:
    case = replace(case, requests=max(100, int(case.requests * scale)))
    iops: dict[str, list[float]] = {side.name: [] for side in sides}
    messages = 0.0
    for side in sides:
        measure(side, replace(case, requests=max(100, case.requests // 20)))  # warm up
    for turn in range(rounds):
        for side in sides if turn % 2 else sides[::-1]:
            rate, told = measure(side, case)
            iops[side.name].append(rate)
            if side is sides[0]:
                messages = told
    ours, theirs = (iops[side.name] for side in sides)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "case": case.name,
        "bulkhead_iops": round(statistics.median(ours)),
        "qemu_iops": round(statistics.median(theirs)),
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "messages_per_request": round(messages, 4),
    }


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:24} {row['bulkhead_iops']:>9,} IOPS  qemu-storage-daemon {row['qemu_iops']:>9,}"
        f"  ratio {row['ratio']:5.2f} ({row['range'][0]}-{row['range'][1]})"
        f"  messages a request {row['messages_per_request']:.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
