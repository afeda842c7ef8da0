"""How often something may happen: so many at once, and so many a second after that. What is too much is counted."""

from __future__ import annotations

import time

__all__ = ["Throttle"]


class Throttle:
    """A bucket of `burst` that fills with `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self.refused = 0
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._then = time.monotonic()

    def allow(self) -> bool:
        """May it happen now? It counts as done then."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True

    def take_refused(self) -> int:
        """How many were too much since this was last asked."""
        refused, self.refused = self.refused, 0
        return refused
