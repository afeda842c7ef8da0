"""Real machines for the launcher's tests: started as users start them, watched through their pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

COMMAND = [sys.executable, "-P", "-m", "launcher"]
DEADLINE = 60.0


class RunningMachine:
    """A `bulkhead run` in the background."""

    def __init__(self, *words: str, **options: Any) -> None:
        self.client = subprocess.Popen(
            [*COMMAND, "run", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.name = words[words.index("--name") + 1] if "--name" in words else "vm1"
        self.seen = b""

    def expect(self, text: bytes, timeout: float = DEADLINE) -> bytes:
        """Wait until the guest has printed `text`; what it printed since the last time, up to its end."""
        assert self.client.stdout is not None
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.client.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.client.stdout.fileno(), 65536) if ready else b""
            if not data:
                what = "ended" if ready else f"said nothing of it within {timeout} s"
                raise AssertionError(f"waiting for {text!r}, the guest {what}; {self.seen[-500:]!r} {self.errors()}")
            self.seen += data
        at = self.seen.index(text) + len(text)
        found, self.seen = self.seen[:at], self.seen[at:]
        return found

    def errors(self) -> str:
        """What it complained about, once it has ended."""
        assert self.client.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.client.wait(5)
            return self.client.stderr.read().decode()
        return ""

    def type(self, text: str) -> None:
        assert self.client.stdin is not None
        self.client.stdin.write(text.encode())
        self.client.stdin.flush()

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code."""
        return self.client.wait(timeout)

    def ps(self) -> dict[str, Any]:
        """What `bulkhead ps --json` says."""
        words = [*COMMAND, "ps", "--json", "--machine", self.name]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        seen: dict[str, Any] = json.loads(answer.stdout)
        return seen

    def row(self, id: str) -> dict[str, Any]:
        return next(row for row in self.ps()["processes"] if row["id"] == id)

    def spares(self) -> list[dict[str, Any]]:
        """The spares that are ready to be used."""
        rows = self.ps()["processes"]
        return [row for row in rows if row["role"] == "spare" and row["state"] == "waiting"]

    def keeper(self) -> psutil.Process:
        """The client's only child."""
        (keeper,) = psutil.Process(self.client.pid).children()
        return keeper

    def close(self) -> None:
        if self.client.poll() is None:
            self.client.send_signal(signal.SIGTERM)
            try:
                self.client.wait(60)
            except subprocess.TimeoutExpired:
                self.client.kill()
                self.client.wait()
        for stream in (self.client.stdin, self.client.stdout, self.client.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., RunningMachine]]:
    """Start a machine with the bundled guest; it is ended after the test."""
    machines: list[RunningMachine] = []

    def make(*words: str, **options: Any) -> RunningMachine:
        machines.append(RunningMachine("--guest", "bundled", *words, **options))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def disk(tmp_path: Any) -> str:
    """An empty disk of 16 MiB."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 16 << 20)
    return str(path)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Poll for something that another process does; its first true value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.01)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until
