"""The console in a terminal: a pseudo-terminal whose other end is this test."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.cli.exitcodes import ExitCode

COMMAND = [sys.executable, "-P", "-m", "launcher", "run", "--guest", "bundled"]
ROWS, COLUMNS = 33, 111
DEADLINE = 60.0


class Terminal:
    """A user at a terminal who has typed `bulkhead run …`."""

    def __init__(self, *words: str, command: list[str] | None = None) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*(command or COMMAND), *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = b""

    def read(self, timeout: float) -> bytes:
        ready, _, _ = select.select([self.master], [], [], max(0.0, timeout))
        try:
            return os.read(self.master, 65536) if ready else b""
        except OSError:
            return b""

    def expect(self, text: bytes, timeout: float = DEADLINE) -> bytes:
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            data = self.read(deadline - time.monotonic())
            assert data, f"no {text!r} in {self.seen[-800:]!r}"
            self.seen += data
        at = self.seen.index(text) + len(text)
        found, self.seen = self.seen[:at], self.seen[at:]
        return found

    def type(self, data: bytes) -> None:
        """Write all of it, reading meanwhile, as a terminal does."""
        while data:
            readable, writable, _ = select.select([self.master], [self.master], [], DEADLINE)
            assert readable or writable
            if readable:
                self.seen += os.read(self.master, 65536)
            if writable:
                data = data[os.write(self.master, data[:512]) :]

    def wait(self) -> int:
        """The exit code; reads what is printed until then."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.seen[-500:]!r}"
            self.seen += self.read(0.05)
        self.seen += self.read(0.1)
        return self.process.returncode

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.wait()
            except AssertionError:
                self.process.kill()
                self.process.wait()
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def make(*words: str, **options: Any) -> Terminal:
        terminals.append(Terminal(*words, **options))
        return terminals[-1]

    yield make
    for one in terminals:
        one.close()


def test_ctrl_a_x_quits_and_the_terminal_is_as_before(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    assert user.is_raw()
    user.type(b"echo hello\r")
    user.expect(b"\nhello\r\n")
    user.type(b"\x01x")
    assert user.wait() == 0
    assert user.restored()


def test_ctrl_a_h_helps(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    user.type(b"\x01h")
    user.expect(b"Ctrl-A x       quit")
    user.type(b"exit 3\r")
    assert user.wait() == 3
    assert user.restored()


def test_ctrl_c_goes_to_the_guest(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    user.type(b"\x03")
    user.type(b"\recho alive\r")
    user.expect(b"\nalive\r\n")


def test_the_first_lines_name_the_machine_and_its_processes(terminal: Callable[..., Terminal]) -> None:
    user = terminal("--device", "rng", "--name", "shown")
    text = user.expect(b"Ctrl-A x quits")
    assert re.search(rb"bulkhead [\d.]+ .*256 MiB .* 1 hart", text)
    assert re.search(rb"keeper \d+   core \d+   rng0 \d+", text)


def test_pasting_10_kb_loses_nothing(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    text = "".join(f"echo {number:04d}-{'x' * 40}\r" for number in range(220)).encode()
    assert len(text) > 10_000
    user.type(text)
    seen = user.expect(b"\n0219-" + b"x" * 40)
    printed = re.findall(rb"\n(\d{4})-x{40}", seen)
    assert [int(number) for number in printed] == list(range(220))


def test_a_long_output_arrives_whole(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    user.type(b"dump 0x80200000 65536\r")
    seen = user.expect(b"8020fff0  ")
    assert len(re.findall(rb"\n8020[0-9a-f]{4}  ", seen)) == 4096


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_the_terminal_is_restored_after_a_signal(terminal: Callable[..., Terminal], number: signal.Signals) -> None:
    user = terminal()
    user.expect(b"> ")
    user.process.send_signal(number)
    assert user.wait() == ExitCode.KILLED
    assert user.restored()


@pytest.mark.parametrize("victim", ["core", "keeper"])
def test_the_terminal_is_restored_after_a_death(terminal: Callable[..., Terminal], victim: str) -> None:
    user = terminal()
    user.expect(b"> ")
    (keeper,) = psutil.Process(user.process.pid).children()
    (core,) = keeper.children()
    {"core": core, "keeper": keeper}[victim].kill()
    assert user.wait() == ExitCode.KILLED
    assert user.restored()
    assert b"bulkhead: " in user.seen


def test_the_terminal_is_restored_after_kill_9_of_the_command(
    terminal: Callable[..., Terminal], wait_until: Any
) -> None:
    user = terminal()
    user.expect(b"> ")
    user.process.kill()
    user.wait()
    wait_until(user.restored, "the keeper's restoring the terminal", 3)


def test_the_terminal_is_usable_while_stopped(terminal: Callable[..., Terminal], wait_until: Any) -> None:
    user = terminal()
    user.expect(b"> ")
    user.process.send_signal(signal.SIGTSTP)
    wait_until(user.restored, "the restoring", 3)
    user.process.send_signal(signal.SIGCONT)
    wait_until(user.is_raw, "raw mode again", 3)
    user.type(b"echo again\r")
    user.expect(b"\nagain\r\n")


def test_a_terminal_that_goes_away_ends_the_machine(terminal: Callable[..., Terminal]) -> None:
    user = terminal()
    user.expect(b"> ")
    os.close(user.slave)
    os.close(user.master)
    assert user.process.wait(60) in (ExitCode.KILLED, -signal.SIGHUP)


def test_quitting_works_while_the_guest_takes_no_input(terminal: Callable[..., Terminal], bulkhead: Any) -> None:
    user = terminal()
    user.expect(b"> ")
    (keeper,) = psutil.Process(user.process.pid).children()
    (core,) = keeper.children()
    core.suspend()
    user.type(b"y" * 20_000)
    user.type(b"\x01x")
    assert user.wait() == 0
    assert user.restored()


def test_a_start_that_waits_for_a_device_says_so(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    device = tmp_path / "waiting.py"
    device.write_text(
        "import time\nfrom devproc.device import VirtioDevice\n"
        "class Waiting(VirtioDevice):\n    device_id = 4\n    def start(self): time.sleep(1000)\n"
    )
    user = terminal("--device", f"{device}:Waiting")
    user.expect(b"waiting0: has not started yet")
    os.killpg(user.process.pid, signal.SIGINT)
    assert user.wait() == ExitCode.KILLED
