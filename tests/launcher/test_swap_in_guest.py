"""A disk of an unmodified Linux guest changes format and place, its process dying in between, while it is written."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.images import ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
COMMAND = [sys.executable, "-P", "-m", "launcher"]
NAME = "swaps"
SIZE = 32 << 20
SCRIPT = """
echo begin
round=0
while [ "$(blockdev --getsize64 /dev/vdb)" = 33554432 ]; do
    round=$((round + 1)); at=$((round % 28))
    dd if=/dev/urandom of=/tmp/new bs=64k count=16 status=none
    dd if=/tmp/new of=/dev/vdb bs=64k count=16 seek=$((at * 16)) conv=fsync,notrunc status=none || echo failed
    echo 1 > /proc/sys/vm/drop_caches
    dd if=/dev/vdb bs=64k count=16 skip=$((at * 16)) status=none | cmp -s - /tmp/new || echo wrong
    echo round $round
done
sync
echo grown $(blockdev --getsize64 /dev/vdb)
echo 3 > /proc/sys/vm/drop_caches
head -c 33554432 /dev/vdb | sha256sum
dmesg | grep -c 'I/O error'
exit 0
"""


def bulkhead(*words: str) -> str:
    """A command that concerns the machine; its output."""
    done = subprocess.run(
        [*COMMAND, *words, "--machine", NAME], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_disk() -> None:
    rows = json.loads(bulkhead("ps", "--json"))["processes"]
    os.kill(next(row["pid"] for row in rows if row["id"] == "blk1"), signal.SIGKILL)


def test_a_disk_changes_its_format_twice_and_grows(tmp_path: Path) -> None:
    try:
        ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the Debian guest: {error}")
    first, second, third = tmp_path / "first.img", f"qcow2:{tmp_path}/second.qcow2", tmp_path / "third.img"
    for path, size in ((first, SIZE), (third, 2 * SIZE)):
        path.touch()
        os.truncate(path, size)
    words = ["--name", NAME, "--disk", f"{first},id=blk1", "--", "sh", "-c", SCRIPT]
    guest = subprocess.Popen(
        [*COMMAND, "run", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert guest.stdout is not None and guest.stderr is not None
    lines: list[str] = []
    written = threading.Event()

    def read() -> None:
        assert guest.stdout is not None
        for line in guest.stdout:
            lines.append(line.strip())
            if line.startswith("round 2"):
                written.set()
        written.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert written.wait(200) and guest.poll() is None, lines
        bulkhead("mirror", "blk1", second)
        kill_disk()
        for uri in (f"delay:ms=0:{second}", second):
            bulkhead("swap", "blk1", uri)
        kill_disk()
        bulkhead("mirror", "blk1", str(third))  # twice as large: the guest is told, and ends
        guest.wait(120)
    finally:
        if guest.poll() is None:
            guest.kill()
            guest.wait()
        reader.join()
        errors = guest.stderr.read()
        guest.stdout.close()
        guest.stderr.close()
    assert guest.returncode == 0, (lines[-5:], errors)
    assert "wrong" not in lines and "failed" not in lines
    grown, digest, complaints = lines[-3:]
    assert grown == f"grown {2 * SIZE}" and complaints == "0"
    assert digest.split()[0] == hashlib.sha256(third.read_bytes()[:SIZE]).hexdigest()
