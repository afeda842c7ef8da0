"""Rules, held requests, queues and debuggers on a machine that runs: one boot of the bundled guest shows most of it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode
from launcher.orders.debug import command_of
from launcher.orders.faultfile import read_faults
from proto.errors import ConfigError
from proto.faults import Rule

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"\n> "


def tell(*words: str, status: int = 0) -> str:
    """A command; what it printed."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def held() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(tell("held", "--json"))["held"]
    return rows


def queue() -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(tell("queue", "blk0", "--json"))
    return seen


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_requests_are_held_failed_and_looked_at(
    start: Callable[..., Any], disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A file of rules from the start; then a rule by hand, looked at, killed, stepped and let go."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[rule]]\ndevice = "blk0"\nmatch = "op == FLUSH"\naction = "fail"\nskip = 2\ncount = 1\n')
    machine = start("--disk", disk, "--faults", str(faults))
    machine.expect(PROMPT)
    for number in range(1, 5):
        machine.type("flush\n")
        assert (b"I/O error" in machine.expect(PROMPT)) == (number == 3)
    (rule,) = json.loads(tell("break", "--list", "--json"))["rules"]
    assert (rule["matched"], rule["taken"]) == (4, 1)
    tell("break", "--clear")

    assert "rule 1" in tell("break", "blk0", "op == WRITE and sector < 2048")
    tell("break", "blk0", "op == WRITE", "--before", "complete")
    machine.type("write 9 hello\n")
    wait_until(held, "a held request")
    (row,) = held()
    assert (row["device"], row["op"], row["at"], row["rule"]) == ("blk0", "WRITE", "pop", 0)
    (seen,) = queue()["queues"]
    assert seen["wrong"] == [] and seen["in_flight"] == 1
    assert (seen["requests"][0]["state"], seen["requests"][0]["sector"]) == ("held", 9)
    assert "WRITE sector 9" in tell("queue", "blk0", "--descriptors")

    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.row("blk0")["epoch"] == 2 and held(), "the successor holds it")
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == bytes(5)
    tell("step", "blk0")
    assert [row["at"] for row in held()] == ["complete"]
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"hello"
    tell("fail", "blk0", str(held()[0]["number"]))
    assert b"I/O error" in machine.expect(PROMPT)

    machine.type("write 9 other\n")
    wait_until(held, "a held request")
    os.kill(machine.row("blk0")["pid"], signal.SIGSTOP)  # it says nothing now: hung, fenced, and its successor goes on
    assert queue()["queues"][0]["in_flight"] == 1
    wait_until(lambda: machine.row("blk0")["epoch"] >= 3 and held(), "the successor holds it", 30.0)
    tell("break", "--clear")
    machine.expect(PROMPT)
    assert tell("held") == "nothing is held\n" and tell("break", "--list") == "no rules\n"
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"other"
    assert "no field opp; did you mean op?" in tell("break", "blk0", "opp == WRITE", status=ExitCode.ERROR)
    assert "has no device blk7" in tell("break", "blk7", status=ExitCode.ERROR)
    assert "holds no request" in tell("go", "blk0", status=ExitCode.ERROR)
    machine.type("exit\n")
    assert machine.wait() == 0


