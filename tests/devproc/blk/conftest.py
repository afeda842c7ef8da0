"""What several tests of backends use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from devproc.blk.backend import BlockBackend, open_backend


@pytest.fixture
def opened() -> Iterator[Callable[[str], BlockBackend]]:
    """Opens a disk by its URI, and closes it after the test."""
    disks: list[BlockBackend] = []

    def begin(uri: str) -> BlockBackend:
        disks.append(open_backend(uri))
        return disks[-1]

    yield begin
    for disk in disks:
        disk.close()
