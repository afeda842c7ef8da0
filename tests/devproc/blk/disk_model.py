"""A disk as a bytearray, and random requests that a backend and the model must answer alike."""

from __future__ import annotations

import itertools
import random

from devproc.blk.backend import BlockBackend, open_backend

SECTOR = 512


def read(disk: BlockBackend, offset: int, size: int, pieces: int = 1) -> bytes:
    """Read through the backend, into so many buffers."""
    data = bytearray(b"\xa5" * size)
    disk.preadv(cut_up(memoryview(data), pieces), offset)
    return bytes(data)


def write(disk: BlockBackend, offset: int, data: bytes, pieces: int = 1, durable: bool = False) -> None:
    """Write through the backend, from so many buffers."""
    disk.pwritev(cut_up(memoryview(data), pieces), offset, durable)


def cut_up(view: memoryview, pieces: int) -> list[memoryview]:
    """The same bytes as several buffers."""
    bounds = [len(view) * number // pieces for number in range(pieces + 1)]
    return [view[low:high] for low, high in itertools.pairwise(bounds) if high > low]


class Model:
    """What the disk's content must be."""

    def __init__(self, content: bytes) -> None:
        self.data = bytearray(content)

    def step(self, disk: BlockBackend, rng: random.Random, longest: int = 1 << 18) -> None:
        """One random request; checks what is read."""
        sectors = len(self.data) // SECTOR
        first = rng.randrange(sectors)
        size = min(rng.choice([1, 1, 8, 8, rng.randrange(1, longest // SECTOR)]), sectors - first) * SECTOR
        offset = first * SECTOR
        kind = rng.choice(["read", "read", "write", "write", "write", "zero", "discard", "flush"])
        if kind == "read":
            assert read(disk, offset, size, rng.choice([1, 3])) == self.data[offset : offset + size], (offset, size)
        elif kind == "write":
            data = rng.choice([rng.randbytes(size), bytes(size)])
            write(disk, offset, data, rng.choice([1, 2]), rng.random() < 0.1)
            self.data[offset : offset + size] = data
        elif kind == "zero":
            disk.write_zeroes(offset, size, rng.random() < 0.5)
            self.data[offset : offset + size] = bytes(size)
        elif kind == "discard":
            disk.discard(offset, size)
            self.take_over(disk, offset, size)
        else:
            disk.flush()

    def take_over(self, disk: BlockBackend, offset: int, size: int) -> None:
        """After a discard each sector is what it was, or anything; here nothing but zeroes is given."""
        now = read(disk, offset, size)
        for at in range(0, size, SECTOR):
            sector = now[at : at + SECTOR]
            assert sector in (self.data[offset + at : offset + at + SECTOR], bytes(SECTOR))
        self.data[offset : offset + size] = now

    def check(self, disk: BlockBackend) -> None:
        """Everything is as it must be."""
        assert disk.size == len(self.data)
        for at in range(0, disk.size, 1 << 20):
            assert read(disk, at, min(1 << 20, disk.size - at)) == self.data[at : at + (1 << 20)], f"from {at}"


def random_requests(uri: str, content: bytes, seed: int, count: int, reopen: bool = False) -> Model:
    """So many requests to what `uri` names; closed and opened again half-way if asked to."""
    rng, model = random.Random(seed), Model(content)
    disk = open_backend(uri)
    try:
        for number in range(count):
            if reopen and number == count // 2:
                disk.flush()
                disk.close()
                disk = open_backend(uri)
            model.step(disk, rng)
        model.check(disk)
        disk.flush()
    finally:
        disk.close()
    return model
