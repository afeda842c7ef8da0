"""`bulkhead disk`: every action's result as qemu-img sees it, and mistakes that leave nothing behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import pty
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devproc.blk.backend import open_backend

COMMAND = [sys.executable, "-P", "-m", "launcher"]
SIZE = 3 << 20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing: apt install qemu-utils")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def disk(bulkhead):
    """Run an action with --json, and give its result."""

    def run(*words: str, code: int = 0) -> dict:
        done = bulkhead("disk", *words, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else {"error": done.stderr}

    return run


@pytest.fixture
def refused(bulkhead):
    """Run an action that fails, and give what it says."""

    def run(*words: str) -> str:
        before = sorted(path.name for path in Path().iterdir())
        done = bulkhead("disk", *words)
        assert done.returncode == 125 and done.stderr.startswith("bulkhead: ") and "Traceback" not in done.stderr
        assert sorted(path.name for path in Path().iterdir()) == before
        return done.stderr

    return run


@pytest.fixture
def image():
    """A raw image with data and holes."""
    rng = random.Random(1)
    content = b"".join(rng.choice([bytes(65536), rng.randbytes(65536)]) for _ in range(SIZE >> 16))
    Path("disk.img").write_bytes(content)
    return content


def qemu_img(*words: str) -> str:
    return subprocess.run(["qemu-img", *words], capture_output=True, text=True, timeout=60, check=True).stdout


def test_create(disk):
    assert disk("create", "raw.img", "3M") == {"path": str(Path("raw.img").resolve()), "format": "raw", "size": SIZE}
    assert Path("raw.img").stat().st_size == SIZE
    disk("create", "qcow2:a.qcow2", "1G", "--cluster", "4k", "--format-version", "2")
    seen = json.loads(qemu_img("info", "--output=json", "a.qcow2"))
    assert (seen["virtual-size"], seen["cluster-size"]) == (1 << 30, 4096)
    assert seen["format-specific"]["data"]["compat"] == "0.10"
    qemu_img("check", "a.qcow2")


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_create_on_a_backing_image(disk, image, form):
    qemu_img("convert", "-O", form, "disk.img", "base")
    result = disk("create", "qcow2:today.qcow2", "--backing", "base")
    assert result["size"] == SIZE
    seen = json.loads(qemu_img("info", "--output=json", "today.qcow2"))
    assert (seen["backing-filename"], seen["backing-filename-format"]) == ("base", form)
    assert qemu_img("compare", "today.qcow2", "disk.img")


@pytest.mark.parametrize("target", ["qcow2:out", "out"])
@pytest.mark.parametrize("source", ["raw", "qcow2", "compressed"])
def test_convert(disk, image, source, target):
    if source != "raw":
        qemu_img("convert", *(["-c"] if source == "compressed" else []), "-O", "qcow2", "disk.img", "source.qcow2")
    result = disk("convert", "disk.img" if source == "raw" else "source.qcow2", target)
    assert 0 < result["copied"] < SIZE
    form = "qcow2" if ":" in target else "raw"
    qemu_img("compare", "-f", form, "-F", "raw", "out", "disk.img")
    if form == "qcow2":
        qemu_img("check", "out")


def test_a_progress_line_without_a_terminal_is_one_line(bulkhead, image):
    done = bulkhead("disk", "convert", "disk.img", "qcow2:out")
    assert (
        done.stderr.count("\n") == 1
        and done.stderr.startswith("copying to out")
        and done.stdout.startswith(f"{Path('out').resolve()}: qcow2, 3.0M, ")
    )


def test_on_a_terminal_there_is_a_bar_and_then_the_result_alone(image):
    shown, code = on_terminal("convert", "disk.img", "qcow2:out")
    assert code == 0 and "copying to out  ████████████████ 100%" in shown
    assert shown.rpartition("\x1b[K")[2].startswith(f"{Path('out').resolve()}: qcow2, 3.0M, ")


@pytest.mark.parametrize("ending", ["Ctrl-C", signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [("convert", "out"), ("convert", "qcow2:out"), ("split", "public/d")])
def test_what_is_ended_in_the_middle_leaves_nothing_half(image, words, ending):
    """The source answers nothing while `held` is there, so the image is begun and not finished."""
    Path("held").touch()
    _, code = on_terminal(words[0], "pause:when=held:disk.img", words[1], ending=ending)
    assert code == 124
    assert sorted(path.name for path in Path().rglob("*")) in (["disk.img", "held"], ["disk.img", "held", "public"])


@pytest.mark.parametrize("words", [("convert", "out"), ("convert", "qcow2:out"), ("split", "out")])
def test_a_full_disk_leaves_nothing_half(image, words):
    """As full as a limit makes it: what a full disk does to requests, test_full_disk.py shows."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
    done = subprocess.run([*COMMAND, "disk", words[0], "disk.img", words[1]], preexec_fn=limit, capture_output=True,
                          text=True, timeout=60)  # fmt: skip
    assert done.returncode == 125 and "File too large" in done.stderr
    assert [path.name for path in Path().iterdir()] == ["disk.img"]


