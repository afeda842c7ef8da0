"""`mirror:to=TARGET:URI`: a disk that is being copied to another while the guest uses it. `bulkhead mirror` puts it in.

A thread copies block after block; what the guest writes meanwhile is marked and copied again. When little is left,
writes of the guest go to both, so that what is left only shrinks: then both are equal, and stay so until the keeper
swaps the target in (or the mirror is cancelled: the source is whole at every moment). Reads are the source's.

Promises: a write is answered when the source has it, and in the second phase the target too; a flush stores both then.
A target that fails ends the mirror, never a request. What is left to copy is known to the next process of this device
(`devproc.blk.mirror_map`). A request of the guest waits for one block's copying at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from devproc.blk.backend import BlockBackend, let_go, open_backend
from devproc.blk.buffers import length
from devproc.blk.filters import OneAtATime
from devproc.blk.mirror_map import BLOCK, Block, MirrorMap, Phase
from devproc.properties import Property
from proto.errors import BackendError, ConfigError

__all__ = ["Copying", "Mirror"]

FEW = 64  # blocks left when writes begin to go to both
PASSES = 3  # and after so many passes over the disk, however many are left
LEFT_AT_CLOSE = 64  # blocks that `close` still copies
_ZERO = bytes(BLOCK)


class Copying:
    """Two disks, of which the guest sees the first, and the second becomes equal."""

    def __init__(self, source: BlockBackend, target: BlockBackend) -> None:
        self.size, self.read_only, self.block_size = source.size, source.read_only, source.block_size
        self.identity, self.stamp = source.identity, source.stamp
        self.descriptor: int | None = None
        self.workers = source.workers
        plain = source.descriptor is not None or source.workers > 1
        self.source: BlockBackend = source if plain else OneAtATime(source)
        self.target = target
        self._map: MirrorMap | None = None
        self._lock = threading.RLock()  # whoever changes the phase, a block's state, or the target
        self._work = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._log: Callable[[str], None] = lambda text: None

    def begin(self, fd: int, log: Callable[[str], None]) -> None:
        """Copy, or go on copying: the map is behind `fd`. Without this it is the source alone."""
        map = MirrorMap(fd, self.size)
        map.recover()
        self._map, self._log = map, log
        if map.phase != Phase.FAILED:
            self._thread = threading.Thread(target=self._copy, name="mirror", daemon=True)
            self._thread.start()

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        self.source.preadv(buffers, offset)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        self._change(
            offset,
            length(buffers),
            lambda: self.source.pwritev(buffers, offset, durable),
            lambda: self.target.pwritev(buffers, offset, durable),
        )

    def flush(self) -> None:
        self.source.flush()
        with self._lock:
            if self._both():
                self._on_target(self.target.flush)

    def discard(self, offset: int, length: int) -> None:
        """What is discarded may read as anything: so it is read, and copied."""
        self._change(offset, length, lambda: self.source.discard(offset, length), None)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self._change(
            offset,
            length,
            lambda: self.source.write_zeroes(offset, length, unmap),
            lambda: self.target.write_zeroes(offset, length, unmap),
        )

    def close(self) -> None:
        """Stop copying."""
        self._stop()
        self.source.close()
        self.target.close()

    def let_go(self) -> None:
        """The successor goes on with one of the two."""
        self._stop()
        let_go(self.source)
        let_go(self.target)

    def _stop(self) -> None:
        """A few blocks that are left after a late discard are copied now."""
        self._stopping = True
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        if self._map is not None:
            if self._both() and self._map.left() <= LEFT_AT_CLOSE:
                while (block := self._map.next(0)) >= 0 and self._both():
                    self._copy_one(block)
            self._map.close()
            self._map = None

    def _both(self) -> bool:
        return self._map is not None and self._map.phase in (Phase.BOTH, Phase.SYNCED)

    def _change(self, offset: int, size: int, here: Callable[[], None], there: Callable[[], None] | None) -> None:
        """Change the source, and the target if it follows. In the first phase the block is marked after the source has
        changed: a copy that read it before is then known to be old. A failed write may have changed some of it."""
        if self._map is None or self._map.phase == Phase.FAILED:
            here()
            return
        with self._lock:
            if self._both():
                try:
                    here()
                except BaseException:
                    self._mark(offset, size)
                    raise
                if there is None or not self._on_target(there):
                    self._mark(offset, size)
                return
        try:
            here()
        finally:
            with self._lock:
                self._mark(offset, size)

    def _mark(self, offset: int, size: int) -> None:
        if self._map is None:
            return
        self._map.mark(offset, size)
        if self._map.phase == Phase.SYNCED:
            self._map.phase = Phase.BOTH
        self._work.set()

    # -- copying ---------------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        """The thread: until told to stop, or the target fails."""
        map = self._map
        assert map is not None
        due, after, passes = time.monotonic(), 0, 0
        while not self._stopping and map.phase != Phase.FAILED:
            block = map.next(after)
            if block < 0:
                passes, after = passes + (after > 0), 0
                if map.next(0) < 0:
                    self._nothing_left(map)
                elif map.phase == Phase.COPYING and (map.left() <= FEW or passes >= PASSES):
                    with self._lock:
                        map.phase = Phase.BOTH
                continue
            after = block + 1
            if self._skip(map, block):
                continue
            self._copy_one(block)
            due = self._brake(map, due)

    def _needless(self, offset: int, size: int) -> bool:
        """Is a range the same in both without being copied? Asked under the lock."""
        return False

    def _skip(self, map: MirrorMap, block: int) -> bool:
        offset = block * BLOCK
        with self._lock:
            if self._needless(offset, min(BLOCK, self.size - offset)):
                map[block] = Block.EQUAL
                return True
        return False

    def _nothing_left(self, map: MirrorMap) -> None:
        """Everything was copied: from now on writes go to both; equal are they when nothing came in between."""
        if map.phase == Phase.COPYING:
            with self._lock:
                map.phase = Phase.BOTH
            return
        self._work.clear()
        if map.phase == Phase.BOTH and self._on_target(self.target.flush):
            with self._lock:
                if map.next(0) < 0:
                    map.phase = Phase.SYNCED
        if map.next(0) < 0:
            self._work.wait()

    def _copy_one(self, block: int) -> None:
        """One block. In the first phase the guest may write it meanwhile; then it is marked again, and stays so."""
        map = self._map
        assert map is not None
        if self._both():
            with self._lock:
                self._transfer(map, block)
        else:
            self._transfer(map, block)

    def _transfer(self, map: MirrorMap, block: int) -> None:
        offset = block * BLOCK
        data = memoryview(bytearray(min(BLOCK, self.size - offset)))
        with self._lock:
            map[block] = Block.COPIED_NOW
        try:
            self.source.preadv([data], offset)
        except (OSError, BackendError) as error:
            self._give_up(f"the disk cannot be read at {offset}: {error}")
            return
        if data == _ZERO[: len(data)]:
            copied = self._on_target(lambda: self.target.write_zeroes(offset, len(data), True))
        else:
            copied = self._on_target(lambda: self.target.pwritev([data], offset, False))
        with self._lock:
            if copied and map[block] == Block.COPIED_NOW:
                map[block] = Block.EQUAL
            map.copied += len(data)

    def _on_target(self, action: Callable[[], None]) -> bool:
        """False: the target has failed, and with it the mirror."""
        try:
            with self._lock:
                action()
        except (OSError, BackendError) as error:
            self._give_up(f"the target failed: {error}")
            return False
        return True

    def _give_up(self, why: str) -> None:
        assert self._map is not None
        with self._lock:
            if self._map.phase != Phase.FAILED:
                self._map.error = why
                self._map.phase = Phase.FAILED
        self._log(f"mirror: {why}")

    def _brake(self, map: MirrorMap, due: float) -> float:
        """Keep to the limit; a pause is not made up for. Returns when the next block is due."""
        limit, now = map.limit, time.monotonic()
        due = max(due, now - 0.1) + (BLOCK / limit if limit else 0.0)
        while limit and due > time.monotonic() and not self._stopping:
            time.sleep(min(0.05, max(0.0, due - time.monotonic())))
        return due if limit else now


class Mirror(Copying):
    """A disk and its copy."""

    to = Property(str, help="the URI of the disk that shall become equal")

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Mirror:
        """The mirror of the URI `target`. Raises ConfigError."""
        source = open_backend(target, read_only=read_only)
        try:
            other = open_backend(values["to"])
            try:
                if other.size < source.size:
                    raise ConfigError(
                        f"{values['to']} has {other.size} bytes, the disk {source.size}: it does not fit",
                        hint=f"Make it larger: bulkhead disk resize {values['to']} {source.size}",
                    )
                if other.read_only:
                    raise ConfigError(f"{values['to']} cannot be written")
            except BaseException:
                other.close()
                raise
        except BaseException:
            source.close()
            raise
        return cls(source, other)
