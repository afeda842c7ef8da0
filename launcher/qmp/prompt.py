"""The monitor at the console: Ctrl-A c turns to it and back, as in QEMU. The terminal is raw: it echoes by itself."""

from __future__ import annotations

from launcher.control import connect
from launcher.qmp.actions import Actions
from launcher.qmp.monitor import Monitor
from proto.channel import Channel
from proto.errors import BulkheadError

__all__ = ["Prompt"]

PROMPT = b"(bulkhead) "
ERASE = b"\b \b"
BACKSPACE, CTRL_C, CTRL_U, ESC = (b"\x7f", b"\b"), b"\x03", b"\x15", 0x1B


class Prompt:
    """One console's monitor. It connects to the keeper when the first line is entered."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._line = b""
        self._control: Channel | None = None
        self._monitor: Monitor | None = None
        self._in_escape = False

    def begin(self) -> bytes:
        """What to show when the console turns to the monitor."""
        return b"\r\n" + PROMPT + self._line

    def feed(self, data: bytes) -> bytes:
        """What was typed; what to show for it."""
        shown = b""
        for number in data:
            byte = bytes((number,))
            if self._in_escape:  # a key like an arrow: nothing to do with it
                self._in_escape = not (byte.isalpha() or byte == b"~")
            elif number == ESC:
                self._in_escape = True
            elif byte in (b"\r", b"\n"):
                shown += b"\r\n" + self._enter() + PROMPT
            elif byte in BACKSPACE:
                shown += ERASE if self._line else b""
                self._line = self._line[:-1]
            elif byte in (CTRL_C, CTRL_U):
                shown += ERASE * len(self._line)
                self._line = b""
            elif number >= 0x20:
                self._line += byte
                shown += byte
        return shown

    def close(self) -> None:
        """Leave the keeper alone."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _enter(self) -> bytes:
        line, self._line = self._line.decode(errors="replace"), b""
        try:
            if self._monitor is None:
                self._control = connect(self._machine)
                self._monitor = Monitor(Actions(self._control))
            text = self._monitor.run(line)
        except BulkheadError as error:
            text = f"{error.message}\n"
        return text.replace("\n", "\r\n").encode()
