"""Requests that wait for a lock: tried again when a lock of the guest goes, and every few milliseconds for the host's.

A request that waits is parked: it stays in the in-flight table, and a successor is handed it again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass

from devproc.request import Request
from proto.errors import BackendError

__all__ = ["Alarm", "Waiting"]

PERIOD = 0.02  # seconds between two trials
CLOCK_MONOTONIC, NONBLOCK, CLOEXEC = 1, 0o4000, 0o2000000
_libc = ctypes.CDLL(None, use_errno=True)


class _Timer(ctypes.Structure):
    """struct itimerspec: how often, and when first."""

    _fields_ = [("words", ctypes.c_long * 4)]


class Alarm:
    """A timer that the device's loop can watch, ringing every `PERIOD` seconds while it is on."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK | CLOEXEC)
        if self.fd < 0:
            raise BackendError(f"no timer: {os.strerror(ctypes.get_errno())}")

    def switch(self, on: bool) -> None:
        period = int(PERIOD * 1e9) if on else 0
        timer = _Timer((ctypes.c_long * 4)(0, period, 0, period))
        _libc.timerfd_settime(self.fd, 0, ctypes.byref(timer), None)

    def heard(self) -> None:
        """It rang."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class _Waiter:
    """`attempt` gives the answer once there is one; `refuse` the answer for an errno."""

    request: Request
    attempt: Callable[[], bytes | None]
    refuse: Callable[[int], bytes]


class Waiting:
    """The requests of a session that wait, by the number the guest knows each by."""

    def __init__(self, switch: Callable[[bool], None] = lambda on: None) -> None:
        self._waiters: dict[int, _Waiter] = {}
        self._switch = switch

    def __len__(self) -> int:
        return len(self._waiters)

    def add(
        self, number: int, request: Request, attempt: Callable[[], bytes | None], refuse: Callable[[int], bytes]
    ) -> None:
        """Park a request until `attempt` has an answer."""
        request.park()
        self._waiters[number] = _Waiter(request, attempt, refuse)
        self._switch(True)

    def look(self) -> None:
        """Try each once, in the order in which they came."""
        for number, waiter in list(self._waiters.items()):
            answer = waiter.attempt()
            if answer is not None:
                self._finish(number, answer)

    def interrupt(self, number: int, error: int) -> bool:
        """The guest no longer wants one: it fails with this errno. False when nothing with this number waits."""
        waiter = self._waiters.get(number)
        if waiter is None:
            return False
        self._finish(number, waiter.refuse(error))
        return True

    def clear(self) -> None:
        """The rings they came from are gone."""
        self._waiters.clear()
        self._switch(False)

    def _finish(self, number: int, answer: bytes) -> None:
        waiter = self._waiters.pop(number)
        waiter.request.write_at(0, answer)
        waiter.request.finish()
        if not self._waiters:
            self._switch(False)
