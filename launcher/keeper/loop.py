"""The keeper's loop: descriptors to watch, times to do something at, and signals, in one thread."""

from __future__ import annotations

import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Loop"]

Action = Callable[[], object]


class Loop:
    """What is ready or due is done, one after the other; nothing in it may block."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Action]] = []
        self._ticket = itertools.count()

    def watch(self, source: Any, action: Action) -> None:
        """Call `action` whenever `source` (a descriptor, or what has a fileno) can be read."""
        self._selector.register(source, selectors.EVENT_READ, action)

    def unwatch(self, source: Any) -> None:
        """Before it is closed. What is not watched stays so."""
        if self.watches(source):
            self._selector.unregister(source)

    def watches(self, source: Any) -> bool:
        """Is it watched?"""
        return source in self._selector.get_map()

    def after(self, seconds: float, action: Action) -> None:
        """Call `action` once, when so much time has passed."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ticket), action))

    def on_signals(self, numbers: tuple[signal.Signals, ...], action: Callable[[signal.Signals], None]) -> None:
        """Call `action` for these signals, from the loop and not in the middle of something. Once a process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        self._signals = (ours, theirs)

        def received() -> None:
            for number in ours.recv(64):
                action(signal.Signals(number))

        self.watch(ours, received)

    def turn(self) -> None:
        """Wait until something is ready or due, and do it."""
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for key, _ in self._selector.select(timeout):
            if self.watches(key.fileobj):  # an earlier action of this round may have ended that
                key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
