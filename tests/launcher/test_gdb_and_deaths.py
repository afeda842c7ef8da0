"""A guest that stands still in gdb, and its disk's process, which is killed and swapped meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROMPT = b"> "
COMMAND = [sys.executable, "-P", "-m", "launcher"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_disk_dies_and_is_swapped_while_the_guest_stands_still_in_gdb(
    start: Callable[..., Any], disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """gdb is answered before and after; then the guest goes on, and its next write is the new process's."""
    program = shutil.which("gdb-multiarch")
    if program is None:
        pytest.skip("needs gdb-multiarch")
    machine = start("--disk", disk, "--gdb", f"{tmp_path}/gdb")
    machine.expect(PROMPT)
    machine.type("write 9 before\n")
    machine.expect(PROMPT)
    stopped, go, script = tmp_path / "stopped", tmp_path / "go", tmp_path / "script"
    script.write_text(
        f"set pagination off\nset confirm off\nset architecture riscv:rv64\ntarget remote {tmp_path}/gdb\n"
        f"set $before = $pc\nshell touch {stopped}\nshell while [ ! -e {go} ]; do sleep 0.05; done\n"
        'printf "the same place: %d\\n", $before == $pc\nx/2i $pc\ndetach\n'
    )
    words = [program, "-q", "-batch", "-nx", "-x", str(script)]
    gdb = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(stopped.exists, "the guest stands still", 60)
        machine.type("write 9 after\n")
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        wait_until(
            lambda: (machine.row("blk0")["epoch"], machine.row("blk0")["state"]) == (2, "running"), "a successor"
        )
        swap = subprocess.run(
            [*COMMAND, "swap", "blk0", f"delay:ms=1:{disk}"], capture_output=True, text=True, timeout=100
        )
        assert swap.returncode == 0, swap.stderr
        assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 6] == b"before"
        go.touch()
        said, _ = gdb.communicate(timeout=60)
    finally:
        go.touch()
        gdb.kill()
        gdb.communicate()
    assert "the same place: 1" in said and "=> 0x" in said, said
    machine.expect(PROMPT)
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"after"
    assert machine.row("blk0")["epoch"] == 3
    machine.type("exit\n")
    assert machine.wait() == 0
