"""From `kill -9` of a device's process to the first request that its successor completes, while the guest works.

The guest keeps one 4 KiB write under way. The counter of completed requests is in the device's shared page, which lives
in the keeper and outlives the process; the benchmark looks at it there. Each kill is the first of a machine with a
spare waiting: a process that dies again and again while young is restarted after a growing pause, which is not what is
measured here.

The curve over guest memory is of a device that has touched all of it (`bench/touching.py`): its page tables must be
torn down before anybody may touch its rings.

QEMU beside it: the same guest, its disk in a qemu-storage-daemon over vhost-user, killed and started again at once, as
the best of supervisors would; `reconnect=1`, the shortest pause that it takes. A write has arrived when the image's
time of modification moves.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.boot import BUNDLED
from bench.guests import REPOSITORY, Console, bulkhead, qemu, scratch
from bench.idle import role
from bench.measure import Figure, Goal, Missing, Run, Sample
from proto.errors import ProtocolError
from proto.pages import PAGE_SIZE, DeviceToCore, format_device_page, queue_statistics

PEER = "qemu-system-riscv64 with vhost-user-blk, qemu-storage-daemon"
NAME = "bench-recovery"
KILLS = 30
CURVE = ("256M", "512M", "1G", "2G", "4G")
CURVE_KILLS = 5
PEER_KILLS = 5
IMAGE_SIZE = 64 << 20
DEADLINE = 30.0
LOOK = 0.0002  # seconds between two looks at the counter
MEDIAN_GOAL = Goal("<=", 20)
STORAGE = "qemu-storage-daemon"


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


def rows() -> list[dict[str, object]]:
    """The processes, as `bulkhead ps` has them."""
    command = bulkhead("ps", "--json", "--machine", NAME)
    answer = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, object]] = json.loads(answer.stdout)["processes"]
    return found


def device_pid() -> int:
    """The process that serves the disk."""
    return next(int(str(row["pid"])) for row in rows() if row["id"] == "blk0")


def wait_for(condition: Callable[[], bool], what: str, look: float = LOOK) -> None:
    """Raises RuntimeError when it does not come true in time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"no {what} within {DEADLINE:.0f} s")
        time.sleep(look)


def wait_for_more(page: memoryview, completed: int) -> None:
    """Until more than `completed` requests are completed. Raises RuntimeError when none is."""
    wait_for(lambda: queue_statistics(page, 0).requests > completed, "request completed")


def wait_for_spare() -> None:
    """Until a process waits that can become the device."""
    wait_for(lambda: any(row["role"] == "spare" and row["state"] == "waiting" for row in rows()), "spare", 0.05)


def kill_once(command: list[str], first: int) -> float:
    """Start a machine, kill its device's process when it has served `first` requests, and see how many milliseconds
    the pause takes."""
    with Console(command) as console:
        console.until(b"> diskbench", DEADLINE)
        page = device_page(next(process.pid for process in console.processes() if role(process) == "keeper"))
        wait_for_more(page, first)
        wait_for_spare()
        pidfd = os.pidfd_open(device_pid())
        killed = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], DEADLINE)  # dead: nobody counts any more
        wait_for_more(page, queue_statistics(page, 0).requests)
        taken = time.monotonic() - killed
        os.close(pidfd)
    return taken * 1000


def disk_machine(image: Path) -> list[str]:
    """A guest that writes all the time."""
    write = "cmd=diskbench,write,60000"
    return bulkhead("run", "--name", NAME, "--kernel", BUNDLED, "--append", write, "--disk", f"{image},id=blk0")


def touching_machine(memory: str) -> list[str]:
    """A guest with so much memory that writes all the time, to a disk that has touched all of it."""
    device = f"{REPOSITORY}/bench/touching.py:Touching,id=blk0"
    words = ["run", "--name", NAME, "-m", memory, "--kernel", BUNDLED, "--append", "cmd=diskbench,write,60000"]
    return bulkhead(*words, "--device", device)


def daemon(image: Path, path: Path) -> subprocess.Popen[bytes]:
    """A vhost-user back end that listens."""
    path.unlink(missing_ok=True)
    words = ["--blockdev", f"driver=file,node-name=f,filename={image},locking=off"]
    words += ["--blockdev", "driver=raw,node-name=d,file=f", "--export"]
    words += [f"vhost-user-blk,id=e,addr.type=unix,addr.path={path},node-name=d,writable=on"]
    return subprocess.Popen([STORAGE, *words], stderr=subprocess.DEVNULL)


def peer_kills(image: Path, folder: Path, count: int) -> list[float]:
    """The same of QEMU, in one machine: it has no back-off."""
    if not shutil.which(STORAGE):
        raise Missing(f"{STORAGE} is missing: apt-get install qemu-system-common qemu-utils")
    path = folder / "back-end"
    backend = daemon(image, path)
    try:
        wait_for(path.exists, "back end")
        words = ["-machine", "memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"]
        words += ["-chardev", f"socket,id=c,path={path},reconnect=1", "-device", "vhost-user-blk,chardev=c"]
        times = []
        with Console(qemu(*words, "-kernel", BUNDLED, "-append", "cmd=diskbench,write,60000")) as console:
            console.until(b"> diskbench", DEADLINE)
            for _ in range(count):
                wait_for_write(image)
                killed = time.monotonic()
                backend.kill()
                backend.wait()
                backend = daemon(image, path)
                wait_for_write(image)
                times.append((time.monotonic() - killed) * 1000)
        return times
    finally:
        backend.kill()
        backend.wait()


def wait_for_write(image: Path) -> None:
    """Until something is written to a file."""
    before = image.stat().st_mtime_ns
    wait_for(lambda: image.stat().st_mtime_ns != before, "write")


def measure(run: Run) -> Iterator[Figure]:
    """The median, and the 99th percentile (of thirty kills: the longest); the curve; the peer."""
    kills = run.rounds(KILLS, 3)
    with scratch() as name:
        folder = Path(name)
        image = folder / "disk.img"
        image.write_bytes(bytes(IMAGE_SIZE))
        times = []
        for number in range(kills):
            run.progress(f"kill {number + 1} of {kills}")
            times.append(kill_once(disk_machine(image), 100))
        times.sort()
        longest = times[min(len(times) - 1, int(0.99 * len(times)))]
        note = f"p99 {longest:.0f} ms of {kills} kills"
        yield Figure("kill -9 to the next answer", "ms", Sample.of(times), goal=MEDIAN_GOAL, note=note)
        run.progress(f"{PEER}")
        peer = Sample.of(peer_kills(image, folder, run.rounds(PEER_KILLS, 2)))
        yield Figure("the same of QEMU, vhost-user, reconnect=1", "ms", peer)
    for memory in CURVE:
        run.progress(f"guest memory of {memory}")
        touched = [kill_once(touching_machine(memory), 200) for _ in range(run.rounds(CURVE_KILLS, 2))]
        yield Figure(f"a device that has touched {memory} of guest memory", "ms", Sample.of(touched))
