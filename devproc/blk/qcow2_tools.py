"""What one does with a qcow2 image besides using it: make, check and repair, resize, describe."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devproc.blk.qcow2 import Qcow2
from devproc.blk.qcow2_format import (
    COMPRESSED,
    COPIED,
    EXTENSION_BACKING_FORMAT,
    EXTENSION_BITMAPS,
    L1_MAX,
    OFFSET,
    ZERO,
    Header,
    compressed_range,
)
from proto.errors import ConfigError

__all__ = ["Findings", "check", "create", "describe", "recount", "resize"]

Report = Callable[[int, int], None]
_SNAPSHOT = struct.Struct(">QIHHIIQII")


def create(
    path: str,
    size: int,
    *,
    cluster: int = 65536,
    version: int = 3,
    backing: str = "",
    backing_format: str = "",
    refcount_bits: int = 16,
) -> None:
    """A new, empty image. Raises ConfigError; the file must not exist."""
    if cluster & (cluster - 1) or not 512 <= cluster <= 1 << 21:
        raise ConfigError(f"clusters of {cluster} bytes: a power of two from 512 to 2M is expected")
    if version not in (2, 3) or (version == 2 and refcount_bits != 16) or refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
        raise ConfigError(f"qcow2 version {version} with reference counts of {refcount_bits} bits does not exist")
    header = Header(version=version, cluster_bits=cluster.bit_length() - 1, size=size)
    header.refcount_order = refcount_bits.bit_length() - 1
    header.backing, header.backing_format = backing, backing_format
    if backing_format:
        header.extensions.append((EXTENSION_BACKING_FORMAT, backing_format.encode()))
    header.l1_size = max(1, header.l1_needed)
    if header.l1_size * 8 > L1_MAX:
        raise ConfigError(f"a disk of {size} bytes needs larger clusters than {cluster}")
    Path(path).write_bytes(b"") if not Path(path).exists() else _refuse(path)
    with open(path, "r+b") as file:
        for offset, data in _first_clusters(header):
            file.seek(offset)
            file.write(data)
        file.truncate(-(-file.seek(0, 2) // cluster) * cluster)


def _refuse(path: str) -> None:
    raise ConfigError(f"{path} exists already", hint="Remove it first, or choose another name.")


def _first_clusters(header: Header) -> Iterator[tuple[int, bytes]]:
    """Header, refcount table, refcount blocks and L1 table of an empty image, as (offset, bytes)."""
    cluster = header.cluster
    l1 = -(-header.l1_size * 8 // cluster)
    blocks = table = 1
    while True:
        total = 1 + table + blocks + l1
        need_blocks = -(-total // header.block_entries)
        need_table = -(-need_blocks * 8 // cluster)
        if (need_blocks, need_table) == (blocks, table):
            break
        blocks, table = max(blocks, need_blocks), max(table, need_table)
    header.refcount_offset, header.refcount_clusters = cluster, table
    header.l1_offset = (1 + table + blocks) * cluster
    words = header.pack()
    if len(words) > cluster:
        raise ConfigError(f"the name of the backing file does not fit a cluster of {cluster} bytes")
    yield header.l1_offset, bytes(l1 * cluster)
    first = 1 + table
    yield cluster, struct.pack(f">{blocks}Q", *((first + number) * cluster for number in range(blocks)))
    yield first * cluster, _counts(header, total, blocks)
    yield 0, words


def _counts(header: Header, ones: int, blocks: int) -> bytes:
    """Refcount blocks in which the first `ones` clusters have a count of one."""
    bits = 1 << header.refcount_order
    if bits >= 8:
        data = (1).to_bytes(bits // 8, "big") * ones
    else:
        value = sum(1 << index * bits for index in range(ones))
        data = value.to_bytes(-(-ones * bits // 8), "little")
    return data.ljust(blocks * header.cluster, b"\0")


# -- checking ----------------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What a check found. Leaks cost space; errors may cost data."""

    leaks: list[int] = field(default_factory=list)  # clusters counted more often than used
    errors: list[str] = field(default_factory=list)
    allocated: int = 0  # clusters of the disk that are in this image
    compressed: int = 0
    repaired: int = 0