class Debugger:
    """Somebody who has typed a command at a terminal."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes, timeout: float = 40.0) -> None:
        end = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waiting for {text!r}; it said {self.seen[-800:]!r}"
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Until it has ended; what it still says is nobody's."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    os.read(self.master, 4096)
                except OSError:
                    break
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_under_pdb(start: Callable[..., Any], disk: str, wait_until: Callable[..., Any]) -> None:
    """The guest's request stops at a breakpoint in the device's code, for longer than any hang would be allowed to
    last, goes on, and is answered; then the device is supervised as before."""
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    tell("break", "blk0", "op == WRITE", "--action", "delay=1ms")  # the readable path: pdb sees no machine code
    terminal = Debugger("attach", "blk0", "--", "python", "-m", "pdb")
    try:
        terminal.expect(b"(Pdb) ")
        terminal.type("import devproc.blk.device as module\n")
        terminal.expect(b"(Pdb) ")
        terminal.type("b module.BlockDevice._out\n")
        terminal.expect(b"(Pdb) ")
        terminal.type("c\n")
        wait_until(lambda: machine.row("blk0")["state"] == "debugged", "the device is under a debugger", 30.0)
        machine.type("write 9 seen\n")
        terminal.expect(b"_out()")
        terminal.expect(b"(Pdb) ")
        pid = machine.row("blk0")["pid"]
        end = time.monotonic() + 2.5  # longer than silence may last
        while time.monotonic() < end:
            assert machine.row("blk0")["pid"] == pid
            time.sleep(0.2)
        assert queue()["queues"][0]["in_flight"] == 1
        terminal.type("p sector\n")
        terminal.expect(b"9\r\n")
        terminal.type("c\n")
        machine.expect(PROMPT)
        assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 4] == b"seen"
        terminal.type("\x03")
        terminal.expect(b"(Pdb) ")
        terminal.type("q\n")
        terminal.end()
    finally:
        terminal.close()
    wait_until(lambda: machine.row("blk0")["state"] == "running", "it is supervised as before", 30.0)
    machine.type("flush\n")
    assert b"error" not in machine.expect(PROMPT)
    machine.type("exit\n")
    assert machine.wait() == 0


def test_rules_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(
        '[[rule]]\ndevice = "blk0"\nmatch = "sector >= 2048"\naction = "delay=200ms"\n'
        '[[rule]]\ndevice = "net0"\naction = "drop"\nevery = 10\n'
        '[[rule]]\ndevice = "blk0"\nbefore = "complete"\naction = "set 02@-1"\nprobability = 0.5\nseed = 3\n'
    )
    first, second, third = read_faults(path)
    assert (first.action, first.delay, first.at) == ("delay", 0.2, "pop")
    assert (second.every, second.match) == (10, "")
    assert (third.at, third.data, third.offset, third.seed) == ("complete", b"\x02", -1, 3)
    assert Rule.parse(third.as_dict()) == third


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rules in it"),
        ("[rule]\nx = 1\n", r"expected \[\[rule\]\]"),
        ("[[rule]]\naction = 'fail'\n", "of which device"),
        ("[[rule]]\ndevice = 'blk1'\n", "no device blk1; did you mean blk0"),
        ("[[rule]]\ndevice = 'blk0'\nmatsch = ''\n", "no key matsch; did you mean match"),
        ("[[rule]]\ndevice = 'blk0'\nmatch = 'op = 3'\n", "filter: "),
        ("[[rule]]\ndevice = 'blk0'\nmatch = 'latency > 1'\n", "no field latency"),
        ("[[rule]]\ndevice = 'blk0'\naction = 'explode'\n", "action explode: expected hold"),
        ("[[rule]]\ndevice = 'blk0'\naction = 'delay'\n", "delay of how long"),
        ("[[rule]]\ndevice = 'blk0'\naction = 'delay=soon'\n", "expected a time"),
        ("[[rule]]\ndevice = 'blk0'\naction = 'set'\n", "set which bytes"),
        ("[[rule]]\ndevice = 'blk0'\naction = 'drop'\nbefore = 'complete'\n", "cannot be dropped"),
        ("[[rule]]\ndevice = 'blk0'\nskip = -1\n", "skip = -1"),
        ("[[rule]]\ndevice = 'blk0'\nevery = 0\n", "every = 0"),
        ("[[rule]]\ndevice = 'blk0'\nprobability = 2\n", "probability = 2"),
        ("[[rule]]\ndevice = 'blk0'\nat = 'used'\n", "at used: expected pop"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_faults(path, ["blk0"])


def test_which_command_a_debugger_gets() -> None:
    assert command_of([]) == [sys.executable, "-P", "-m", "pdb", "-m", "devproc.main"]
    assert command_of(["python", "-m", "pdb", "-c", "c"])[-2:] == ["-m", "devproc.main"]
    assert command_of(["env", "X=1"])[1:] == ["X=1", sys.executable, "-P", "-m", "devproc.main"]
    named = ["python3", "-X", "dev", "-m", "devproc.main"]
    assert command_of(named) == [sys.executable, "-P", *named[1:]]
    with pytest.raises(ConfigError, match="no program gbd"):
        command_of(["gbd"])
