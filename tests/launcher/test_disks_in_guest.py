"""Every kind of disk in an unmodified Linux guest, their processes killed while it writes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

from launcher.images import ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COMMAND = [sys.executable, "-P", "-m", "launcher"]
SIZE = 8 << 20
CONTENT = random.Random(1).randbytes(SIZE)
SCRIPT = """
sha256sum /dev/vdb /dev/vdc /dev/vdd /dev/vde
echo begin
for round in 1 2 3 4; do
    for disk in vdb vdc vdd vde; do
        dd if=/dev/urandom of=/dev/$disk bs=64k count=16 seek=$((round * 17)) conv=fsync status=none || echo failed
    done
    echo round $round
done
echo 3 > /proc/sys/vm/drop_caches
sha256sum /dev/vdb /dev/vdc /dev/vdd /dev/vde
dmesg | grep -c 'I/O error'
exit 0
"""


@pytest.fixture(autouse=True)
def tools() -> None:
    """The Debian guest and the servers."""
    for tool in ("qemu-img", "nbdkit"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: sh tests/tools.sh")
    try:
        ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian guest: {error}")


@pytest.fixture
def uris(tmp_path: Path) -> Any:
    """Four disks of the same content: qcow2, a snapshot, one split on a web server, and one behind nbdkit over TLS."""
    raw = tmp_path / "disk.img"
    raw.write_bytes(CONTENT)
    (tmp_path / "nbd.img").write_bytes(CONTENT)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", tmp_path / "x.qcow2"], check=True
    )
    subprocess.run([*COMMAND, "disk", "split", raw, tmp_path / "split"], check=True, stdout=subprocess.DEVNULL)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    socket_path = tmp_path / "nbd"
    authority = Authority()
    client, server = authority.client(tmp_path / "client"), authority.server(tmp_path / "server")
    tls = ["--tls=require", f"--tls-certificates={server}", "--tls-verify-peer"]
    nbd = subprocess.Popen(["nbdkit", "-f", "-U", socket_path, *tls, "file", tmp_path / "nbd.img"])
    deadline = time.monotonic() + 60
    while not can_connect(socket_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield [
        f"qcow2:{tmp_path}/x.qcow2",
        f"snapshot:{raw}",
        f"http://127.0.0.1:{web.server_port}/split/blk.txt",
        f"nbds+unix:certificates={client}:///?socket={socket_path}",
    ]
    nbd.kill()
    nbd.wait()
    web.shutdown()
    web.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_disks_survive_kills_while_the_guest_writes(tmp_path: Path, uris: list[str]) -> None:
    words = [word for uri in uris for word in ("--disk", uri)]
    guest = subprocess.Popen(
        [*COMMAND, "run", "--name", "disks", *words, "--", "sh", "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert guest.stdout is not None
        lines = []
        for line in guest.stdout:
            lines.append(line.strip())
            if line.startswith(("begin", "round 2")):
                kill_all_disks()
        assert guest.wait(60) == 0, lines
    finally:
        guest.kill()
        guest.wait()
    before, after = lines[:4], lines[-5:-1]
    assert [line.split()[0] for line in before] == [hashlib.sha256(CONTENT).hexdigest()] * 4
    assert lines[-1] == "0" and not any("failed" in line for line in lines)
    assert (tmp_path / "disk.img").read_bytes() == CONTENT
    check_qcow2(tmp_path, after[0].split()[0])
    assert hashlib.sha256((tmp_path / "nbd.img").read_bytes()).hexdigest() == after[3].split()[0]


def kill_all_disks() -> None:
    """kill -9 every disk's process but the root's."""
    answer = subprocess.run(
        [*COMMAND, "ps", "--json", "--machine", "disks"], capture_output=True, check=True, timeout=60
    )
    for row in json.loads(answer.stdout)["processes"]:
        if row["role"] == "blk" and row["id"] != "blk0" and row["pid"]:
            os.kill(row["pid"], signal.SIGKILL)


def check_qcow2(folder: Path, digest: str) -> None:
    """At worst leaks, which can be taken back; and what the guest read is what it holds."""
    path = str(folder / "x.qcow2")
    subprocess.run([*COMMAND, "disk", "check", "--repair", path], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, folder / "back.raw"], check=True)
    assert hashlib.sha256((folder / "back.raw").read_bytes()).hexdigest() == digest
