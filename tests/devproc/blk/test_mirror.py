"""A disk that is copied while it is written ends equal to its copy, whatever happens in between."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devproc.blk.backend import open_backend
from devproc.blk.mirror import Mirror
from devproc.blk.mirror_map import BLOCK, Block, MirrorMap, Phase
from devproc.blk.uri import Uri, absolute, storage
from proto.errors import BackendError, ConfigError, ProtocolError

SIZE = 40 * BLOCK + 512


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A disk with content and holes, and an empty one."""
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    content = bytearray(random.Random(3).randbytes(SIZE))
    content[5 * BLOCK : 9 * BLOCK] = bytes(4 * BLOCK)
    source.write_bytes(content)
    target.write_bytes(b"\xff" * SIZE)
    return source, target


@pytest.fixture
def map_fd() -> Iterator[int]:
    fd = os.memfd_create("mirror")
    yield fd
    os.close(fd)


def open_mirror(source: Path, target: Path) -> Mirror:
    backend: Any = open_backend(str(Uri("mirror", {"to": f"file:{target}"}, f"file:{source}")))
    assert isinstance(backend, Mirror)
    return backend


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_both_are_equal_although_it_was_written_all_the_time(images: tuple[Path, Path], map_fd: int) -> None:
    source, target = images
    mirror = open_mirror(source, target)
    rng = random.Random(4)
    mirror.begin(map_fd, print)
    seen = MirrorMap(map_fd)
    seen.limit = 20 << 20

    def write() -> None:
        at = rng.randrange(SIZE // 512) * 512
        size = min(rng.choice((512, 4096, 3 * BLOCK)), SIZE - at)
        what = rng.randrange(10)
        if what == 0:
            mirror.discard(at, size)
        elif what == 1:
            mirror.write_zeroes(at, size, True)
        else:
            mirror.pwritev([memoryview(rng.randbytes(size))], at, False)

    phases = set()
    deadline = time.monotonic() + 60
    while Phase.SYNCED not in phases:
        assert time.monotonic() < deadline
        write()
        phases.add(seen.phase)
        time.sleep(0.0005)
        if len(phases) > 1:
            seen.limit = 0
    for _ in range(50):  # and from then on both get everything
        write()
    mirror.flush()
    mirror.let_go()
    assert seen.left() == 0
    assert source.read_bytes() == target.read_bytes()


def test_a_successor_goes_on_where_the_dead_one_was(images: tuple[Path, Path], map_fd: int) -> None:
    """What was being copied is copied again, what was copied is not."""
    source, target = images
    seen = MirrorMap(map_fd, SIZE)
    content = source.read_bytes()
    target.write_bytes(content[: 20 * BLOCK] + b"\xff" * (SIZE - 20 * BLOCK))
    for block in range(20):
        seen[block] = Block.EQUAL
    seen[20] = Block.COPIED_NOW
    mirror = open_mirror(source, target)
    mirror.begin(map_fd, print)
    until(lambda: seen.phase == Phase.SYNCED)
    mirror.close()
    assert target.read_bytes() == content
    assert seen.copied == SIZE - 20 * BLOCK


def test_a_target_that_fails_ends_the_mirror_and_no_request(images: tuple[Path, Path], map_fd: int) -> None:
    source, target = images
    mirror = open_mirror(source, target)

    def refuse(*_: object) -> None:
        raise BackendError("no space left", errno=28)

    mirror.target.pwritev = refuse  # type: ignore[method-assign, assignment]
    mirror.begin(map_fd, lambda text: None)
    seen = MirrorMap(map_fd)
    until(lambda: seen.phase == Phase.FAILED)
    assert seen.error == "the target failed: no space left"
    mirror.pwritev([memoryview(b"x" * 512)], 0, True)
    mirror.flush()
    mirror.close()
    assert source.read_bytes()[:512] == b"x" * 512


def test_a_target_that_is_too_small_is_refused(images: tuple[Path, Path]) -> None:
    source, target = images
    os.truncate(target, BLOCK)
    with pytest.raises(ConfigError, match="does not fit"):
        open_mirror(source, target)
    open_mirror(target, source).close()  # nothing stayed locked


def test_a_map_of_another_disk_is_refused(map_fd: int) -> None:
    MirrorMap(map_fd, SIZE).close()
    with pytest.raises(ProtocolError):
        MirrorMap(map_fd, 2 * SIZE)


def test_without_a_map_it_is_the_source(images: tuple[Path, Path]) -> None:
    source, target = images
    mirror = open_mirror(source, target)
    mirror.pwritev([memoryview(b"y" * 512)], 512, False)
    mirror.close()
    assert source.read_bytes()[512:1024] == b"y" * 512
    assert target.read_bytes() == b"\xff" * SIZE


def test_what_a_uri_stores_in() -> None:
    text = absolute(str(Uri("mirror", {"to": "qcow2:/b"}, "delay:ms=1:/a")), str)
    assert storage(text) == {"/a", "/b"}
    assert storage("snapshot:overlay=/o:/a") == {"/a", "/o"}
    assert storage("snapshot:overlay=/o:/a", overlays=False) == {"/a"}
