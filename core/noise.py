"""A bad line between core and device: messages of one session are lost, garbled or doubled, by chance and a seed.

For tests and `bulkhead chaos` (`NOISE` on the control socket). The rates are of a thousand messages, in both
directions alike. What is garbled has some of its bytes changed, or lacks its end.
"""

from __future__ import annotations

import random
from collections import Counter

__all__ = ["Noise"]

LONGEST = 8  # bytes of a message that are changed at most


class Noise:
    """One session's line. `counts` says what has become of its messages."""

    def __init__(self, lost: int = 0, garbled: int = 0, doubled: int = 0, seed: int = 0) -> None:
        self._chances = {"lost": lost, "garbled": garbled, "doubled": doubled}
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def through(self, data: bytes) -> list[bytes]:
        """What comes out where `data` went in."""
        fate = self._fate()
        self.counts[fate] += 1
        if fate == "garbled":
            return [self._garble(data)]
        return [data] * {"lost": 0, "doubled": 2}.get(fate, 1)

    def told(self) -> str:
        """The counts, for people."""
        return ", ".join(f"{self.counts[fate]} {fate}" for fate in self._chances) + f", {self.counts['whole']} whole"

    def _fate(self) -> str:
        at = self._random.randrange(1000)
        for fate, chance in self._chances.items():
            at -= chance
            if at < 0:
                return fate
        return "whole"

    def _garble(self, data: bytes) -> bytes:
        """Another message of it: never the same."""
        raw = bytearray(data)
        if self._random.random() < 0.25:
            return bytes(raw[: self._random.randrange(len(raw))])
        for at in self._random.sample(range(len(raw)), self._random.randint(1, min(LONGEST, len(raw)))):
            raw[at] ^= self._random.randint(1, 255)
        return bytes(raw)
