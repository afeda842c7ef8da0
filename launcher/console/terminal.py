"""The user's terminal in raw mode, and back, whatever happens.

Restored at the end of the `with` block, at the interpreter's exit, and while the process is stopped (SIGTSTP); should
the process be killed outright, the keeper restores it (`saved` is what it is given).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
import tty
from types import TracebackType
from typing import Any

__all__ = ["RawTerminal", "restore", "size"]


class RawTerminal:
    """Raw mode on one descriptor, between `enter` and `leave`; both may be called again."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.saved: list[Any] = termios.tcgetattr(fd)
        self.raw = False

    def enter(self) -> None:
        """Every key goes to the guest, Ctrl-C and Ctrl-Z too."""
        if not self.raw:
            self.raw = True
            atexit.register(self.leave)
            signal.signal(signal.SIGTSTP, self._suspend)
            signal.signal(signal.SIGCONT, self._resume)
            self._apply()

    def leave(self) -> None:
        """As it was found."""
        if self.raw:
            self.raw = False
            atexit.unregister(self.leave)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            restore(self.fd, self.saved)

    def __enter__(self) -> RawTerminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.leave()

    def _apply(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setraw(self.fd, termios.TCSANOW)

    def _suspend(self, *_: object) -> None:
        restore(self.fd, self.saved)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, *_: object) -> None:
        self._apply()


def restore(fd: int, saved: list[Any]) -> None:
    """Put a terminal's settings back. A terminal that has gone has nothing to restore."""
    with contextlib.suppress(termios.error, OSError):
        termios.tcsetattr(fd, termios.TCSANOW, saved)


def size(fd: int) -> tuple[int, int] | None:
    """(rows, columns), or None when it is no terminal or does not know."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None
