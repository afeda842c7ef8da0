"""Debian's own gdb on a machine of the command line: what docs/debug-a-guest.md shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conversation import missing

pytestmark = pytest.mark.slow

Bulkhead = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def gdb(tmp_path: Path, elf: Path) -> Callable[..., str]:
    """Run gdb commands on the machine that serves gdb at a socket; what gdb said."""
    program = shutil.which("gdb-multiarch")
    if program is None:
        missing("gdb-multiarch")
    assert program is not None

    def run(*commands: str) -> str:
        script = tmp_path / "commands"
        begin = ("set pagination off", "set confirm off", f"file {elf}", f"target remote {tmp_path}/gdb")
        script.write_text("\n".join((*begin, *commands)) + "\n")
        done = subprocess.run(
            [program, "-q", "-batch", "-nx", "-x", script], capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr

    return run


@pytest.fixture
def waiting(bulkhead: Bulkhead, tmp_path: Path):
    """A machine with two harts that waits for gdb."""
    options = ("--detach", "--gdb", f"{tmp_path}/gdb", "--gdb-wait", "--smp", "2", "--name", "debugged")
    started = bulkhead("run", "--guest", "bundled", *options)
    assert started.returncode == 0, started.stderr
    yield "debugged"
    bulkhead("stop", "--machine", "debugged")


def test_gdb_breaks_steps_watches_and_detaches(waiting: str, gdb, bulkhead: Bulkhead) -> None:
    said = gdb("info threads", "break main", "continue", "bt 1", "stepi", "info registers priv satp", "detach")
    assert "hart 1: stopped" in said
    assert re.search(r"Breakpoint 1, .* in main \(\)", said), said
    assert "Supervisor" in said
    assert "detached" in said
    assert "debugged" in bulkhead("ps").stdout


def test_gdb_may_come_again_and_kill_ends_the_machine(waiting: str, gdb, bulkhead: Bulkhead) -> None:
    assert "in _start ()" in gdb("detach")
    said = gdb("x/2i $pc", "set $t0 = 0x1234", "p/x $t0", "watch -l *(long *)($sp - 8)", "info watchpoints", "kill")
    assert "= 0x1234" in said, said
    assert "hw watchpoint" in said
    end = time.monotonic() + 60  # it ends by itself, some time after gdb has said so
    while waiting in bulkhead("ps").stdout and time.monotonic() < end:
        time.sleep(0.05)
    assert "no machine" in bulkhead("stop", "--machine", waiting).stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gdb", "no-port"), "expected a port"),
        (("--gdb-wait",), "Add --gdb"),
        (("--gdb", "/nowhere/at/all"), "no such file"),
    ],
)
def test_a_place_where_gdb_cannot_be_served_is_named(bulkhead: Bulkhead, options: tuple[str, ...], says: str) -> None:
    done = bulkhead("run", "--guest", "bundled", "--detach", *options)
    assert done.returncode == 125
    assert says in done.stderr
