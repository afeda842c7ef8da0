"""Block requests at the ring: this project's device process against qemu-storage-daemon, without any guest.

The two serve images of one kind, in the page cache, to the same driver program (`bench.blk_ring`, a program of
its own, because it keeps driver and devices on a host CPU each).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.guests import REPOSITORY
from bench.measure import Figure, Goal, Missing, Run, Sample

PEER = "qemu-storage-daemon"
GOALS = {
    "4 KiB depth 1": Goal(">=", 1),
    "4 KiB depth 32": Goal(">=", 2),
    "128 KiB sequential depth 1": Goal(">=", 1.2),
    "128 KiB sequential depth 32": Goal(">=", 1.2),
}
MESSAGES_GOAL = Goal("<=", 0.05)
DEADLINE = 600.0


def program(module: str, *arguments: str) -> Any:
    """What a benchmark that is a program of its own says with --json. Raises RuntimeError with its complaint."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--json", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def once(value: float) -> Sample:
    """A value that comes without its spread."""
    return Sample(value, value, value, 1)


def ratio_of(row: dict[str, Any], rounds: int) -> Sample:
    """Of a row of such a benchmark."""
    low, high = row["range"]
    return Sample(row["ratio"], low, high, rounds)


def measure(run: Run) -> Iterator[Figure]:
    """A figure for each shape of load, and the messages where there are goals for them."""
    if not shutil.which(PEER):
        raise Missing(f"{PEER} is missing: apt-get install qemu-utils")
    rounds = run.rounds(7)
    run.progress(f"{rounds} rounds")
    rows = program("bench.blk_ring", "--rounds", str(rounds), "--scale", "0.1" if run.quick else "1")
    for row in rows:
        case = row["case"]
        ratio, goal = ratio_of(row, rounds), GOALS.get(case.partition(" ")[2])
        yield Figure(case, "IOPS", once(row["bulkhead_iops"]), once(row["qemu_iops"]), ratio, goal)
    for row in rows:
        if row["case"].endswith(" 4 KiB depth 32"):
            told = once(row["messages_per_request"])
            yield Figure(f"messages a request, {row['case']}", "", told, goal=MESSAGES_GOAL)
