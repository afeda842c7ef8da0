"""Whole machines with their console on pipes, Bulkhead's and QEMU's: started, waited for, typed into, looked at, ended.

What is started here is ended here: leaving the `with` ends the command, and waits until every process of it is gone.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from bench.measure import Missing
from launcher.images import Images, ImagesError, ensure

__all__ = ["REPOSITORY", "Console", "Memory", "bulkhead", "debian", "memory", "qemu", "scratch"]

REPOSITORY = Path(__file__).resolve().parent.parent
END_DEADLINE = 10.0  # seconds that a machine may take to go away
QEMU = "qemu-system-riscv64"


def bulkhead(*arguments: str) -> list[str]:
    """The command `bulkhead`, of this source tree."""
    return [sys.executable, "-m", "launcher", *arguments]


def qemu(*arguments: str, disk: str | None = None, second: str | None = None) -> list[str]:
    """QEMU with the board that Bulkhead has, and the serial line on standard input and output; the `second` disk is for
    reading alone. Raises Missing."""
    if not shutil.which(QEMU):
        raise Missing(f"{QEMU} is missing: apt-get install qemu-system-misc")
    command = [QEMU, "-machine", "virt", "-m", "256M", "-display", "none", "-serial", "stdio", "-monitor", "none"]
    command += ["-global", "virtio-mmio.force-legacy=false", *arguments]
    if disk is not None:
        command += ["-drive", f"file={disk},format=raw,if=none,id=disk"]
        command += ["-device", "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.1"]
    if second is not None:
        command += ["-drive", f"file={second},format=raw,if=none,id=second,readonly=on"]
        command += ["-device", "virtio-blk-device,drive=second,bus=virtio-mmio-bus.0"]
    return command


def debian(progress: Callable[[str], None] = lambda _: None) -> Images:
    """The Debian guest's images, fetched if need be. Raises Missing."""
    try:
        return ensure(lambda what, _: progress(what))
    except ImagesError as error:
        raise Missing(f"no Debian images: {error}") from error


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for images, gone when it is left."""
    return tempfile.TemporaryDirectory(prefix="bulkhead-bench-")


class Console:
    """A started command whose output is watched."""

    def __init__(self, command: Sequence[str]) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
        )
        assert self.process.stdout is not None
        self.output = b""
        self._pipe = self.process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def wait_for(self, text: bytes, deadline: float) -> float:
        """Seconds from the start of the command until `text` has appeared."""
        self.until(text, deadline)
        return time.perf_counter() - self.started

    def until(self, text: bytes, deadline: float) -> bytes:
        """The output from where the last call ended to the end of `text`. Raises RuntimeError with what there is when
        `text` does not come within `deadline` seconds."""
        end = time.perf_counter() + deadline
        while (at := self.output.find(text)) < 0:
            remaining = end - time.perf_counter()
            if remaining <= 0 or not self._read(remaining):
                raise RuntimeError(f"no {text!r} within {deadline:.0f} s, but {self.output[-1500:]!r}")
        found, self.output = self.output[: at + len(text)], self.output[at + len(text) :]
        return found

    def ask(self, line: str, prompt: bytes, deadline: float) -> bytes:
        """Type a line to a shell; what comes until its next prompt."""
        self.type_in(line.encode() + b"\n")
        return self.until(prompt, deadline)

    def finish(self, deadline: float) -> bytes:
        """Everything it says until it ends by itself."""
        end = time.perf_counter() + deadline
        while (remaining := end - time.perf_counter()) > 0:
            if not self._read(remaining):
                return self.output
        raise RuntimeError(f"it did not end within {deadline:.0f} s: {self.output[-1500:]!r}")

    def type_in(self, text: bytes) -> None:
        """Send to the guest."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def processes(self) -> list[psutil.Process]:
        """The command and everything it has started."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def close(self) -> None:
        """End it all."""
        family = self.processes() if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(END_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in psutil.wait_procs(family, END_DEADLINE)[1]:
            process.kill()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _read(self, timeout: float) -> bool:
        """Take what there is; False at the end of the output."""
        if not self._selector.select(timeout):
            return True
        data = os.read(self._pipe, 65536)
        self.output += data
        return bool(data)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    own: int  # Private_Dirty outside shared segments: written to, and nobody else's
    share: int  # Pss: everything, what is shared counted in equal parts; adds up over processes


def memory(pid: int) -> Memory:
    """Of a running process. A page of guest RAM that only one process has touched so far would count as private there,
    so mappings of shared segments are left out of `own`."""
    own = share = 0
    segment = False
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            field, _, rest = line.partition(" ")
            if not field.endswith(":"):
                segment = "/dev/shm/" in rest or "/memfd:" in rest
            elif field == "Pss:":
                share += int(rest.split()[0]) * 1024
            elif field == "Private_Dirty:" and not segment:
                own += int(rest.split()[0]) * 1024
    return Memory(own, share)
