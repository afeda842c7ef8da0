"""One device process without a machine (`launcher.replay.frontend`), and where it runs when it is measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from launcher.replay.frontend import GPA, QUEUE_SIZE, QUEUES, FrontEnd, Outlet, QueueLayout, Segment

__all__ = ["GPA", "QUEUES", "QUEUE_SIZE", "FrontEnd", "Outlet", "QueueLayout", "Segment", "pinned"]


@contextlib.contextmanager
def pinned(*pids: int) -> Iterator[None]:
    """This process on one host CPU and the given ones on the next, as a host with a CPU to spare would place them. A
    busy scheduler moves both to one CPU or to two from second to second, which is three times the difference to be
    measured.
    """
    before = os.sched_getaffinity(0)
    if len(before) < 2:
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
