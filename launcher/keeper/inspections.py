"""Looks into the guest that the core is asked for: who asked comes again for the answer.

Nothing in the keeper waits, so INSPECT gives a number, and INSPECTED says that the core has not answered yet, or what
it has. What nobody asks for again is forgotten.
"""

from __future__ import annotations

from typing import Any

from launcher.keeper.child import Child
from proto.errors import ConfigError

__all__ = ["Inspections"]

KEPT = 16  # looks that nobody has asked about yet


class Inspections:
    """Those of one machine, by number; empty while the core has not answered."""

    def __init__(self) -> None:
        self._looks: dict[int, dict[str, Any]] = {}
        self._last = 0

    def ask(self, core: Child, body: dict[str, Any]) -> int:
        """Have the core look. Returns the look's number."""
        self._last += 1
        while len(self._looks) >= KEPT:
            del self._looks[min(self._looks)]
        self._looks[self._last] = {}
        core.send("INSPECT", {**body, "number": self._last})
        return self._last

    def answered(self, body: dict[str, Any]) -> None:
        """The core has looked."""
        if body.get("number") in self._looks:
            self._looks[body["number"]] = body

    def take(self, number: int) -> dict[str, Any] | None:
        """What was seen, once; None: the core has not answered yet. Raises ConfigError for any other number."""
        if number not in self._looks:
            raise ConfigError("there is no such look into the guest")
        return self._looks.pop(number) if self._looks[number] else None
