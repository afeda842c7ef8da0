"""A machine under chaos: the command that runs it, what its guest says, what the keeper tells, and its end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from launcher.control import connect, events, request
from launcher.keeper.child import module_command, module_environment
from proto.errors import BulkheadError, ConfigError

__all__ = ["Lost", "Running"]

END_DEADLINE = 15.0  # seconds
KEPT = 4096  # bytes of what the guest said last


class Lost(BulkheadError):
    """Something that must hold under every fault did not."""


class Running:
    """A started machine. A context manager; leaving it ends the machine."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.said = b""  # the last of it
        self.cuts = 0  # how often the connections of its card were cut
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.command = [*module_command("launcher"), "run", "--name", name, *arguments]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=module_environment(),
            start_new_session=True,  # Ctrl-C is for us
        )
        self._news: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._listen, name=f"{name} console", daemon=True).start()

    def attend(self, deadline: float) -> None:
        """Connect to the keeper, when the machine runs. Raises ConfigError."""
        end = time.monotonic() + deadline
        while True:
            try:
                self.channel = connect(self.name)
                if self.ask("PS")["phase"] == "running":
                    break
                self.channel.close()
            except ConfigError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Lost(f"{self.name} did not start", hint=self.last_words()) from None
            if time.monotonic() > end:
                raise Lost(f"{self.name} did not start in time", hint=self.last_words())
            time.sleep(0.05)
        threading.Thread(target=self._watch, name=f"{self.name} events", daemon=True).start()

    # -- the guest -------------------------------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """Send to the guest's console."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise Lost(f"{self.name} has ended", hint=self.last_words()) from error

    def line(self, timeout: float) -> str | None:
        """The next line that the guest says; None when none comes in time. Raises Lost after the machine's end."""
        with contextlib.suppress(queue.Empty):
            text = self._lines.get(timeout=timeout)
            if text is None:
                raise Lost(f"{self.name} ended by itself", hint=self.last_words())
            return text
        return None

    def last_words(self) -> str:
        """The end of what the guest or the command said."""
        return "\n".join(self.said.decode(errors="replace").splitlines()[-8:])

    def _listen(self) -> None:
        assert self.process.stdout is not None
        fd, rest = self.process.stdout.fileno(), b""
        while data := os.read(fd, 65536):
            self.said = (self.said + data)[-KEPT:]
            *lines, rest = (rest + data).split(b"\n")
            for text in lines:
                self._lines.put(text.decode(errors="replace").rstrip("\r"))
        self._lines.put(None)

    # -- the keeper ------------------------------------------------------------------------------------------------

    def ask(self, kind: str, **body: Any) -> dict[str, Any]:
        """A request. Raises ConfigError."""
        return request(self.channel, kind, **body)

    def row(self, id: str) -> dict[str, Any]:
        """A device's row of `ps`."""
        return next(row for row in self.ask("PS")["processes"] if row["id"] == id)

    def mark(self) -> int:
        """A place among the events, for `news`."""
        with self._changed:
            return len(self._news)

    def news(self, mark: int, wanted: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any] | None:
        """The first event after the mark that is wanted; None when there is none in time."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self._news[mark:]:
                    if wanted(event):
                        return event
                mark = len(self._news)
                if self._ended or not self._changed.wait(max(0.0, end - time.monotonic())):
                    return None

    def told(self) -> list[dict[str, Any]]:
        """All events so far."""
        with self._changed:
            return list(self._news)

    def _watch(self) -> None:
        with contextlib.suppress(BulkheadError, OSError), connect(self.name) as channel:
            for event in events(channel):
                with self._changed:
                    self._news.append(event)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # -- the end ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        if hasattr(self, "channel"):
            self.channel.close()
