"""A machine without a console, and the consoles that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_terminal import Terminal

from launcher.cli.exitcodes import ExitCode

ATTACH = [sys.executable, "-P", "-m", "launcher", "attach"]
BANNER = b"help says what there is"
DETACH, QUIT = b"\x01d", b"\x01x"


@pytest.fixture
def far(bulkhead: Any) -> Iterator[str]:
    """A machine on its own; its name."""
    started = bulkhead("run", "--guest", "bundled", "--detach", "--name", "far")
    assert started.returncode == 0, started.stderr
    assert "bulkhead attach --machine far" in started.stdout
    yield "far"
    bulkhead("stop", "--machine", "far")


@pytest.fixture
def attach(far: str) -> Iterator[Callable[..., Terminal]]:
    """Users at terminals of their own who have typed `bulkhead attach`."""
    terminals: list[Terminal] = []

    def make() -> Terminal:
        terminals.append(Terminal(command=ATTACH))
        return terminals[-1]

    yield make
    for terminal in terminals:
        terminal.close()


def test_consoles_come_and_go(attach: Callable[..., Terminal], bulkhead: Any) -> None:
    first = attach()
    first.expect(BANNER)  # said before anybody was there
    first.type(b"echo one\n")
    first.expect(b"\r\none")
    refused = bulkhead("attach", "--machine", "far")
    assert refused.returncode == ExitCode.ERROR and "somebody is attached to far" in refused.stderr
    first.type(DETACH)
    assert first.wait() == 0
    assert b"runs on" in first.seen

    second = attach()
    second.type(b"echo two\n")
    second.expect(b"\r\ntwo")
    second.process.kill()
    second.process.wait()

    third = attach()
    third.type(b"poke 0x100000 0x7777 4\n")  # the guest resets: the same console goes on
    third.expect(BANNER)
    third.type(b"echo three\n")
    third.expect(b"\r\nthree")
    third.process.send_signal(signal.SIGTERM)
    assert third.wait() == 0

    fourth = attach()
    fourth.expect(b"Ctrl-A h")
    fourth.type(b"\x01h")
    fourth.expect(b"leave the machine running")
    fourth.type(QUIT)
    assert fourth.wait() == 0
    assert not (Path(os.environ["XDG_RUNTIME_DIR"]) / "bulkhead" / "far").exists()


def test_the_guest_s_code_comes_through(attach: Callable[..., Terminal]) -> None:
    console = attach()
    console.expect(BANNER)
    console.type(b"exit 7\n")
    assert console.wait() == 7


def test_a_pipe_can_be_attached(far: str) -> None:
    with subprocess.Popen(ATTACH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        output, _ = client.communicate(b"exit 3\n", timeout=60)
        assert BANNER in output and client.returncode == 3


def test_a_line_that_is_no_socket_cannot_be_attached(start: Any, bulkhead: Any) -> None:
    machine = start("--name", "near")
    machine.expect(b"> ")
    refused = bulkhead("attach", "--machine", "near")
    assert refused.returncode == ExitCode.ERROR
    assert "the serial line of near is not a socket" in refused.stderr and "--detach" in refused.stderr
