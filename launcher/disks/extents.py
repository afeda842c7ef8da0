"""Which parts of a disk certainly read as zeroes, without reading them: holes of files, of qcow2 images, of overlays.

What is behind a filter or a server is taken for data: those want to be asked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from devproc.blk.backend import BlockBackend
from devproc.blk.file import FileBackend
from devproc.blk.qcow2 import Qcow2
from devproc.blk.snapshot import Snapshot

__all__ = ["data_ranges"]

Range = tuple[int, int]  # offset, size
STEP = 1 << 30  # of an image's tables that are walked at once


def data_ranges(disk: BlockBackend, offset: int, size: int) -> Iterator[Range]:
    """The parts of a range that may hold something, in order; all between them reads as zeroes."""
    if isinstance(disk, FileBackend) and disk.descriptor is not None:
        yield from _of_file(disk.descriptor, offset, size)
    elif isinstance(disk, Qcow2):
        for at in range(offset, offset + size, STEP):
            yield from _of_qcow2(disk, at, min(STEP, offset + size - at))
    elif isinstance(disk, Snapshot):
        for written, at, length in disk.runs(offset, size):
            yield from [(at, length)] if written else data_ranges(disk.below, at, length)
    elif size:
        yield offset, size


def _of_file(fd: int, offset: int, size: int) -> Iterator[Range]:
    end = offset + size
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            yield offset, end - offset  # a block device, or a file system that does not know
            return
        stop = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        if start < stop:
            yield start, stop - start
        offset = max(stop, start)


def _of_qcow2(disk: Qcow2, offset: int, size: int) -> Iterator[Range]:
    for piece in disk.pieces(offset, size):
        if piece.kind == "below" and disk.below is not None:
            there = max(0, min(disk.below.size - piece.start, piece.size))
            yield from data_ranges(disk.below, piece.start, there)
        elif piece.kind != "zero":
            yield piece.start, piece.size
