"""A bad line between core and device: messages are lost, garbled and doubled, and the guest sees each request
complete once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.control import connect, request
from proto.channel import Channel

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
Start = Callable[..., Any]


def rings(id: str) -> list[dict[str, Any]]:
    """What `bulkhead queue` says of a device."""
    done = subprocess.run([*COMMAND, "queue", id, "--json"], capture_output=True, text=True, timeout=60, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["queues"]
    return found


def logs(id: str) -> str:
    """What `bulkhead logs` says."""
    return subprocess.run([*COMMAND, "logs", id], capture_output=True, text=True, timeout=60, check=False).stdout


def counted(id: str) -> list[tuple[int, ...]]:
    """The messages lost, garbled and doubled, of each time that there was noise."""
    found = re.findall(r"(\d+) lost, (\d+) garbled, (\d+) doubled", logs(id))
    return [tuple(map(int, counts)) for counts in found]


@pytest.fixture
def line() -> Iterator[Callable[..., None]]:
    """How bad the line to a device is, from now on."""
    channels: list[Channel] = []

    def make(machine: str, id: str, **rates: int) -> None:
        if not channels:
            channels.append(connect(machine))
        request(channels[0], "NOISE", id=id, **rates)

    yield make
    for channel in channels:
        channel.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["words", "messages"])
def test_a_guest_s_requests_complete_once_each_over_a_bad_line(
    start: Start, disk: str, line: Any, wait_until: Any, mode: str
) -> None:
    """Also those of the session with a successor: in the middle, the device is killed."""
    machine = start("--link", mode, "--disk", f"{disk},crash-limit=off")
    machine.expect(PROMPT)
    noise = [0, 0, 0]  # messages lost, garbled, doubled
    seed = 0
    while seed < 2 or not all(noise):  # with words there are few messages: a dozen or two for each process
        assert seed < 40, noise
        seed += 1
        line(machine.name, "blk0", lost=20, garbled=20, doubled=60, seed=3 + seed)
        machine.type(f"verify 4 {seed}\n")
        pid = wait_until(lambda: machine.row("blk0")["pid"], "a process")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        said = machine.expect(b"checked", 120) + machine.expect(PROMPT)
        assert b"wrong" not in said and b"no answer" not in said and b"error" not in said
        line(machine.name, "blk0")
        told = wait_until(lambda: len(counts := counted("blk0")) == seed and counts, "the counts")  # noqa: B023
        noise = [sum(column) for column in zip(*told, strict=True)]
    (ring,) = rings("blk0")
    assert ring["wrong"] == [] and ring["in_flight"] == 0
    assert ring["avail_idx"] == ring["used_idx"] > 4 * 64  # twice 4 MiB, written and read by 64 KiB
