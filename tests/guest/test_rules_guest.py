"""Linux under rules: requests of shared folders held over kill and swap, and failed; frames held, late, lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversation import BULKHEAD, Conversation, missing

from launcher.images import ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SCRIPT = 'echo "ready 1st"; while read -r line; do eval "$line" 2>&1; echo "did it"; done'


def tell(*words: str) -> str:
    done = subprocess.run([*BULKHEAD, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def held(id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(tell("held", id, "--json"))["held"]
    return rows


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tell("ps", "--json"))["processes"]
    return found


def pid(id: str) -> int:
    return next(int(row["pid"] or 0) for row in rows() if row["id"] == id)


def spare() -> bool:
    """Is there an imported process? On a busy host another one takes longer to start than a swap waits."""
    return any(row["role"] == "spare" and row["state"] == "waiting" for row in rows())


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def test_shares_and_a_network_card_under_rules(tmp_path: Path) -> None:
    try:
        ensure()
    except ImagesError as error:
        missing(f"the Debian guest: {error}")
    for name in ("nine", "fuse"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"kept in {name}\n")
    shares = ["--share", f"{tmp_path}/nine,tag=nine", "--share", f"{tmp_path}/fuse,tag=fuse,proto=virtiofs"]
    with Conversation([*BULKHEAD, "run", *shares, "--net", "user", "--", "sh", "-c", SCRIPT]) as guest:
        guest.expect("ready 1st", 200)

        def begin(line: str) -> None:
            guest.type(f"{line}\n")

        def done() -> str:
            return guest.expect("did it", 120)

        for id, tag, op in (("fs0", "nine", "WALK"), ("fs1", "fuse", "LOOKUP")):
            tell("break", id, f"op == {op}", "--count", "1")
            begin(f"echo 3 > /proc/sys/vm/drop_caches; cat /mnt/{tag}/file")
            (row,) = wait_until(lambda id=id: held(id), f"{id} holds")  # type: ignore[misc]
            assert row["op"] == op
            os.kill(pid(id), 9)
            wait_until(lambda id=id, row=row: [r["number"] for r in held(id)] == [row["number"]], "held again")  # type: ignore[misc]
            wait_until(spare, "a spare")
            tell("swap", id, f"{tmp_path}/{tag}")
            wait_until(lambda id=id, row=row: [r["number"] for r in held(id)] == [row["number"]], "held still")  # type: ignore[misc]
            tell("go", id)
            assert f"kept in {tag}" in done()
            tell("break", id, f"op == {op}", "--action", "fail")
            begin(f"echo 3 > /proc/sys/vm/drop_caches; cat /mnt/{tag}/file")
            assert "Input/output error" in done()
            tell("break", id, "--clear")
            begin(f"cat /mnt/{tag}/file")
            assert f"kept in {tag}" in done()

        ping = "ping -c 1 -W 60 10.0.2.2"
        begin(ping)
        assert " 0% packet loss" in done()
        late = "op == RECEIVE and protocol == IPv4"
        tell("break", "net0", late, "--action", "delay=1s", "--count", "1")
        begin(ping)
        taken = re.search(r"time=([0-9.]+) ms", done())
        assert taken is not None and float(taken[1]) >= 1000
        tell("break", "net0", "--clear")
        tell("break", "net0", late, "--count", "1")
        begin(ping)
        (row,) = wait_until(lambda: held("net0"), "the answer is held")
        os.kill(pid("net0"), 9)
        wait_until(lambda: [(r["number"], r["since"]) for r in held("net0")] == [(row["number"], row["since"])], "held")
        tell("go", "net0")
        assert " 0% packet loss" in done()
        tell("break", "net0", "--clear")
        tell("break", "net0", late, "--action", "drop")
        begin("ping -c 1 -W 2 10.0.2.2")
        assert "100% packet loss" in done()
        tell("break", "--clear")
        begin(ping)
        assert " 0% packet loss" in done()
        begin("exit")
        assert guest.finish()[0] == 0
