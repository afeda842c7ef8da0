"""An overlay that is committed while it is written ends equal to its base; interrupted anywhere, both are whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devproc.blk import qcow2_tools
from devproc.blk.backend import open_backend
from devproc.blk.commit import Commit, base_of
from devproc.blk.mirror_map import BLOCK, MirrorMap, Phase
from devproc.needs import needs_of
from proto.errors import ConfigError

SIZE = 24 * BLOCK
KINDS = ("snapshot:file", "snapshot:qcow2", "qcow2", "qcow2:qcow2", "copy-on-read")


class Stack:
    """An overlay of one kind on a base with content, and what the guest should see."""

    def __init__(self, place: Path, kind: str) -> None:
        self.content = bytearray(random.Random(3).randbytes(SIZE))
        self.content[5 * BLOCK : 9 * BLOCK] = bytes(4 * BLOCK)
        raw = place / "base.img"
        raw.write_bytes(self.content)
        self.base = f"file:{raw}"
        if kind in ("snapshot:qcow2", "qcow2:qcow2"):
            self.base = f"qcow2:{place / 'base.qcow2'}"
            qcow2_tools.create(str(place / "base.qcow2"), SIZE)
            self.fill(self.base)
        self.overlay = place / "today"
        if kind.startswith("qcow2"):
            qcow2_tools.create(str(self.overlay), SIZE, backing=self.base.partition(":")[2])
            self.uri = f"qcow2:{self.overlay}"
        else:
            self.uri = f"{kind.partition(':')[0]}:overlay={self.overlay}:{self.base}"

    def fill(self, uri: str) -> None:
        backend = open_backend(uri)
        backend.pwritev([memoryview(self.content)], 0, True)
        backend.close()

    def write(self, backend: Any, rng: random.Random) -> None:
        """Something that a guest does."""
        at = rng.randrange(SIZE // 512) * 512
        size = min(rng.choice((512, 4096, 3 * BLOCK)), SIZE - at)
        if rng.randrange(8) == 0:
            backend.write_zeroes(at, size, True)
            self.content[at : at + size] = bytes(size)
            return
        data = rng.randbytes(size)
        backend.pwritev([memoryview(data)], at, False)
        self.content[at : at + size] = data

    def read(self, uri: str) -> bytes:
        backend = open_backend(uri, read_only=True)
        data = memoryview(bytearray(SIZE))
        backend.preadv([data], 0)
        backend.close()
        return bytes(data)


@pytest.fixture
def map_fd() -> Iterator[int]:
    fd = os.memfd_create("mirror")
    yield fd
    os.close(fd)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_meanwhile_is_in_the_base_too(tmp_path: Path, map_fd: int, kind: str) -> None:
    stack, rng = Stack(tmp_path, kind), random.Random(4)
    before = open_backend(stack.uri)
    for _ in range(8):
        stack.write(before, rng)
    before.close()
    assert base_of(stack.uri) == stack.base
    commit: Any = open_backend(f"commit:{stack.uri}")
    assert isinstance(commit, Commit)
    commit.begin(map_fd, print)
    seen = MirrorMap(map_fd)
    seen.limit = 4 << 20
    deadline = time.monotonic() + 60
    while seen.phase != Phase.SYNCED:
        assert time.monotonic() < deadline
        if seen.phase == Phase.COPYING:
            stack.write(commit, rng)
        time.sleep(0.002)
        if seen.phase == Phase.BOTH:
            seen.limit = 0
    for _ in range(10):
        stack.write(commit, rng)
    whole = memoryview(bytearray(SIZE))
    commit.preadv([whole], 0)
    assert whole == stack.content
    commit.flush()
    commit.let_go()
    assert seen.left() == 0
    assert stack.read(stack.base) == stack.content
    assert stack.read(stack.uri) == stack.content
    if "qcow2" in kind and shutil.which("qemu-img"):
        for path in (stack.base, stack.uri):
            if path.startswith("qcow2:"):
                subprocess.run(["qemu-img", "check", path.partition(":")[2]], check=True, capture_output=True)


@pytest.mark.parametrize("kind", KINDS)
def test_left_in_the_middle_both_are_whole(tmp_path: Path, map_fd: int, kind: str) -> None:
    """As by a kill: nothing is closed in order. The overlay on its base is the disk, and a successor goes on."""
    stack, rng = Stack(tmp_path, kind), random.Random(5)
    pid = os.fork()
    if not pid:
        commit: Any = open_backend(f"commit:{stack.uri}")
        for _ in range(12):
            stack.write(commit, rng)
        map = MirrorMap(map_fd, SIZE)
        map.limit = 1 << 20
        commit.begin(map_fd, print)
        while map.copied == 0:
            time.sleep(0.001)
        for _ in range(3):
            stack.write(commit, rng)
        (tmp_path / "content").write_bytes(stack.content)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    content = (tmp_path / "content").read_bytes()
    assert MirrorMap(map_fd).phase == Phase.COPYING
    assert stack.read(stack.uri) == content
    again: Any = open_backend(f"commit:{stack.uri}")
    seen = MirrorMap(map_fd)
    seen.limit = 0
    again.begin(map_fd, print)
    until(lambda: seen.phase == Phase.SYNCED)
    again.close()
    assert stack.read(stack.base) == content == stack.read(stack.uri)


def test_only_what_is_in_the_overlay_is_copied(tmp_path: Path, map_fd: int) -> None:
    stack = Stack(tmp_path, "snapshot:file")
    overlay = open_backend(stack.uri)
    overlay.pwritev([memoryview(b"x" * 512)], 3 * BLOCK, False)
    overlay.close()
    commit: Any = open_backend(f"commit:{stack.uri}")
    commit.begin(map_fd, print)
    seen = MirrorMap(map_fd)
    until(lambda: seen.phase == Phase.SYNCED)
    assert seen.copied == BLOCK
    commit.close()


def test_refusals(tmp_path: Path) -> None:
    stack = Stack(tmp_path, "qcow2")
    with pytest.raises(ConfigError, match="no overlay"):
        open_backend(f"commit:{stack.base}")
    qcow2_tools.create(str(tmp_path / "alone.qcow2"), SIZE)
    with pytest.raises(ConfigError, match="stands on nothing"):
        open_backend(f"commit:qcow2:{tmp_path / 'alone.qcow2'}")
    with pytest.raises(ConfigError, match="read-only"):
        open_backend(f"commit:{stack.uri}", read_only=True)
    other = open_backend(f"snapshot:{stack.base}")
    with pytest.raises(ConfigError, match="locked"):
        open_backend(f"commit:{stack.uri}")
    other.close()
    os.truncate(tmp_path / "base.img", SIZE + BLOCK)
    with pytest.raises(ConfigError, match=f"has {SIZE + BLOCK} bytes, the disk {SIZE}"):
        open_backend(f"commit:{stack.uri}")


def test_what_the_sandbox_allows(tmp_path: Path) -> None:
    """The base may be written, while it is committed to."""
    stack = Stack(tmp_path, "qcow2:qcow2")
    base = stack.base.partition(":")[2]
    assert (base, "write") in needs_of("blk", f"commit:{stack.uri}").rules
    assert (base, "write") not in needs_of("blk", stack.uri).rules
