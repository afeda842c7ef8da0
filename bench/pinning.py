"""Where a benchmark's two processes run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["pinned"]


@contextlib.contextmanager
def pinned(*pids: int) -> Iterator[None]:
    """This process on one host CPU and the given ones on the next, as a host with a CPU to spare would place them. A
    busy scheduler moves both to one CPU or to two from second to second, which is three times the difference to be
    measured. Under `chrt -r`, which places them by itself, nothing is done: threads of one priority do not interrupt
    each other, so that a pinned process's own threads would wait for each other while it looks for work.
    """
    before = os.sched_getaffinity(0)
    if len(before) < 2 or os.sched_getscheduler(0) == os.SCHED_RR:
        yield
        return
    first, second = sorted(before)[:2]
    try:
        for pid, cpu in ((os.getpid(), first), *((pid, second) for pid in pids)):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {cpu})
        yield
    finally:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), before)
