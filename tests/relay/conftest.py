"""What relay tests share: a front end round a relay, and a device behind it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from far import Far

from devproc.kept import KEPT_SIZE
from launcher.replay.frontend import FrontEnd

for folder in ("devproc", "net", "console"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
from ring_disk import Disk  # noqa: E402


@pytest.fixture
def kept() -> Iterator[int]:
    """What the keeper holds for a relay."""
    fd = os.memfd_create("relay")
    os.truncate(fd, KEPT_SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Callable[..., Far]]:
    """Starts devices to stand behind a relay."""
    made: list[Far] = []

    def begin(device: str, *words: Any, **options: Any) -> Far:
        made.append(Far(tmp_path, device, *words, **options))
        made[-1].start()
        return made[-1]

    yield begin
    for one in made:
        one.close()


@pytest.fixture
def relay(kept: int) -> Iterator[Callable[..., FrontEnd]]:
    """Starts relays."""
    made: list[FrontEnd] = []

    def begin(endpoint: str, lent: dict[str, int] | None = None) -> FrontEnd:
        made.append(FrontEnd("relay", {"endpoint": endpoint}, lent={"relay": kept, **(lent or {})}))
        made[-1].start(stands_for="blk")
        return made[-1]

    yield begin
    for front in made:
        front.close()


@pytest.fixture
def disk(far: Callable[..., Far], relay: Callable[..., FrontEnd], tmp_path: Path) -> Callable[..., tuple[Disk, Far]]:
    """A disk of some content behind a relay."""

    def begin(content: bytes = bytes(1 << 20), options: str = "", **more: Any) -> tuple[Disk, Far]:
        image = tmp_path / "disk.img"
        image.write_bytes(content)
        behind = far("blk", f"{options}file:{image}", **more)
        front = relay(behind.endpoint)
        front.negotiate()
        layout = front.add_queue(0, 256)
        front.driver_ok()
        return Disk(front, layout), behind

    return begin
