"""What the serial line carries, looked at on its way to the user: a command's output between its marker lines, and the
last words of a kernel that panics.

Both take the stream in any pieces and never hold back more than what could be the beginning of a marker.
"""

from __future__ import annotations

import re

from launcher.images import Command

__all__ = ["CommandOutput", "PanicWatch"]

KEPT = 4096  # bytes of what came before the command's output, to show when it never came
PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]*")


class CommandOutput:
    """Takes the console's bytes and gives the command's output alone; knows when it began, and its exit status."""

    def __init__(self, command: Command) -> None:
        self.begun = False
        self.status: int | None = None
        self.before = b""  # the last of what came before
        self._begin = command.begin
        self._end = command.end
        self._marker = command.marker.encode()
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """The part of `data` (and of what was held back) that is the command's output."""
        if self.status is not None:
            return b""
        self._buffer += data
        if not self.begun and not self._find_begin():
            return b""
        found = self._end.search(self._buffer)
        if found is not None:
            self.status = int(found[1])
            output, self._buffer = self._buffer[: found.start()], b""
            return output
        keep = self._held()
        output, self._buffer = self._buffer[: len(self._buffer) - keep], self._buffer[len(self._buffer) - keep :]
        return output

    def rest(self) -> bytes:
        """What was held back, when nothing more comes."""
        output, self._buffer = self._buffer if self.begun else b"", b""
        return output

    def _find_begin(self) -> bool:
        line_end = -1
        at = self._buffer.find(self._begin)
        if at >= 0:
            line_end = self._buffer.find(b"\n", at)
        if line_end < 0:
            self.before = (self.before + self._buffer)[-KEPT:] if at < 0 else self.before
            self._buffer = self._buffer[-len(self._begin) :] if at < 0 else self._buffer
            return False
        self.begun = True
        self._buffer = self._buffer[line_end + 1 :]
        return True

    def _held(self) -> int:
        """How many bytes at the end may be the beginning of the end marker."""
        at = self._buffer.rfind(self._marker)
        if at >= 0:
            return len(self._buffer) - at
        for length in range(min(len(self._marker), len(self._buffer)), 0, -1):
            if self._marker.startswith(self._buffer[-length:]):
                return length
        return 0


class PanicWatch:
    """Remembers the kernel's panic message when it passes by."""

    def __init__(self) -> None:
        self.message = ""
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""
        window = self._tail + data
        messages = PANIC.findall(window)
        if messages:
            self.message = messages[-1].decode(errors="replace")
        line_start = max(window.rfind(b"\n") + 1, len(window) - 256)
        self._tail = window[line_start:]

    def clear(self) -> None:
        """The guest starts again."""
        self.message, self._tail = "", b""
