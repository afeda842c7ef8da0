"""Rules together with what else is done to a running disk: a swap, a recording, a viewer; and a device under gdb."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.record.words import requests_by_device
from proto.recording import RecordingReader

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def tell(*words: str, status: int = 0) -> str:
    """A command; what it printed."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def held() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(tell("held", "--json"))["held"]
    return rows


def rules() -> list[tuple[int, int, bool]]:
    """(matched, taken, in force) of each."""
    rows = json.loads(tell("break", "--list", "--json"))["rules"]
    return [(row["matched"], row["taken"], row["in_force"]) for row in rows]


def test_what_is_held_goes_over_in_a_swap_and_a_recording_has_what_the_driver_saw(
    start: Callable[..., Any], disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A recorder and a viewer stay for all of it: a hold, a failed swap, a swap, a kill, changes."""
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    path, seen = tmp_path / "ruled.rec", tmp_path / "trace"
    recorder = subprocess.Popen(
        [*COMMAND, "record", "blk0", "-o", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with open(seen, "w") as out:
        viewer = subprocess.Popen([*COMMAND, "trace", "blk0", "--json"], stdout=out, stderr=subprocess.PIPE, text=True)
    try:
        assert recorder.stderr is not None and "Ctrl-C ends it" in recorder.stderr.readline()

        def traced() -> list[dict[str, Any]]:
            return [json.loads(line) for line in seen.read_text().splitlines(keepends=True) if line.endswith("\n")]

        def begun() -> bool:
            machine.type("read 1 1\n")
            machine.expect(PROMPT)
            return any(line.get("op") == "READ" for line in traced())

        wait_until(begun, "the viewer sees")
        tell("break", "blk0", "op == WRITE", "--action", "hold", "--count", "2")
        lie = ("--before", "complete", "--action", "set=4c@0", "--count", "1")
        tell("break", "blk0", "op == READ and sector == 9", *lie)
        machine.type("write 9 hello\n")
        (row,) = wait_until(held, "a held request")
        assert "no such file" in tell("swap", "blk0", f"{tmp_path}/missing.img", status=125)
        assert [again["number"] for again in held()] == [row["number"]] and rules()[0] == (1, 1, True)
        tell("swap", "blk0", f"delay:ms=1:{disk}")
        wait_until(lambda: [again["number"] for again in held()] == [row["number"]], "the successor holds it")
        assert rules()[0] == (1, 1, True)  # counted once
        assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == bytes(5)
        tell("step", "blk0")
        machine.expect(PROMPT)
        assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"hello"
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        machine.type("read 9 1\n")
        assert b"4c 65 6c 6c 6f" in machine.expect(PROMPT)  # Lello: what the driver got
        wait_until(lambda: rules()[1] == (1, 1, True), "the rule is in force")
        machine.type("write 10 later\n")
        (row,) = wait_until(held, "a held request")
        tell("change", "blk0", str(row["number"]), "52@16")
        machine.expect(PROMPT)
        assert Path(disk).read_bytes()[10 * 512 : 10 * 512 + 5] == b"Rater"

        def told() -> bool:
            return any(line.get("op") == "WRITE" and line.get("sector") == 10 for line in traced())

        wait_until(told, "the viewer has seen it all")
        recorder.send_signal(signal.SIGINT)
        out_text, error = recorder.communicate(timeout=60)
        assert recorder.returncode == 0, error + out_text
    finally:
        for process in (recorder, viewer):
            process.kill()
            process.communicate()
    lives = {line["epoch"] for line in traced() if line["type"] == "process" and "epoch" in line}
    assert len(lives) >= 2 and any(line.get("again") for line in traced()), lives
    with RecordingReader(path) as reader:
        requests = list(requests_by_device(reader)["blk0"])
    sectors = [(each.readable[:1], each.readable[8], each) for each in requests if each.readable]
    writes = {sector: each for kind, sector, each in sectors if kind == b"\x01"}
    assert writes[9].readable[16:21] == b"hello" and writes[10].readable[16:21] == b"later"  # as the driver sent it
    reads = [each for kind, sector, each in sectors if kind == b"\x00" and sector == 9]
    assert reads[0].written[:5] == b"Lello"  # as the driver got it
    machine.type("exit\n")
    assert machine.wait() == 0


def test_a_device_under_gdb(
    start: Callable[..., Any], disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """gdb runs the device's process by a script: a breakpoint where it writes, a backtrace, and on; the guest's request
    waits for it. When gdb ends, the device is supervised as before."""
    gdb = shutil.which("gdb-multiarch") or shutil.which("gdb")
    if gdb is None:
        pytest.skip("needs gdb")
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    tell("break", "blk0", "op == WRITE", "--action", "delay=1ms")  # the readable path: machine code has no symbols
    script = tmp_path / "script.gdb"
    script.write_text(
        "set pagination off\nset confirm off\nset breakpoint pending on\nset debuginfod enabled off\n"
        "break pwritev64v2\nbreak pwritev2\nbreak pwritev64\nbreak pwritev\nrun\nbacktrace 4\ndelete\n"
        "echo the breakpoint was reached\\n\ncontinue\n"
    )
    command = [*COMMAND, "attach", "blk0", "--", gdb, "-batch", "-nx", "-x", str(script), "--args"]
    log = tmp_path / "gdb.log"
    with open(log, "w") as out:
        debugger = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: machine.row("blk0")["state"] == "debugged", f"gdb has it: {log.read_text()}", 120)
        machine.type("write 9 seen\n")
        machine.expect(PROMPT, 120)
        text = log.read_text()
        assert "the breakpoint was reached" in text and "pwritev" in text and "#1" in text, text
        assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 4] == b"seen"
        pid = machine.row("blk0")["pid"]
        os.kill(pid, signal.SIGKILL)  # as if it had crashed under gdb, which then ends
        debugger.wait(60)
    finally:
        debugger.kill()
        debugger.wait()
    wait_until(lambda: machine.row("blk0")["state"] == "running", "it is supervised as before", 60)
    machine.type("read 9 1\n")
    assert b"73 65 65 6e" in machine.expect(PROMPT)
    machine.type("exit\n")
    assert machine.wait() == 0