def check(image: Qcow2, report: Report, *, repair: bool = False) -> Findings:
    """Count every reference, and compare with the counts. `repair` takes leaked clusters back; errors are not touched.
    Raises ConfigError for an image it cannot judge."""
    found, uses = Findings(), Counter[int]()
    header, refcounts = image.header, image.refcounts
    if refcounts is None:
        from devproc.blk.qcow2_refcounts import Refcounts

        refcounts = Refcounts(image.store, header, set())
    if any(kind == EXTENSION_BITMAPS for kind, _ in header.extensions):
        raise ConfigError(
            "the image has persistent bitmaps, which this check does not know", hint="qemu-img check does."
        )
    _count_all(image, uses, found, refcounts, report)
    _compare(uses, refcounts, header.block_entries, found)
    if repair and not found.errors:
        for index in found.leaks:
            refcounts.set(index, uses[index])
        image.store.sync()
        found.repaired = len(found.leaks)
    return found


class _Recounted:
    """What `check` asks of counts, answered by what was counted."""

    def __init__(self, uses: Counter[int], blocks: list[tuple[int, int]]) -> None:
        self._uses, self._blocks = uses, blocks

    def get(self, cluster: int) -> int:
        return self._uses.get(cluster, 0)

    def blocks(self) -> list[tuple[int, int]]:
        return self._blocks


