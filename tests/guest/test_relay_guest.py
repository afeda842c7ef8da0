"""Linux with a disk, two shares and a network card behind windows, killed on both sides while it writes and fetches."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conversation import BULKHEAD

from launcher.images import ImagesError, ensure

VICTIMS = ("fs0", "fs0.window", "blk1.window", "net0.window", "fs1", "fs1.window", "blk1", "net0")
WORK = """
exec 3>/mnt/work/open
i=0
while [ $i -lt 60 ]; do
  echo line $i >&3
  echo $i > /mnt/work/n.tmp && mv /mnt/work/n.tmp /mnt/work/n$i || echo FAILED work $i
  echo $i > /mnt/vio/n.tmp && mv /mnt/vio/n.tmp /mnt/vio/n$i || echo FAILED vio $i
  dd if=/dev/zero of=/dev/vdb bs=4096 seek=$i count=1 conv=fsync,notrunc 2>/dev/null || echo FAILED disk $i
  [ $((i % 6)) = 5 ] && { wget -q -T 60 -O - http://10.0.2.2:PORT/big | sha256sum | grep -q SUM || echo FAILED net $i; }
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
        while not (folder / f"n{4 + 7 * number}").exists():
            if over.wait(0.05):
                return
        pid = pid_of(id)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(id)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The port of a server on the host's loopback, and the hash of what is fetched there."""
    folder = tmp_path / "web"
    folder.mkdir()
    data = os.urandom(200_000)
    (folder / "big").write_bytes(data)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield str(server.server_address[1]), hashlib.sha256(data).hexdigest()
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(450)
def test_linux_notices_none_of_it(tmp_path: Path, web: tuple[str, str]) -> None:
    try:
        ensure()
    except ImagesError as error:
        pytest.skip(f"no Debian guest: {error}")
    (tmp_path / "disk.img").write_bytes(b"\xff" * (4 << 20))
    for name in ("work", "vio"):
        (tmp_path / name).mkdir()
    words = ["--disk", f"{tmp_path}/disk.img,window=on", "--name", "windows", "--share"]
    words += [f"{tmp_path}/work,tag=work,window=on", "--share", f"{tmp_path}/vio,tag=vio,proto=virtiofs,window=on"]
    words += ["--net", "user,window=on"]
    work = WORK.replace("PORT", web[0]).replace("SUM", web[1])
    killed: list[str] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_each, args=(tmp_path / "work", killed, over))
    killer.start()
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*BULKHEAD, "run", "--guest", "debian", *words, "--", "sh", "-c", work],
            capture_output=True,
            text=True,
            timeout=400,
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