def on_terminal(*words, ending=None):
    """Run an action on a terminal, and end it when something is begun; returns what it showed, and the exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # the tests may have been started by nohup
        os.execv(COMMAND[0], [*COMMAND, "disk", *words])
    try:
        if ending is not None:
            deadline = time.monotonic() + 60
            while not list(Path().rglob(".*.part")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.write(fd, b"\x03") if ending == "Ctrl-C" else os.kill(pid, ending)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while select.select([fd], [], [], 60)[0] and (data := os.read(fd, 65536)):
                shown += data
    finally:
        deadline = time.monotonic() + 60
        while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        os.close(fd)
    return shown.decode(), os.waitstatus_to_exitcode(status[1])


@pytest.mark.parametrize("through", ["{}", "qcow2:{}", "snapshot:{}", "snapshot:qcow2:{}"])
def test_what_is_empty_is_not_read(disk, through):
    """A terabyte of nothing, with 64 KiB in it."""
    image = "far.qcow2" if "qcow2" in through else "far.img"
    disk(
        "create",
        f"qcow2:{image}" if "qcow2" in through else image,
        "1T",
        *(["--cluster", "2M"] if "qcow2" in through else []),
    )
    target = open_backend(f"qcow2:{image}" if "qcow2" in through else image)
    target.pwritev([memoryview(b"far" * 65536)[:65536]], 1 << 39, False)
    target.close()
    result = disk("convert", through.format(image), "qcow2:out", "--cluster", "2M")
    assert (result["size"], result["copied"]) == (1 << 40, 65536)
    back = open_backend("qcow2:out", read_only=True)
    seen = bytearray(65536 * 3)
    back.preadv([memoryview(seen)], (1 << 39) - 65536)
    back.close()
    assert seen == bytes(65536) + (b"far" * 65536)[:65536] + bytes(65536)


def test_info(disk, image):
    qemu_img("create", "-q", "-f", "qcow2", "-b", "disk.img", "-F", "raw", "top.qcow2", str(SIZE))
    seen = disk("info", "top.qcow2")
    assert (seen["format"], seen["size"], seen["cluster"], seen["backing"]) == ("qcow2", SIZE, 65536, "disk.img")
    assert seen["below"] == {"size": SIZE, "format": "raw"}
    seen = disk("info", "snapshot:overlay=o:delay:ms=1:disk.img")
    assert seen["written"] == 0 and seen["below"]["scheme"] == "delay" and seen["below"]["below"]["format"] == "raw"
    assert not Path("o").exists()


def test_what_an_image_is_is_never_guessed_inside_a_uri(disk, refused, image):
    disk("create", "qcow2:a.qcow2", "1M")
    for uri in ("snapshot:a.qcow2", "delay:ms=1:a.qcow2", "log:snapshot:overlay=o:a.qcow2"):
        assert "a.qcow2 is a qcow2 image, not a raw one" in refused("info", uri)
    assert disk("info", "snapshot:qcow2:a.qcow2")["size"] == 1 << 20
    assert disk("info", "snapshot:file:a.qcow2")["size"] != 1 << 20


def test_check_finds_and_repairs_what_qemu_img_finds(disk, image):
    qemu_img("convert", "-O", "qcow2", "disk.img", "x.qcow2")
    assert disk("check", "x.qcow2")["errors"] == []
    leak("x.qcow2", 1)
    assert disk("check", "x.qcow2", code=3)["leaks"] == 1
    assert disk("check", "--repair", "x.qcow2")["repaired"] == 1
    qemu_img("check", "x.qcow2")
    leak("x.qcow2", 0)
    assert disk("check", "x.qcow2", code=2)["errors"]


def leak(path: str, count: int) -> None:
    """Give a count of one to a cluster behind the end, or of zero to the first one of data."""
    disk = open_backend(f"qcow2:{path}")
    used = next(piece.entry for piece in disk.pieces(0, disk.size) if piece.kind == "data") // 65536
    disk.refcounts.set(Path(path).stat().st_size // 65536 + 1 if count else used, count)
    disk.store.close()


def test_commit_of_qcow2_and_of_a_snapshot(disk, image):
    qemu_img("create", "-q", "-f", "qcow2", "-b", "disk.img", "-F", "raw", "top.qcow2", str(SIZE))
    subprocess.run(["qemu-io", "-c", "write -P 7 64k 128k", "-c", "write -z 1M 64k", "top.qcow2"], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    assert disk("commit", "qcow2:top.qcow2")["committed"] == 192 << 10
    expected = bytearray(image)
    expected[64 << 10 : 192 << 10] = b"\7" * (128 << 10)
    expected[1 << 20 : (1 << 20) + 65536] = bytes(65536)
    assert Path("disk.img").read_bytes() == expected
    written = open_backend("snapshot:overlay=o:disk.img")
    written.pwritev([memoryview(b"s" * 4096)], 8192, False)
    written.close()
    assert disk("info", "snapshot:overlay=o:disk.img")["written"] == 4096
    assert Path("disk.img").read_bytes() == expected
    assert disk("commit", "snapshot:overlay=o:disk.img")["committed"] == 4096
    expected[8192:12288] = b"s" * 4096
    assert Path("disk.img").read_bytes() == expected
    assert disk("info", "snapshot:overlay=o:disk.img")["written"] == 0


def test_discard_empties_an_overlay(disk, image):
    written = open_backend("snapshot:overlay=o:disk.img")
    written.pwritev([memoryview(b"s" * 4096)], 8192, False)
    written.close()
    assert disk("discard", "snapshot:overlay=o:disk.img") == {"discarded": 4096}
    assert disk("info", "snapshot:overlay=o:disk.img")["written"] == 0
    assert Path("disk.img").read_bytes() == image


def test_resize(disk, refused):
    Path("old.img").write_bytes(bytes(1000))
    assert disk("resize", "old.img", "1024")["size"] == 1024
    assert "cut off" in refused("resize", "old.img", "512")
    disk("resize", "old.img", "512", "--shrink")
    assert Path("old.img").stat().st_size == 512
    disk("create", "qcow2:a.qcow2", "1M", "--cluster", "512")
    disk("resize", "a.qcow2", "64M")
    assert json.loads(qemu_img("info", "--output=json", "a.qcow2"))["virtual-size"] == 64 << 20
    qemu_img("check", "a.qcow2")
    assert "smaller" in refused("resize", "a.qcow2", "1M")


def test_split_is_what_http_reads(disk, image):
    result = disk("split", "disk.img", "public/d", "--block", "64k", "--prefetch", "5,1,2", "--group", "2")
    assert (result["blocks"], result["groups"]) == (48, 2)
    assert (Path("public/d/grp000000000.bin")).stat().st_size == 128 << 10
    handler = functools.partial(Quiet, directory="public")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        done = disk("convert", f"http://127.0.0.1:{server.server_port}/d/blk.txt", "back.img")
    finally:
        server.shutdown()
        server.server_close()
    assert done["size"] == SIZE
    assert hashlib.sha256(Path("back.img").read_bytes()).digest() == hashlib.sha256(image).digest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "which action?"),
        (("creat", "x", "1M"), "did you mean create?"),
        (("create", "x"), "how large?"),
        (("create", "x", "1000"), "512-byte sectors"),
        (("create", "x", "big"), "not a size"),
        (("create", "disk.img", "1M"), "exists already"),
        (("create", "x.qcow2", "1M"), "x.qcow2 would be a raw image"),
        (("convert", "disk.img", "x.qcow2"), "For qcow2: qcow2:x.qcow2"),
        (("create", "x.vmdk", "1M"), "file:x.vmdk"),
        (("create", "none/x.img", "1M"), "there is no directory"),
        (("create", "qcow2:x", "1M", "--backing", "none.img"), "no such file to stand on"),
        (("create", "vmdk:x", "1M"), "no scheme vmdk"),
        (("create", "nbd://h/x", "1M"), "only raw and qcow2"),
        (("create", "qcow2:x", "1M", "--cluster", "3k"), "power of two"),
        (("create", "x", "1M", "--repair"), "--repair means nothing to disk create"),
        (("convert", "none.img", "x"), "none.img: no such file"),
        (("convert", "disk.img", "disk.img"), "exists already"),
        (("convert", "error:percent=100:disk.img", "x"), "injected"),
        (("check", "disk.img"), "no qcow2 image"),
        (("commit", "disk.img"), "neither a snapshot nor"),
        (("commit", "snapshot:disk.img"), "has no overlay"),
        (("split", "disk.img", "d", "--block", "3k"), "power of two"),
        (("split", "disk.img", "d", "--prefetch", "99999"), "different blocks"),
        (("info",), "takes URI"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(refused, image, words, said):
    assert said in refused(*words)