def recount(image: Qcow2) -> int:
    """Write every count anew from what is in use: for an image marked dirty, whose counts a crash left behind
    (lazy_refcounts). Returns how many were wrong. Raises ConfigError, the image as it was, when more than its counts is
    damaged."""
    refcounts = image.refcounts
    assert refcounts is not None
    uses, checked, found = Counter[int](), Counter[int](), Findings()
    _count_all(image, uses, Findings(), refcounts, _silent)
    _count_all(image, checked, found, _Recounted(uses, refcounts.blocks()), _silent)
    entries = image.header.block_entries
    held = {number for number, _ in refcounts.blocks()}
    found.errors += [f"cluster {index} has no refcount block" for index in uses if index // entries not in held]
    if found.errors:
        raise ConfigError(
            f"{image.identity} is marked dirty, and more than its counts is wrong: {found.errors[0]}",
            hint="qemu-img check -r all may repair it; keep a copy.",
        )
    wrong = [
        index
        for number, _ in refcounts.blocks()
        for index in range(number * entries, (number + 1) * entries)
        if refcounts.get(index) != uses.get(index, 0)
    ]
    for index in wrong:
        refcounts.set(index, uses.get(index, 0))
    image.store.sync()
    return len(wrong)


def _silent(done: int, total: int) -> None:
    """Nobody watches."""


def _count_all(image: Qcow2, uses: Counter[int], found: Findings, refcounts: Any, report: Report) -> None:
    """Every reference there is, to anything."""
    header = image.header
    uses[0] += 1
    _use(uses, header.refcount_offset, header.refcount_clusters * header.cluster, header.cluster)
    for _, offset in refcounts.blocks():
        _use(uses, offset, header.cluster, header.cluster)
    _count_l1(image, header.l1_offset, header.l1_size, uses, found, refcounts, report, active=True)
    for l1_offset, l1_size in _snapshots(image, uses) if header.snapshots > 0 else ():
        _count_l1(image, l1_offset, l1_size, uses, found, refcounts, report, active=False)


def _compare(uses: Counter[int], refcounts: Any, entries: int, found: Findings) -> None:
    """Every count there is, also of clusters behind the file's end, and every use that nothing counts."""
    counted = 0
    for number, _ in refcounts.blocks():
        for index in range(number * entries, (number + 1) * entries):
            count, used = refcounts.get(index), uses.get(index, 0)
            counted += used > 0
            if count > used:
                found.leaks.append(index)
            elif count < used:
                found.errors.append(f"cluster {index} is used {used} times and counted {count} times")
    if counted < len(uses):
        found.errors.append(f"{len(uses) - counted} clusters are used and have no refcount block")


def _use(uses: Counter[int], offset: int, size: int, cluster: int) -> None:
    for index in range(offset // cluster, (offset + max(size, 1) - 1) // cluster + 1):
        uses[index] += 1


def _count_l1(
    image: Qcow2,
    offset: int,
    size: int,
    uses: Counter[int],
    found: Findings,
    refcounts: Any,
    report: Report,
    active: bool,
) -> None:
    cluster, end = image.header.cluster, image.store.size()
    _use(uses, offset, size * 8, cluster)
    entries = struct.unpack(f">{size}Q", image.store.read(offset, size * 8))
    for number, entry in enumerate(entries):
        report(number, size)
        at = entry & OFFSET
        if not at:
            continue
        if at % cluster or at >= end:
            found.errors.append(f"L1 entry {number} points to {at:#x}")
            continue
        _use(uses, at, cluster, cluster)
        if active:
            _check_copied(found, refcounts, at // cluster, entry, f"L1 entry {number}")
        table = struct.unpack(f">{cluster // 8}Q", image.store.read(at, cluster))
        for slot, inner in enumerate(table):
            if inner:
                _count_l2(image, number * len(table) + slot, inner, uses, found, refcounts, active, end)


def _count_l2(
    image: Qcow2, index: int, entry: int, uses: Counter[int], found: Findings, refcounts: Any, active: bool, end: int
) -> None:
    header = image.header
    if entry & COMPRESSED:
        offset, size = compressed_range(header, entry)
        if offset >= end:
            found.errors.append(f"cluster {index} of the disk is compressed at {offset:#x}, behind the end")
            return
        _use(uses, offset, size, header.cluster)
        found.allocated += active
        found.compressed += active
        return
    at = entry & OFFSET
    found.allocated += active and not (entry & ZERO and header.version == 3) and bool(at)
    if not at:
        return
    if at % header.cluster or at >= end + header.cluster:
        found.errors.append(f"cluster {index} of the disk is at {at:#x}")
        return
    _use(uses, at, header.cluster, header.cluster)
    if active:
        _check_copied(found, refcounts, at // header.cluster, entry, f"cluster {index} of the disk")


def _check_copied(found: Findings, refcounts: Any, cluster: int, entry: int, what: str) -> None:
    count = refcounts.get(cluster)
    if bool(entry & COPIED) != (count == 1):
        found.errors.append(f"{what}: COPIED is {int(bool(entry & COPIED))}, its count {count}")


def _snapshots(image: Qcow2, uses: Counter[int]) -> list[tuple[int, int]]:
    """(offset, entries) of the snapshots' L1 tables; their table itself is used too."""
    at, found = image.header.snapshots_offset, []
    for _ in range(image.header.snapshots):
        offset, size, id_size, name_size, *_, extra = _SNAPSHOT.unpack(image.store.read(at, _SNAPSHOT.size))
        if size * 8 > L1_MAX or offset % image.header.cluster:
            raise ConfigError(f"the image is damaged: a snapshot with {size} L1 entries at {offset:#x}")
        found.append((offset, size))
        at += -(-(_SNAPSHOT.size + extra + id_size + name_size) // 8) * 8
    _use(uses, image.header.snapshots_offset, at - image.header.snapshots_offset, image.header.cluster)
    return found


# -- resizing and describing -------------------------------------------------------------------------------------------


def resize(image: Qcow2, size: int) -> None:
    """Make the disk larger. Raises ConfigError for what cannot be."""
    header, refcounts, cluster = image.header, image.refcounts, image.header.cluster
    if size < header.size:
        raise ConfigError("a qcow2 image cannot be made smaller here", hint="Convert it to a new one.")
    if header.snapshots:
        raise ConfigError("the image has internal snapshots; it keeps its size", hint="qemu-img can resize it.")
    assert refcounts is not None
    old = header.l1_offset, header.l1_size
    header.size = size
    if header.l1_needed * 8 > L1_MAX:
        raise ConfigError(f"a disk of {size} bytes needs larger clusters than {cluster}")
    if header.l1_needed > header.l1_size:
        needed = -(-header.l1_needed * 8 // cluster)
        clusters = _contiguous(image, needed)
        table = image.store.read(old[0], old[1] * 8).ljust(needed * cluster, b"\0")
        image.store.write(clusters[0] * cluster, table)
        image.store.sync()
        image.store.write(36, struct.pack(">IQ", header.l1_needed, clusters[0] * cluster))
        image.store.sync()
        for index in range(-(-old[1] * 8 // cluster)):
            refcounts.release(old[0] // cluster + index)
    image.store.write(24, struct.pack(">Q", size))
    image.flush()


def _contiguous(image: Qcow2, count: int) -> list[int]:
    """So many clusters side by side."""
    refcounts = image.refcounts
    assert refcounts is not None
    run: list[int] = []
    spare: list[int] = []
    while len(run) < count:
        cluster = refcounts.take(1)[0]
        if run and cluster != run[-1] + 1:
            spare, run = spare + run, []
        run.append(cluster)
    refcounts.give_back(spare)
    return run


def describe(image: Qcow2) -> dict[str, Any]:
    """What `bulkhead disk info` shows of the format."""
    header = image.header
    return {
        "format": "qcow2",
        "version": header.version,
        "cluster": header.cluster,
        "refcount_bits": 1 << header.refcount_order,
        "compression": "zstd" if header.zstd else "zlib",
        "backing": header.backing or None,
        "backing_format": header.backing_format or None,
        "snapshots": header.snapshots,
        "marked_corrupt": bool(header.incompatible & 2),
        "marked_dirty": bool(header.incompatible & 1),
    }
