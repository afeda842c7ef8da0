"""Threads for backends that wait: several requests of a disk at once, their answers given on the device's own thread.

A request is carried out by a worker; its outcome goes to a queue and wakes the device's loop through an eventfd, where
`finished` is called. Workers are daemons: what they have not finished when the process ends is in the in-flight table,
and comes again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Workers"]

Finished = Callable[[BaseException | None], None]


class Workers:
    """So many threads, started with the first work. `fileno()` becomes readable when `collect` has something to do."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Finished]] = queue.SimpleQueue()
        self._done: deque[tuple[Finished, BaseException | None]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._started = 0
        self._busy = 0
        self._lock = threading.Condition()

    def fileno(self) -> int:
        return self._event

    def submit(self, work: Callable[[], None], finished: Finished) -> None:
        """Do `work` on some thread; `collect` then calls `finished` with the exception that it ended in, or None."""
        with self._lock:
            self._busy += 1
            if self._started < min(self._count, self._busy):
                self._started += 1
                threading.Thread(target=self._serve, name=f"{self._name} {self._started}", daemon=True).start()
        self._work.put((work, finished))

    def collect(self) -> None:
        """Tell what was finished. On the thread that owns this object."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return
        while self._done:
            finished, error = self._done.popleft()
            finished(error)

    def wait(self, deadline: float) -> bool:
        """Until nothing is being done, at most `deadline` seconds. False: something still is."""
        end = time.monotonic() + deadline
        with self._lock:
            while self._busy:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._lock.wait(left)
        return True

    def _serve(self) -> None:
        while True:
            work, finished = self._work.get()
            error: BaseException | None = None
            try:
                work()
            except BaseException as caught:
                error = caught
            self._done.append((finished, error))
            with self._lock:
                self._busy -= 1
                self._lock.notify_all()
            os.eventfd_write(self._event, 1)
