"""From `kill -9` of a disk's process to the first request that its successor completes, while the guest writes.

The guest keeps one 4 KiB write under way. The counter of completed requests is in the device's shared page, which lives
in the keeper and outlives the process; the benchmark looks at it there. Each kill is the first of a machine: a process
that dies again and again while young is restarted after a growing pause, which is not what is measured here.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.boot import BUNDLED
from bench.guests import REPOSITORY, Console, bulkhead, scratch
from bench.idle import role
from bench.measure import Figure, Run, Sample
from proto.errors import ProtocolError
from proto.pages import PAGE_SIZE, DeviceToCore, format_device_page, queue_statistics

PEER = ""
NAME = "bench-recovery"
KILLS = 30
IMAGE_SIZE = 64 << 20
DEADLINE = 20.0
LOOK = 0.0002  # seconds between two looks at the counter


def device_page(keeper: int) -> memoryview:
    """The device→core page among the segments that a keeper holds, for reading. The machine has one device."""
    sample = bytearray(PAGE_SIZE)
    format_device_page(memoryview(sample))
    begin = bytes(sample[: DeviceToCore.offset("epoch")])  # magic, version, layout
    for name in os.listdir(f"/proc/{keeper}/fd"):
        with contextlib.suppress(OSError):
            path = f"/proc/{keeper}/fd/{name}"
            if os.stat(path).st_size == PAGE_SIZE and "/dev/shm/" in os.readlink(path):
                with open(path, "rb") as file:
                    page = memoryview(mmap.mmap(file.fileno(), PAGE_SIZE, prot=mmap.PROT_READ))
                if page[: len(begin)] == begin:
                    return page
    raise ProtocolError("the keeper holds no device page")


def device_pid() -> int:
    """The process that serves the disk, as `bulkhead ps` has it."""
    command = bulkhead("ps", "--json", "--machine", NAME)
    rows = json.loads(subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout)["processes"]
    return next(int(row["pid"]) for row in rows if row["id"] == "blk0")


def wait_for_more(page: memoryview, completed: int) -> None:
    """Until more than `completed` requests are completed. Raises RuntimeError when none is."""
    end = time.monotonic() + DEADLINE
    while queue_statistics(page, 0).requests <= completed:
        if time.monotonic() > end:
            raise RuntimeError(f"no request was completed within {DEADLINE:.0f} s")
        time.sleep(LOOK)


def kill_once(image: Path) -> float:
    """Start a machine that writes, kill its disk's process, and see how many milliseconds the pause takes."""
    write = "cmd=diskbench,write,60000"
    command = bulkhead("run", "--name", NAME, "--kernel", BUNDLED, "--append", write, "--disk", f"{image},id=blk0")
    with Console(command) as console:
        console.until(b"> diskbench", DEADLINE)
        page = device_page(next(process.pid for process in console.processes() if role(process) == "keeper"))
        wait_for_more(page, 100)
        pidfd = os.pidfd_open(device_pid())
        killed = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], DEADLINE)  # dead: nobody counts any more
        wait_for_more(page, queue_statistics(page, 0).requests)
        taken = time.monotonic() - killed
        os.close(pidfd)
    return taken * 1000


def measure(run: Run) -> Iterator[Figure]:
    """The median, and the 99th percentile (of thirty kills: the longest)."""
    kills = run.rounds(KILLS, 3)
    times = []
    with scratch() as folder:
        image = Path(folder) / "disk.img"
        image.write_bytes(bytes(IMAGE_SIZE))
        for number in range(kills):
            run.progress(f"kill {number + 1} of {kills}")
            times.append(kill_once(image))
    times.sort()
    longest = times[min(len(times) - 1, int(0.99 * len(times)))]
    yield Figure("kill -9 to the next answer", "ms", Sample.of(times), note=f"p99 {longest:.0f} ms of {kills} kills")
