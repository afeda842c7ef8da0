"""v86fs from the bundled guest: its commands, what the host changes, and a device process that is killed at work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from conversation import BULKHEAD, Conversation

STEPS = 2000


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    return path


def boot(share: Path | str, *more: str) -> Conversation:
    options = ["--share", f"{share},tag=work,proto=v86fs{''.join(f',{each}' for each in more)}"]
    return Conversation([*BULKHEAD, "run", "-m", "64M", "--guest", "bundled", "--name", "v86fs", *options])


def pid_of_share() -> int:
    seen = subprocess.run(
        [*BULKHEAD, "ps", "--json", "--machine", "v86fs"], capture_output=True, check=True, timeout=60
    )
    return int(next(row["pid"] or 0 for row in json.loads(seen.stdout)["processes"] if row["id"] == "fs0"))


def kill_when_it_is_back(killed: set[int]) -> None:
    """kill -9 the share's process, once it is another one than those before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid = pid_of_share()
        if pid and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            return
        time.sleep(0.05)
    raise AssertionError("the process did not come back")


def test_its_commands_and_what_the_host_changes(share: Path) -> None:
    (share / "a").write_text("from the host\n")
    with boot(share, "at=/mnt") as guest:
        guest.expect("> ")
        guest.type("ls;cat a;put b hello world;mkdir d;mv b d/c;ln -s x d/l;stat d/l;rm a;df;watch\r")
        printed = guest.expect("MOUNT_NOTIFY work /mnt")
        guest.expect("> ")
        for text in ("- a", "from the host", "-> x", "available"):
            assert text in printed
        assert (share / "d" / "c").read_text() == "hello world\n" and os.readlink(share / "d" / "l") == "x"
        assert not (share / "a").exists()
        assert "INVALIDATE" not in printed  # what the guest does itself is no news to it
        guest.type("stat d/c;watch 60\r")
        inode = re.search(r"inode (\d+)", guest.expect("mtime"))
        assert inode
        guest.expect("\n")
        (share / "d" / "c").write_text("changed\n")
        guest.expect(f"INVALIDATE {inode[1]}\r")
        (share / "d" / "new").touch()
        guest.expect("INVALIDATE_DIR")
        guest.type("x\x15cat d/c;exit 7\r")
        guest.expect("changed")
        assert guest.finish()[0] == 7


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("backend", ["host", "memory:"])
def test_nothing_is_lost_or_doubled_when_its_process_is_killed(share: Path, backend: str) -> None:
    """Random work in the guest, every step checked, and kill -9 five times in the middle of it."""
    with boot(share if backend == "host" else backend) as guest:
        guest.expect("> ")
        guest.type(f"fstest 7 {STEPS}\r")
        guest.expect("256 steps")
        killed: set[int] = set()
        for _ in range(5):
            kill_when_it_is_back(killed)
            guest.expect(" steps")  # it goes on
        result = re.search(r"(\d+) files, crc32 (\w+)", guest.expect("all as it must be", 200))
        assert result
        guest.expect("> ")
        guest.type("ls fstest;exit 7\r")
        code, printed = guest.finish()
        assert code == 7
    if backend == "memory:":
        assert len(re.findall(r"d d0\d", printed)) == 4
        return
    files = sorted((path for path in (share / "fstest").rglob("*") if path.is_file()), key=lambda path: path.name)
    sums = 0
    for path in files:
        sums = zlib.crc32(path.read_bytes(), sums)
    assert (len(files), f"{sums:08x}") == (int(result[1]), result[2])
