"""Linux with a disk and two shared folders behind windows, whose processes are killed on both sides while it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conversation import BULKHEAD

from launcher.images import ImagesError, ensure

VICTIMS = ("fs0", "fs0.window", "blk1.window", "fs1", "fs1.window", "blk1")
WORK = """
exec 3>/mnt/work/open
i=0
while [ $i -lt 60 ]; do
  echo line $i >&3
  echo $i > /mnt/work/n.tmp && mv /mnt/work/n.tmp /mnt/work/n$i || echo FAILED work $i
  echo $i > /mnt/vio/n.tmp && mv /mnt/vio/n.tmp /mnt/vio/n$i || echo FAILED vio $i
  dd if=/dev/zero of=/dev/vdb bs=4096 seek=$i count=1 conv=fsync,notrunc 2>/dev/null || echo FAILED disk $i
  [ $((i % 10)) = 5 ] && sleep 2
  i=$((i + 1))
done
exec 3>&-
ls /mnt/work | wc -l
ls /mnt/vio | wc -l
"""


def pid_of(id: str) -> int | None:
    seen = subprocess.run([*BULKHEAD, "ps", "--json", "--machine", "windows"], capture_output=True, timeout=60)
    if seen.returncode:
        return None
    return next((row["pid"] for row in json.loads(seen.stdout)["processes"] if row["id"] == id), None)


def kill_each(folder: Path, killed: list[str], over: threading.Event) -> None:
    """One after the other, each once the guest has done some more work."""
    for number, id in enumerate(VICTIMS):
        while not (folder / f"n{4 + 8 * number}").exists():
            if over.wait(0.05):
                return
        pid = pid_of(id)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(id)


@pytest.mark.slow
def test_linux_notices_none_of_it(tmp_path: Path) -> None:
    try:
        ensure()
    except ImagesError as error:
        pytest.skip(f"no Debian guest: {error}")
    (tmp_path / "disk.img").write_bytes(b"\xff" * (4 << 20))
    for name in ("work", "vio"):
        (tmp_path / name).mkdir()
    words = ["--disk", f"{tmp_path}/disk.img,window=on", "--name", "windows", "--share"]
    words += [f"{tmp_path}/work,tag=work,window=on", "--share", f"{tmp_path}/vio,tag=vio,proto=virtiofs,window=on"]
    killed: list[str] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_each, args=(tmp_path / "work", killed, over))
    killer.start()
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*BULKHEAD, "run", "--guest", "debian", *words, "--", "sh", "-c", WORK],
            capture_output=True,
            text=True,
            timeout=240,
        )
    finally:
        over.set()
        killer.join()
    assert done.returncode == 0, (done.stderr, time.monotonic() - began)
    assert done.stdout.split() == ["61", "60"], done.stdout
    assert killed == list(VICTIMS)
    assert (tmp_path / "work" / "open").read_text() == "".join(f"line {i}\n" for i in range(60))
    assert {path.name for path in (tmp_path / "vio").iterdir()} == {f"n{i}" for i in range(60)}
    image = (tmp_path / "disk.img").read_bytes()
    assert image[: 60 * 4096] == bytes(60 * 4096) and image[60 * 4096 :].strip(b"\xff") == b""
