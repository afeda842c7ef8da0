"""Requests of a machine are held, looked at and let go by programs (QMP), and from another host through a tap."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
Bulkhead = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A network namespace with a cable to this one: 10.213.8.1 is here, 10.213.8.2 is there."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    name, end = f"bulkhead-{os.getpid()}-b", f"bh{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    with contextlib.ExitStack() as undo:
        ip("netns", "add", name)
        undo.callback(ip, "netns", "del", name)
        ip("link", "add", end, "type", "veth", "peer", "name", "end", "netns", name)
        ip("addr", "add", "10.213.8.1/24", "dev", end)
        ip("link", "set", end, "up")
        ip("-n", name, "addr", "add", "10.213.8.2/24", "dev", "end")
        ip("-n", name, "link", "set", "end", "up")
        yield name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_requests_are_held_by_qmp_and_let_go_from_another_host(
    start: Callable[..., Any],
    disk: str,
    tmp_path: Path,
    elsewhere: str,
    wait_until: Callable[..., Any],
    bulkhead: Bulkhead,
) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)

    def qmp(*words: str) -> Any:
        answer = bulkhead("qmp", *words)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    rule = qmp("device-break", "id=blk0", "match=op == WRITE and sector < 2048", "count=2")
    assert rule["rule"] == 1 and "hold" in rule["text"]
    machine.type("write 9 hello\n")
    wait_until(lambda: qmp("query-held"), "a held request", 30)
    (held,) = qmp("query-held", "id=blk0")
    assert (held["what"].split()[0], held["at"], held["rule"]) == ("WRITE", "pop", 1)
    assert qmp("query-queues", "id=blk0")["queues"][0]["requests"][0]["state"] == "held"
    assert qmp("device-change", "id=blk0", f"request={held['request']}", "change=4a@16")["requests"] == [
        held["request"]
    ]
    machine.expect(PROMPT)
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"Jello"
    assert "holds no request" in bulkhead("qmp", "device-go", "id=blk0").stderr

    keys = tmp_path / "keys"
    assert bulkhead("keys", "create", str(keys)).returncode == 0
    looking = tmp_path / "looking"
    looking.mkdir()
    for name in ("viewer.secret", "viewer.public", "server.public"):
        shutil.copy(keys / name, looking / name)
    uri = "tcp://10.213.8.1:4711"
    assert bulkhead("trace", "--listen", uri, "--keys", str(keys)).returncode == 0

    def there(*words: str, keys: Path = keys, status: int = 0) -> str:
        """A command on the other host."""
        line = ["ip", "netns", "exec", elsewhere, *COMMAND, *words, "--connect", uri, "--keys", str(keys)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "may look, not order BREAKS" in there("held", keys=looking, status=ExitCode.ERROR)
    assert "does not answer" in there("held", keys=_strangers(tmp_path, bulkhead), status=ExitCode.ERROR)
    machine.type("write 9 other\n")
    wait_until(lambda: "WRITE sector 9" in there("held"), "it is held", 60)
    assert "1 in flight" in there("queue", "blk0") and "blk0" in there("ps")
    there("pause")
    assert json.loads(there("ps", "--json"))["phase"] == "paused"
    there("cont")
    there("restart", "blk0")
    wait_until(lambda: "WRITE sector 9" in there("held"), "the successor holds it", 60)
    there("step", "blk0")
    machine.expect(PROMPT)
    assert Path(disk).read_bytes()[9 * 512 : 9 * 512 + 5] == b"other"
    assert "matched" in there("break", "--list", "--json")
    there("break", "blk0", "op == FLUSH", "--action", "fail")
    machine.type("flush\n")
    assert b"I/O error" in machine.expect(PROMPT)
    there("break", "--clear")
    assert qmp("query-breaks") == []
    there("stop")
    machine.wait()


def _strangers(tmp_path: Path, bulkhead: Bulkhead) -> Path:
    keys = tmp_path / "strangers"
    assert bulkhead("keys", "create", str(keys)).returncode == 0
    return keys
