"""Shares recorded beside a guest that has long been using them, and replayed on a copy of the directory as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import IO, Any

import msgpack
import pytest

from devproc.fs.host import HostTree
from devproc.fs.journal import Journal
from launcher.images import ImagesError, ensure
from launcher.replay.player import Result, replay
from launcher.replay.tables import lent_tables
from proto.errors import ConfigError

COMMAND = [sys.executable, "-P", "-m", "launcher"]
DEADLINE = 100.0
SETTLED = "all is open"


@pytest.fixture
def images() -> None:
    try:
        ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the Debian images: {error}")


def packed(tables: Any) -> bytes:
    return zlib.compress(msgpack.packb(tables))


def fill(directory: Path) -> Path:
    (directory / "sub").mkdir(parents=True)
    (directory / "hello").write_text("hello\n")
    (directory / "sub" / "kept").write_text("kept\n")
    return directory


def recorded(path: Path, *ids: str) -> subprocess.Popen[str]:
    """A recorder that has begun."""
    command = [*COMMAND, "record", *ids, "--machine", "recorded", "-o", str(path)]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert recorder.stderr is not None
    first = recorder.stderr.readline()
    assert "Ctrl-C ends it" in first, first + recorder.stderr.read()
    return recorder


def until(output: IO[str], line: str) -> None:
    said = []
    for text in output:
        said.append(text.rstrip())
        if said[-1].endswith(line):
            return
    raise AssertionError(f"the guest ended before {line!r}: {said}")


def other_answers(result: Result, most: int = 0) -> str:
    """What is wrong with a replay."""
    return "" if len(result.differences) <= most and not result.died and result.compared > 10 else result.text


@pytest.mark.parametrize(
    "tables",
    [
        b"no zlib",
        zlib.compress(b"\xc1"),
        packed([]),
        packed({"nodes": 3}),
        packed({"nodes": [[7, [1, 2]]]}),
        packed({"nodes": [["x", 1]]}),
        packed({"fids": [[7, 8]], "nodes": []}),
        packed({"nodes": [[7, [[1, 2], ["no bytes"], 0]]]}),
        packed({"nodes": [], "counts": [[1 << 40, 1]]}),
        packed({"inodes": [], "counts": [[1, -1]]}),
    ],
)
def test_tables_that_are_nonsense_are_an_error_of_the_recording(tmp_path: Path, tables: bytes) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with contextlib.closing(HostTree(str(tmp_path))) as tree, pytest.raises(ConfigError, match="nothing sensible"):
        lent_tables(tables, tree)
    assert set(os.listdir("/proc/self/fd")) == before


def test_tables_lead_to_the_same_paths_of_another_directory(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    there = (tmp_path / "there").stat()
    rows = [[2, [[1, 1], [b"there"], 0]], [3, [[1, 2], [b"gone"], 1]], [-1, [2, 0]]]
    with contextlib.closing(HostTree(str(tmp_path))) as tree:
        (fd,) = lent_tables(packed({"nodes": rows}), tree).values()
    with contextlib.closing(Journal(fd)) as journal:
        assert journal.table[2] == [[there.st_dev, there.st_ino], [b"there"], 0]
        assert journal.table[3] == rows[1][1] and journal.table[-1] == [2, 0]
    os.close(fd)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mounts_of_debian_replay_from_their_middle(images: None, tmp_path: Path) -> None:
    protocols = {"fs0": "9p", "fs1": "virtiofs"}
    shares = {id: fill(tmp_path / id) for id in protocols}
    before = """
        for share in 9p virtiofs; do cd /mnt/$share; ls -lR; cat hello; touch old; done
        exec 5</mnt/9p/sub/kept 6</mnt/virtiofs/sub/kept 7>/mnt/9p/log 8>/mnt/virtiofs/log
    """
    after = """
        cat <&5; cat <&6; echo 9p >&7; echo virtiofs >&8
        for share in 9p virtiofs; do
            cd /mnt/$share/sub; cat kept; mkdir ../made; mv ../hello ../made/moved; ln -s a ../link; chmod 600 kept
            ls -lR ..; rm ../old; rm -r ../made; dd if=/dev/zero of=big bs=64k count=9; cat big | wc -c; df .; cd /
        done; exec 5<&- 6<&- 7>&- 8>&-; sync
    """
    options = [f"--share={shares[id]},tag={protocol},proto={protocol}" for id, protocol in protocols.items()]
    script = f"{before}\necho {SETTLED}; read line\n{after}"
    path = tmp_path / "shares.rec"
    guest = subprocess.Popen(
        [*COMMAND, "run", "--name", "recorded", *options, "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    recorder = None
    try:
        assert guest.stdin is not None and guest.stdout is not None
        until(guest.stdout, SETTLED)
        for id in protocols:
            shutil.copytree(shares[id], tmp_path / f"{id} as it was")
        recorder = recorded(path, *protocols)
        guest.stdin.write("\n")
        guest.stdin.flush()
        guest.communicate(timeout=200)
        assert guest.returncode == 0
        recorder.communicate(timeout=60)
    finally:
        for process in (guest, recorder):
            if process is not None and process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)
    for id in protocols:
        assert other_answers(replay(path, str(tmp_path / f"{id} as it was"), id=id)) == ""
        assert not (tmp_path / f"{id} as it was" / "old").exists()


def test_v86fs_of_the_bundled_guest_replays_from_its_middle(tmp_path: Path) -> None:
    share = fill(tmp_path / "share")
    path = tmp_path / "share.rec"
    command = [*COMMAND, "run", "-m", "64M", "--guest", "bundled", "--name", "recorded"]
    guest = subprocess.Popen(
        [*command, "--share", f"{share},tag=here,proto=v86fs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    recorder = None
    try:
        assert guest.stdin is not None and guest.stdout is not None
        guest.stdin.write("ls; ls sub; cat hello; put old x; help\n")
        guest.stdin.flush()
        until(guest.stdout, "hello")  # the first that ls says; all is done when the files are there
        deadline = time.monotonic() + DEADLINE
        while not (share / "old").exists() or (share / "old").read_text() != "x\n":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = shutil.copytree(share, tmp_path / "as it was")
        recorder = recorded(path, "fs0")
        guest.stdin.write("cat sub/kept; mkdir d; put d/f text; mv d/f d/g; ls d; rm old; fstest 7 40; exit\n")
        guest.stdin.flush()
        assert "all as it must be" in guest.communicate(timeout=DEADLINE)[0]
        recorder.communicate(timeout=60)
    finally:
        for process in (guest, recorder):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)
    assert other_answers(replay(path, str(before))) == ""
    assert not (before / "old").exists()
