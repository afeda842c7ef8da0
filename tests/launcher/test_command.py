"""`bulkhead run -- COMMAND`: Linux runs it, its output alone comes out, its status is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.exitcodes import ExitCode
from launcher.images import Images, ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RUN = [sys.executable, "-P", "-m", "launcher", "run"]


@pytest.fixture(scope="module", autouse=True)
def images() -> Images:
    """The Debian guest, fetched if it is not there."""
    try:
        return ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian guest: {error}")


def run(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([*RUN, *words], capture_output=True, timeout=200, check=False, **given)


def test_output_and_status(images: Images) -> None:
    answer = run("--", "sh", "-c", "uname -r; echo to stderr >&2; exit 42")
    assert answer.stdout == f"{images.kernel_version}\nto stderr\n".encode()
    assert (answer.returncode, answer.stderr) == (42, b"")


def test_output_is_exact_to_the_byte() -> None:
    script = r"printf '\000\001\r\n\n\r\377\033[0mno newline at the end'"
    assert run("--", "sh", "-c", script).stdout == b"\0\1\r\n\n\r\xff\x1b[0mno newline at the end"


def test_arguments_arrive_as_they_are() -> None:
    words = ["a b", "", "$HOME", "'quoted'", 'double"', "back\\slash", "new\nline", "ümlaut"]
    answer = run("--", "printf", "<%s>", *words)
    assert answer.stdout.decode() == "".join(f"<{word}>" for word in words)


def test_input_is_the_command_s(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(2000)).encode()
    answer = run("--", "sh", "-c", "cat | md5sum", stdin=text)
    import hashlib

    assert answer.stdout.split()[0].decode() == hashlib.md5(text).hexdigest()


def test_a_large_output_arrives_whole() -> None:
    answer = run("--", "seq", "1", "30000")
    assert answer.stdout == "".join(f"{number}\n" for number in range(1, 30001)).encode()


def test_a_command_that_is_not_there_is_the_shell_s_127() -> None:
    assert run("--", "no-such-command").returncode == 127


def test_output_streams(tmp_path: Path) -> None:
    with subprocess.Popen([*RUN, "--", "sh", "-c", "echo first; sleep 100"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.KILLED


def test_a_panic_has_a_code_of_its_own() -> None:
    answer = run("--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert answer.returncode == ExitCode.PANIC
    assert b"bulkhead: the guest's kernel panicked: sysrq triggered crash" in answer.stderr


def test_a_guest_that_stops_before_the_end_has_a_code_of_its_own() -> None:
    answer = run("--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 100")
    assert answer.returncode == ExitCode.UNFINISHED
    assert b"before COMMAND ended" in answer.stderr


def test_a_root_that_cannot_be_mounted_shows_what_the_guest_said(tmp_path: Path) -> None:
    root = tmp_path / "root.ext4"
    root.write_bytes(bytes(1 << 20))
    answer = run("--root", str(root), "--append", "rdinit=/nowhere", "--", "true")
    assert answer.returncode in (ExitCode.PANIC, ExitCode.UNFINISHED)
    assert answer.stderr


def test_the_root_disk_is_a_private_copy_unless_it_is_kept(images: Images, tmp_path: Path) -> None:
    before = images.root.read_bytes()
    assert run("--", "sh", "-c", "echo x > /root/kept").returncode == 0
    assert run("--", "cat", "/root/kept").returncode == 1
    root = tmp_path / "my.ext4"
    assert run("--root", str(root), "--", "sh", "-c", "echo mine > /root/kept").returncode == 0
    assert run("--root", str(root), "--", "cat", "/root/kept").stdout == b"mine\n"
    assert images.root.read_bytes() == before


def test_disks_follow_the_root(tmp_path: Path) -> None:
    disk = tmp_path / "data.img"
    disk.write_bytes(b"hello disk".ljust(1 << 20, b"\0"))
    answer = run(
        "--disk", f"{disk},ro", "--", "sh", "-c", "head -c 10 /dev/vdb; cat /sys/block/vdb/ro; df / | tail -n 1"
    )
    assert answer.stdout.startswith(b"hello disk1\n/dev/vda")


def test_a_disk_whose_process_is_killed_gives_no_error(tmp_path: Path) -> None:
    disk = tmp_path / "data.img"
    disk.touch()
    os.truncate(disk, 64 << 20)
    write = (
        "until [ -e /tmp/enough ]; do dd if=/dev/zero of=/dev/vdb bs=64k count=1000 2>/dev/null || echo failed; done"
    )
    script = f"{write} & echo go; read x; touch /tmp/enough; wait; sync && echo written; dmesg | grep -c 'I/O error'"
    with subprocess.Popen(
        [*RUN, "--disk", str(disk), "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        for _ in range(3):
            rows = _processes()
            os.kill(rows["blk1"], signal.SIGKILL)
            time.sleep(0.5)  # a moment in which it writes again
        process.stdin.write(b"enough\n")
        process.stdin.close()
        output = process.stdout.read()
    assert output == b"written\n0\n"


def _processes() -> dict[str, int]:
    import json

    words = [sys.executable, "-P", "-m", "launcher", "ps", "--json"]
    deadline = time.monotonic() + 60
    while True:
        seen = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
        rows = [row for row in seen["processes"] if row["role"] != "spare"]
        if all(row["state"] == "running" for row in rows) or time.monotonic() > deadline:
            return {row["id"]: row["pid"] for row in rows}
