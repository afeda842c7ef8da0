"""`http:[cache=64M:][chunk=128k:][ahead=4:][timeout=10:][retries=4:][overlay=FILE:]//HOST[:PORT]/PATH`, and https.

A plain file is read by range requests. A URL that ends in `blk.txt` is TinyEMU's split layout: numbered chunks beside
it, and groups of them that a boot needs, which are fetched first. What was fetched is kept in a bounded cache in
memory; reading on in order fetches ahead. The server is never written to: a disk that is not read-only is a
`snapshot:` over it, with its `overlay`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from devproc.blk.backend import BlockBackend
from devproc.blk.buffers import cut, length, scatter
from devproc.blk.chunks import ChunkCache
from devproc.blk.snapshot import Snapshot
from devproc.blk.web import Web
from devproc.properties import FilePath, Property, Size
from proto.errors import BackendError, ConfigError
from proto.virtio import BLK_SECTOR_SIZE

__all__ = ["Http", "Https", "Split", "parse_split"]

WORKERS = 8
HELPERS = 4
DESCRIPTION = "blk.txt"
BLOCK_MAX = 1 << 26  # bytes of a chunk
SIZE_MAX = 1 << 50


@dataclass(frozen=True)
class Split:
    """What blk.txt says."""

    block_size: int  # bytes
    blocks: int
    groups: tuple[tuple[int, ...], ...] = ()  # in the order in which a boot needs them


class Http:
    """A disk on a web server."""

    scheme: ClassVar[str] = "http"
    certificates: Any = ""  # the host's, where it is redirected to https
    cache = Property(Size, 64 << 20, "bytes that are kept in memory", minimum=0)
    chunk = Property(Size, 128 << 10, "bytes that are fetched at once, of a plain file", minimum=512, maximum=BLOCK_MAX)
    ahead = Property(int, 4, "chunks that are fetched ahead of somebody who reads in order", minimum=0, maximum=64)
    timeout = Property(int, 10, "seconds without an answer after which a request is given up", minimum=1, maximum=600)
    retries = Property(int, 4, "how often it is then tried again", minimum=0, maximum=100)
    overlay = Property(FilePath, "", "the file that keeps what is written")

    def __init__(self, url: str, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self.read_only = True
        self.block_size = 4096
        self.descriptor: int | None = None
        self.workers = WORKERS
        self._web = Web(url, self.timeout, self.retries, self.certificates)
        self._last = -1  # the chunk read last
        self._split: Split | None = None
        if PurePosixPath(url.partition("?")[0]).name == DESCRIPTION:
            self._open_split(url)
        else:
            self._open_plain(url)
        self.size: int
        self.stamp: str
        self.identity: str

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> BlockBackend:
        """The disk at the URL; to be written, a snapshot over it. Raises ConfigError."""
        disk = cls(f"{cls.scheme}:{target}", values)
        if read_only:
            return disk
        return Snapshot.over(disk, {"overlay": values["overlay"], "cluster": 0}, False)

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        first, last = offset // self._chunk, (offset + length(buffers) - 1) // self._chunk
        if first <= self._last + 1 <= last + 1 or first == last == self._last:
            self._chunks.ahead(self._missing(range(last + 1, last + 1 + self.ahead)))
        self._last = last
        self._chunks.ahead(range(first + 1, last + 1))
        for number in range(first, last + 1):
            start = max(offset, number * self._chunk)
            end = min(offset + length(buffers), (number + 1) * self._chunk)
            data = memoryview(self._chunks.get(number))
            part = cut(buffers, start - offset, end - start)
            scatter(part, data[start - number * self._chunk : end - number * self._chunk])

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        raise BackendError(f"{self.identity} is on a web server and cannot be written", errno=30)

    def flush(self) -> None:
        """Nothing is written."""

    def discard(self, offset: int, length: int) -> None:
        """Nothing is written."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self.pwritev([], offset, False)

    def close(self) -> None:
        self._web.close()

    # -- a plain file ----------------------------------------------------------------------------------------------

    def _open_plain(self, url: str) -> None:
        self._file = self._web.probe()
        self.size = self._file.size
        if not self.size or self.size % BLK_SECTOR_SIZE:
            raise ConfigError(f"{url} is {self.size} bytes; a disk is a whole number of 512-byte sectors")
        self._begin(self.chunk, str(self._file), PurePosixPath(self._web.url.partition("?")[0]).name)
        self._chunks = ChunkCache(self._fetch_range, lambda number: [number], self._most(), HELPERS)

    def _fetch_range(self, number: int) -> dict[int, bytes]:
        start = number * self._chunk
        return {number: self._web.range(self._file, start, min(self._chunk, self.size - start))}

    # -- a split disk ----------------------------------------------------------------------------------------------

    def _open_split(self, url: str) -> None:
        try:
            text = self._web.file(url).decode("utf-8", "replace")
        except BackendError as error:
            raise ConfigError(f"cannot open {url}: {error.message}", hint=error.hint) from error
        self._split = split = parse_split(text, url)
        self._folder = url.partition("?")[0].removesuffix(DESCRIPTION)
        self.size = split.block_size * split.blocks
        self._group = {block: number for number, blocks in enumerate(split.groups) for block in blocks}
        self._begin(split.block_size, text, PurePosixPath(self._folder).name)
        self._chunks = ChunkCache(self._fetch_block, self._members, self._most(), HELPERS)
        fits = 0
        for blocks in split.groups:
            fits += len(blocks)
            if fits > self._most():
                break
            self._chunks.ahead(blocks[:1])

    def _members(self, number: int) -> list[int]:
        group = self._group.get(number)
        if group is None or self._split is None:
            return [number]
        return list(self._split.groups[group])

    def _fetch_block(self, number: int) -> dict[int, bytes]:
        """A block's own file, or its group's; a group that cannot be had is no reason not to try the block."""
        size, members = self._chunk, self._members(number)
        if len(members) > 1:
            try:
                data = self._web.file(f"{self._folder}grp{self._group[number]:09}.bin", size * len(members))
                return {block: data[at * size : (at + 1) * size] for at, block in enumerate(members)}
            except BackendError:
                pass
        return {number: self._web.file(f"{self._folder}blk{number:09}.bin", size)}

    # -- both ------------------------------------------------------------------------------------------------------

    def _begin(self, chunk: int, stamp: str, name: str) -> None:
        self._chunk = chunk
        self.stamp = stamp
        self.identity = (name or "http")[:20]

    def _most(self) -> int:
        return int(max(1 + self.ahead, self.cache // self._chunk))

    def _missing(self, numbers: range) -> list[int]:
        return [number for number in numbers if number * self._chunk < self.size]


class Https(Http):
    """A disk on a web server, read through an encrypted connection."""

    scheme: ClassVar[str] = "https"
    certificates = Property(FilePath, "", "a directory with ca-cert.pem, and client-cert.pem with client-key.pem")


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_FIELD = re.compile(r"\"?(\w+)\"?\s*:\s*(?:(\d+)|\[([\d\s,]*)\])")


def parse_split(text: str, url: str) -> Split:
    """blk.txt: a JSON-like object, in the wild with comments and without quotes. Raises ConfigError."""
    numbers: dict[str, int] = {}
    lists: dict[str, list[int]] = {}
    for name, number, items in _FIELD.findall(_COMMENT.sub(" ", text)):
        if number:
            numbers[name] = int(number[:20])
        else:
            lists[name] = [int(item[:20]) for item in items.replace(",", " ").split()]
    size, blocks = numbers.get("block_size", 0) << 10, numbers.get("n_block", 0)
    if not 1024 <= size <= BLOCK_MAX or size & (size - 1) or not 0 < size * blocks <= SIZE_MAX:
        raise ConfigError(f"{url}: {blocks} blocks of {size >> 10} KB are no split disk")
    prefetch, together = lists.get("prefetch", []), max(1, numbers.get("prefetch_group_len", 1))
    if any(block >= blocks for block in prefetch) or len(set(prefetch)) != len(prefetch):
        raise ConfigError(f"{url}: the list of blocks to prefetch names one twice, or one that does not exist")
    if together * size > 1 << 30:
        raise ConfigError(f"{url}: groups of {together} blocks are too large")
    groups = tuple(tuple(prefetch[at : at + together]) for at in range(0, len(prefetch), together))
    return Split(size, blocks, groups)
