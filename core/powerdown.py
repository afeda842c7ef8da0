"""Asking the guest to shut down: three "magic SysRq" commands over the serial line, as an operator would send them.

Each is a break condition and a letter: s writes what is dirty, u remounts file systems read-only, o powers off. Linux
obeys where CONFIG_MAGIC_SYSRQ_SERIAL is built in and /proc/sys/kernel/sysrq allows it (Debian: both); other guests see
a break and may not care. The board has no power button that Linux would know.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Powerdown"]

LETTERS = b"suo"
PAUSE = 0.4  # seconds for each command to be carried out


class Powerdown:
    """The three commands on their way. `send_break` and `give` are the serial line's."""

    def __init__(self, send_break: Callable[[], bool], give: Callable[[bytes], int]) -> None:
        self._send_break = send_break
        self._give = give
        self._left = b""
        self._due = 0.0

    def begin(self, now: float) -> None:
        """Start, or start again."""
        self._left, self._due = LETTERS, now

    def look(self, now: float) -> None:
        """Send what is due. A break that the guest has not read yet delays the next one."""
        if self._left and now >= self._due and self._send_break():
            self._give(self._left[:1])
            self._left, self._due = self._left[1:], now + PAUSE
