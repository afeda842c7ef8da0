"""What device tests share: a front end round a real device process, and disks on it."""

from __future__ import annotations

import os

import pytest
from ring_disk import Disk

from launcher.replay.frontend import FrontEnd


@pytest.fixture
def start():
    """Starts devices, and ends them when the test does, checking that nothing is left behind."""
    fronts = []

    def begin(device: str, properties=None, **options) -> FrontEnd:
        front = FrontEnd(device, properties, **options)
        fronts.append(front)
        front.start()
        return front

    yield begin
    folders = [front.folder.name for front in fronts]
    for front in fronts:
        front.close()
    assert not any(os.path.exists(folder) for folder in folders)


@pytest.fixture
def attach(start):
    """Starts a disk on any backend and returns a `Disk`."""

    def begin(uri: str, properties=None) -> Disk:
        front = start("blk", properties, backend=uri)
        front.negotiate()
        layout = front.add_queue(0, 256)
        front.driver_ok()
        return Disk(front, layout)

    return begin


@pytest.fixture
def disk(start, tmp_path):
    """Starts a disk on an image of the given content and returns a `Disk`."""

    def begin(content: bytes = bytes(1 << 20), properties=None, options: str = "", features=None, **more) -> Disk:
        path = tmp_path / "disk.img"
        path.write_bytes(content)
        front = start("blk", properties, backend=f"file:{path}{options}", **more)
        front.negotiate(features)
        layout = front.add_queue(0, 256)
        front.driver_ok()
        return Disk(front, layout)

    return begin
