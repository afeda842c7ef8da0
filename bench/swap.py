"""How long a swap keeps the guest waiting: a disk is swapped to and fro while the guest writes to it.

The guest keeps one 4 KiB write under way. What is measured is the longest time in which no request was completed, in a
window around each swap, from the counter in the device's shared page, which both processes count up. Such windows
without a swap are measured as often, in turn with the others: that much is the host's own doing.

`another image`: old and new have different images, so the new one is opened before the old one stops. `the same
image`: the lock is handed over, and the image is opened while the guest waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.boot import BUNDLED
from bench.guests import Console, bulkhead, scratch
from bench.idle import role
from bench.measure import Figure, Run, Sample
from bench.recovery import DEADLINE, device_page, wait_for_more
from launcher.control import connect, request
from proto.channel import Channel
from proto.pages import queue_statistics

PEER = ""
NAME = "bench-swap"
SWAPS = 200
IMAGE_SIZE = 64 << 20
WINDOW = 0.15  # seconds after a swap's end that still belong to it, and the length of a window without one
LOOK = 0.0001  # seconds between two looks at the counter


class Watcher(threading.Thread):
    """Looks at the counter all the time, and knows the longest silence since it was asked last."""

    def __init__(self, page: memoryview) -> None:
        super().__init__(daemon=True)
        self._page = page
        self._longest = 0.0
        self.stopping = False

    def run(self) -> None:
        count, since = -1, time.monotonic()
        while not self.stopping:
            now, seen = time.monotonic(), queue_statistics(self._page, 0).requests
            if seen != count:
                count, since = seen, now
            self._longest = max(self._longest, now - since)
            time.sleep(LOOK)

    def take(self) -> float:
        """Milliseconds."""
        longest, self._longest = self._longest, 0.0
        return longest * 1000


def swap(channel: Channel, backend: str, properties: dict[str, Any]) -> dict[str, Any]:
    """One swap, to its end. Raises RuntimeError when it does not come to be."""
    number = request(channel, "SWAP", id="blk0", backend=backend, properties=properties)["swap"]
    end = time.monotonic() + DEADLINE
    while True:
        outcome = request(channel, "SWAPPED", swap=number)
        if outcome["state"] == "done":
            return outcome
        if outcome["state"] == "failed" or time.monotonic() > end:
            raise RuntimeError(f"a swap is {outcome['state']}: {outcome['error']}")
        time.sleep(0.01)


def wait_for_spare(channel: Channel) -> None:
    """Until a process waits to become the next one: swaps in a row would measure how fast Python starts."""
    end = time.monotonic() + DEADLINE
    while not any(row["role"] == "spare" and row["state"] == "waiting" for row in request(channel, "PS")["processes"]):
        if time.monotonic() > end:
            raise RuntimeError("no spare process came up")
        time.sleep(0.02)


def figures(name: str, silences: list[float], pauses: list[float], quiet: list[float]) -> Iterator[Figure]:
    """The figures of one kind of swap."""
    for sample in (silences, pauses, quiet):
        sample.sort()

    def at(sample: list[float], share: float) -> float:
        return sample[min(len(sample) - 1, int(share * len(sample)))]

    note = (
        f"p99 {at(silences, 0.99):.1f} ms (goal: 20), max {silences[-1]:.1f} ms of {len(silences)}; without a swap p50 "
        f"{at(quiet, 0.5):.1f}, p99 {at(quiet, 0.99):.1f}, max {quiet[-1]:.1f} ms"
    )
    yield Figure(f"{name}: longest silence", "ms", Sample.of(silences), note=note)
    note = f"p99 {at(pauses, 0.99):.1f} ms, max {pauses[-1]:.1f} ms; as the keeper sees it"
    yield Figure(f"{name}: from QUIESCE to the new process", "ms", Sample.of(pauses), note=note)


def measure(run: Run) -> Iterator[Figure]:
    """Both kinds, in one machine."""
    swaps = run.rounds(SWAPS, 5)
    with scratch() as folder:
        images = [Path(folder) / f"{letter}.img" for letter in "ab"]
        for image in images:
            image.write_bytes(bytes(IMAGE_SIZE))
        words = ("--append", "cmd=diskbench,write,3600000", "--disk", f"{images[0]},id=blk0")
        with Console(bulkhead("run", "--name", NAME, "--kernel", BUNDLED, *words)) as console:
            console.until(b"> diskbench", DEADLINE)
            page = device_page(next(process.pid for process in console.processes() if role(process) == "keeper"))
            wait_for_more(page, 100)
            watcher = Watcher(page)
            watcher.start()
            try:
                with connect(NAME) as channel:
                    for name in ("another image", "the same image"):
                        yield from figures(name, *several(run, channel, watcher, name, images, swaps))
            finally:
                watcher.stopping = True
                watcher.join()


def several(
    run: Run, channel: Channel, watcher: Watcher, name: str, images: list[Path], swaps: int
) -> tuple[list[float], list[float], list[float]]:
    """(silences around swaps, pauses, silences without) in milliseconds."""
    silences, pauses, quiet = [], [], []
    for number in range(swaps):
        run.progress(f"{name}: swap {number + 1} of {swaps}")
        wait_for_spare(channel)
        watcher.take()
        time.sleep(WINDOW)
        quiet.append(watcher.take())
        image = images[(number + 1) % 2] if name == "another image" else images[0]
        outcome = swap(channel, f"file:{image}", {"serial": f"swap{number}"})
        time.sleep(WINDOW)
        silences.append(watcher.take())
        pauses.append(outcome["pause_ms"])
    return silences, pauses, quiet
