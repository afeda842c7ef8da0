"""`bulkhead record` beside a running machine: one boot, in which the disk's process is killed and swapped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode
from launcher.record.words import requests_by_device, telling_of
from launcher.replay.player import replay
from proto.recording import RecordingReader
from proto.tap import EventKind

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "


class Recorder:
    """A `bulkhead record` in the background, which has begun."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "record", "--json", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline()
        assert "Ctrl-C ends it" in self.first, self.first + self.process.stderr.read()

    def end(self, number: int = 0) -> dict[str, Any]:
        """Signal it, if at all, and wait for what it says."""
        if number:
            self.process.send_signal(number)
        out, error = self.process.communicate(timeout=60)
        assert self.process.returncode == ExitCode.OK, error
        summary: dict[str, Any] = json.loads(out)
        return summary

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def bulkhead(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)


def told(path: Path) -> Iterator[dict[str, Any]]:
    with RecordingReader(path) as reader:
        for request in requests_by_device(reader)["blk0"]:
            yield telling_of(reader.devices[0], request)


@pytest.mark.slow
def test_a_machine_is_recorded_while_its_disk_dies_and_is_swapped(
    start: Callable[..., Any], disk: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    machine = start("--disk", disk, "--device", "rng")
    machine.expect(PROMPT)

    def use(sector: int) -> None:
        machine.type(f"write {sector} 1 7\n")
        machine.expect(PROMPT)
        machine.type(f"read {sector} 1\n")
        machine.expect(PROMPT)

    path, other = tmp_path / "whole.rec", tmp_path / "cut.rec"
    recorder = Recorder("blk0", "rng0", "-o", str(path))
    refused = bulkhead("record", "blk0", "-o", str(other))
    assert refused.returncode == ExitCode.ERROR and "is being recorded already" in refused.stderr
    assert not other.exists()
    use(1)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    use(2)
    swapped = bulkhead("swap", "blk0", "serial=other")
    assert swapped.returncode == 0, swapped.stderr
    use(3)
    summary = recorder.end(signal.SIGINT)
    assert summary["reason"] == "interrupted"
    assert summary["devices"]["blk0"]["requests"] >= 6 and summary["devices"]["blk0"]["lost"] == 0

    with RecordingReader(path) as reader:
        events = [event for device, event in reader.events() if device == "blk0"]
        requests = requests_by_device(reader)["blk0"]
        assert (reader.cut, reader.end and reader.end["reason"]) == ("", "interrupted")
        assert reader.devices[0]["backend"] == f"file:{disk}"
    assert sum(event.kind == EventKind.SETUP for event in events) >= 3
    result = replay(path, id="blk0")
    assert result.same and result.compared >= 6, result.text
    for sector in (1, 2, 3):
        writes = [each for each in requests if each.readable[:16] == bytes([1, *[0] * 7, sector, *[0] * 7])]
        reads = [each for each in requests if each.readable[:16] == bytes([*[0] * 8, sector, *[0] * 7])]
        assert writes and reads and writes[0].readable[16:] == reads[0].written[:512]

    # a recorder that is killed: its file is right up to there, the device goes on, and another may record
    recorder = Recorder("blk0", "-o", str(other))
    use(4)
    wait_until(lambda: any(telling.get("sector") == 4 for telling in told(other)), "the recording of sector 4")
    recorder.kill()
    with RecordingReader(other) as reader:
        assert list(reader.events()) and reader.cut

    def again() -> Recorder | None:
        third.unlink(missing_ok=True)
        try:
            return Recorder("blk0", "-o", str(third), "--around", "op == READ and sector == 7", "--seconds", "1")
        except AssertionError:
            return None

    third = tmp_path / "around.rec"
    recorder = wait_until(again, "another recording")
    use(5)
    use(7)
    summary = recorder.end()
    assert summary["matched"]["sector"] == 7 and summary["reason"] == "matched"
    assert {telling.get("sector") for telling in told(third)} >= {5, 7}

    fourth = tmp_path / "until.rec"
    recorder = Recorder("blk0", "-o", str(fourth), "--until", "sector == 9")
    use(9)
    assert recorder.end()["matched"]["op"] == "WRITE"
    fifth = tmp_path / "nothing.rec"
    recorder = Recorder("blk0", "-o", str(fifth), "--around", "status == IOERR")
    assert "bytes" not in recorder.end(signal.SIGTERM) and not fifth.exists()
    sixth = tmp_path / "end.rec"
    recorder = Recorder("blk0", "-o", str(sixth))
    assert bulkhead("stop", "--machine", machine.name).returncode == 0
    assert recorder.end()["reason"] == "machine ended"


def test_what_cannot_be_recorded_says_why(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"x")
    for words, text in (
        (["blk0", "-o", str(tmp_path / "a"), "--until", "x == 1"], "there is no field x"),
        (["blk0", "-o", str(tmp_path / "a"), "--until", "id == 1", "--around", "id == 1"], "one of them"),
        (["blk0", "-o", str(tmp_path / "a"), "--machine", "none"], "no machine named none"),
    ):
        done = bulkhead("record", *words)
        assert done.returncode == ExitCode.ERROR and text in done.stderr
    assert there.read_bytes() == b"x" and not (tmp_path / "a").exists()
