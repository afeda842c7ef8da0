"""A guest to talk to: type, and wait for what it prints."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

BULKHEAD = (sys.executable, "-P", "-m", "launcher")
DEADLINE = 100.0


def missing(what: str) -> None:
    """Skip, saying what is missing; in CI, which has everything, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"needs {what}")


class Conversation:
    """A command whose standard output is the guest's console. A context manager; leaving it ends the command."""

    def __init__(self, command: Sequence[str], terminal: int | None = None) -> None:
        """With `terminal`, the slave of a pty, the command has that; its master is then `self.fd`."""
        pipe = subprocess.PIPE if terminal is None else terminal
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=terminal is not None
        )
        self.text = b""  # what was printed and not yet looked for

    def read_from(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def type(self, text: str) -> None:
        self.write(text.encode())

    def expect(self, text: str | bytes, timeout: float = DEADLINE) -> str:
        """Wait until that is printed; all that was printed up to its end."""
        wanted = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + timeout
        while wanted not in self.text:
            if not self._read(deadline):
                raise AssertionError(f"waiting for {text!r}; last heard: {self.text[-1500:].decode(errors='replace')}")
        at = self.text.index(wanted) + len(wanted)
        heard, self.text = self.text[:at], self.text[at:]
        return heard.decode(errors="replace")

    def finish(self, timeout: float = DEADLINE) -> tuple[int, str]:
        """The exit code, and the rest of what was printed."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic())), self.text.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.read_from()], [], [], max(0.0, deadline - time.monotonic()))
        data = b""
        with contextlib.suppress(OSError):  # a pty whose other end has closed
            data = os.read(self.read_from(), 65536) if ready else b""
        self.text += data
        return bool(data)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class TerminalConversation(Conversation):
    """The same on a terminal: a pty of 24 rows and 80 columns."""

    def __init__(self, command: Sequence[str]) -> None:
        import fcntl
        import struct
        import termios

        self.fd, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        try:
            super().__init__(["setsid", "--ctty", "--wait", *command], slave)
        finally:
            os.close(slave)

    def read_from(self) -> int:
        return self.fd

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        os.close(self.fd)
