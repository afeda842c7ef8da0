"""The processes that `bulkhead serve` keeps: each through all its lives, with what it stored for its successor.

One that dies is started again, after the same back-off as in a machine. One that never came up ends it all, with what
it said.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.keeper.child import Child
from launcher.keeper.recovery import YOUNG, backoff
from proto.errors import BulkheadError, ConfigError, DeadlineMissed

__all__ = ["Life", "Server"]

STOP_DEADLINE = 5.0  # seconds that a device has to store what was written
TURN = 200  # ms between looks at the clock


class Life:
    """One process through all its lives; `fds` are lent to each, and stay the caller's."""

    def __init__(self, module: str, body: dict[str, Any], fds: dict[str, int], log: Path) -> None:
        self.id: str = body["id"]
        self.child: Child | None = None
        self.ready = False  # one of its processes was, at some time
        self._module, self._body, self._fds, self._log = module, body, fds, log
        self._store: dict[str, int] = {}
        self._error: tuple[str, str] | None = None
        self._young = 0
        self._began = self._due = 0.0

    def tend(self) -> None:
        """Start a process if one is due, hear it, and see whether it is dead. Raises ConfigError when it never
        came up."""
        if self.child is None and time.monotonic() >= self._due:
            self._start()
        while self._hear():
            pass
        if self.child is not None and select.select([self.child.pidfd], [], [], 0)[0]:
            while self._hear():
                pass
            self._ended(self.child, self.child.reap())

    def fds(self) -> list[int]:
        """What to wait for."""
        return [] if self.child is None else [self.child.channel.fileno(), self.child.pidfd]

    def stop(self) -> None:
        """Tell it to end; for `tend` it is over then."""
        self._due = float("inf")
        if self.child is not None:
            self.child.send("STOP")

    def _start(self) -> None:
        self._error, self._began = None, time.monotonic()
        self.child = Child(self._module, self._log)
        if self._store:
            self.child.send("STORED", {"names": list(self._store)}, self._store)
        self.child.send("START", self._body, self._fds)

    def _ended(self, child: Child, status: int) -> None:
        self.child = None
        if self._due == float("inf"):
            return
        if not self.ready:
            message, hint = self._error or (f"{self.id} ended with status {status}", self._tail())
            raise ConfigError(message, hint=hint)
        self._young = self._young + 1 if time.monotonic() - self._began < YOUNG else 1
        why = self._error[0] if self._error else f"ended with status {status}; {self._tail()}"
        show.line(sys.stderr, f"{self.id} ({child.pid}): {why}; starting it again")
        self._due = time.monotonic() + backoff(self._young)

    def _hear(self) -> bool:
        if self.child is None:
            return False
        try:
            packet = self.child.channel.recv(0)
        except (DeadlineMissed, BulkheadError):
            return False
        body = packet.body
        if packet.kind == "STORE":
            for name in list(packet.fds):
                self._drop(name)
                self._store[name] = packet.fds.pop(name)
        elif packet.kind == "UNSTORE":
            for name in body.get("names", []):
                self._drop(name)
        elif packet.kind == "LOG":
            show.line(sys.stderr, str(body.get("text", "")))
        elif packet.kind == "FAILED":
            self._error = str(body.get("error", "")), str(body.get("hint", ""))
        elif packet.kind == "READY":
            self.ready = True
        packet.close()
        return True

    def _drop(self, name: str) -> None:
        if name in self._store:
            os.close(self._store.pop(name))

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace").strip()[-2000:]
        return ""


class Server:
    """All of them, until a signal says to stop; `served` is said once they are ready."""

    def __init__(self, lives: Sequence[Life], served: str) -> None:
        self._lives, self._served = lives, served
        self._wake, self._woken = os.pipe()
        self._stopping = 0.0  # since when

    def run(self) -> int:
        """Raises ConfigError when one of them never starts."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os.write(self._woken, b"x"))
        try:
            while not self._stopping or any(life.child is not None for life in self._lives):
                self._turn()
        finally:
            for life in self._lives:
                if life.child is not None:
                    life.child.kill()
        return ExitCode.OK

    def _turn(self) -> None:
        for life in self._lives:
            life.tend()
        if self._served and all(life.ready for life in self._lives):
            show.line(sys.stderr, self._served)
            self._served = ""
        poll = select.poll()
        for fd in (self._wake, *(fd for life in self._lives for fd in life.fds())):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(TURN):
            if fd == self._wake:
                os.read(self._wake, 64)
                self._stopping = self._stopping or time.monotonic()
                for life in self._lives:
                    life.stop()
        if self._stopping and time.monotonic() - self._stopping > STOP_DEADLINE:
            for life in self._lives:
                if life.child is not None:
                    life.child.kill()
