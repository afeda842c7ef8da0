"""The reference counts of a qcow2 image, and the finding of free clusters.

Order is what makes a crash harmless: a cluster's count is raised, and stored, before anything points to it (clusters
are taken in batches, so that one fdatasync serves many), and lowered only after what pointed to it is known to point
elsewhere on the disk. A process or a host that stops in between leaves clusters that are counted and not used: leaked,
never used twice.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from devproc.blk.qcow2_format import OFFSET, REFCOUNT_TABLE_MAX, Header
from devproc.blk.store import Store
from proto.errors import BackendError

__all__ = ["Refcounts"]

CACHE = 4 << 20  # bytes of refcount blocks in memory
BATCH = 32  # clusters taken at once


class Refcounts:
    """Counts of an image that is written."""

    def __init__(self, store: Store, header: Header, metadata: set[int]) -> None:
        """`metadata`: clusters that hold tables; they are never given out, whatever their count says. Kept current."""
        self._store = store
        self._header = header
        self._metadata = metadata
        self._cluster = header.cluster
        self._bits = 1 << header.refcount_order
        size = header.refcount_clusters * header.cluster
        self._table = list(struct.unpack(f">{size // 8}Q", store.read(header.refcount_offset, size)))
        self._blocks: OrderedDict[int, bytearray] = OrderedDict()
        self._cursor = 0  # no cluster below is free
        self._reserve: list[int] = []
        self._unneeded: list[int] = []  # to be lowered once what pointed to them is stored
        self._note_metadata()

    # -- taking and giving back ------------------------------------------------------------------------------------

    def take(self, count: int) -> list[int]:
        """So many clusters that are nobody's, lowest first. Their counts are one, and stored."""
        if len(self._reserve) < count:
            more = max(BATCH, count - len(self._reserve))
            fresh = self._find(more)
            self._store.sync()
            self._reserve += fresh
        taken, self._reserve = self._reserve[:count], self._reserve[count:]
        return taken

    def give_back(self, clusters: list[int]) -> None:
        """Taken, and not used after all."""
        self._reserve = sorted(self._reserve + clusters)

    def release(self, cluster: int) -> None:
        """One reference less, from the next `settle` on."""
        self._unneeded.append(cluster)

    def settle(self) -> None:
        """Everything written is stored: lower what is due."""
        while self._unneeded:
            cluster = self._unneeded.pop()
            count = self.get(cluster)
            if count == 0:
                continue  # the image was damaged before: it is not made worse
            self._set(cluster, count - 1)
            if count == 1:
                self._cursor = min(self._cursor, cluster)
                self._store.punch(cluster * self._cluster, self._cluster)

    def close(self) -> None:
        """Lower what was reserved and never used. The caller has stored everything and settled."""
        while self._reserve:
            self._set(self._reserve.pop(), 0)

    def get(self, cluster: int) -> int:
        """The count of a cluster."""
        block = self._block(cluster // self._header.block_entries)
        return 0 if block is None else self._entry(block, cluster % self._header.block_entries)

    def set(self, cluster: int, count: int) -> None:
        """Repair a count."""
        self._set(cluster, count)

    def clusters(self) -> int:
        """How many clusters the present table can count."""
        return len(self._table) * self._header.block_entries

    def blocks(self) -> list[tuple[int, int]]:
        """(number, offset) of every refcount block there is."""
        return [(number, entry & OFFSET) for number, entry in enumerate(self._table) if entry & OFFSET]

    # -- finding ---------------------------------------------------------------------------------------------------

    def _find(self, count: int) -> list[int]:
        found: list[int] = []
        cluster = self._cursor
        try:
            while len(found) < count:
                cluster = self._next_free(cluster)
                if cluster not in self._metadata:
                    self._set(cluster, 1)
                    found.append(cluster)
                cluster += 1
        except BaseException:
            self._reserve += found  # counted already: the next one gets them
            raise
        self._cursor = cluster
        return found

    def _next_free(self, cluster: int) -> int:
        entries = self._header.block_entries
        while True:
            number, at = divmod(cluster, entries)
            block = self._block(number)
            if block is None:
                self._make_block(number)
                block = self._block(number)
                assert block is not None
            while at < entries:
                if self._bits == 16:  # the usual case: let the interpreter search
                    at = _zero_word(block, at)
                if at < entries and self._entry(block, at) == 0:
                    return number * entries + at
                at += 1
            cluster = (number + 1) * entries

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _block(self, number: int) -> bytearray | None:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        offset = self._table[number] & OFFSET if number < len(self._table) else 0
        if not offset:
            return None
        if offset % self._cluster or offset >= self._store.size():
            raise BackendError(f"the image is damaged: refcount block {number} at {offset}", errno=5)
        block = bytearray(self._store.read(offset, self._cluster))
        self._remember(number, block)
        return block

    def _remember(self, number: int, block: bytearray) -> None:
        self._blocks[number] = block
        while len(self._blocks) > max(2, CACHE // self._cluster):
            self._blocks.popitem(last=False)

    def _make_block(self, number: int) -> None:
        """The first cluster that a new block counts is the block's own."""
        if number >= len(self._table):
            self._grow_table()
            if self._table[number]:
                return
        cluster = number * self._header.block_entries
        while cluster in self._metadata:
            cluster += 1
        block = bytearray(self._cluster)
        self._put(block, cluster % self._header.block_entries, 1)
        self._store.write(cluster * self._cluster, block)
        self._store.sync()
        entry = cluster * self._cluster
        self._store.write(self._header.refcount_offset + 8 * number, struct.pack(">Q", entry))
        self._table[number] = entry
        self._metadata.add(cluster)
        self._remember(number, block)

    def _grow_table(self) -> None:
        """A table twice as long behind everything that the old one could count, with the blocks that count it."""
        header, cluster = self._header, self._cluster
        old_offset, old_clusters, first = header.refcount_offset, header.refcount_clusters, self.clusters()
        clusters = old_clusters * 2
        if clusters * cluster > REFCOUNT_TABLE_MAX:
            raise BackendError("the image cannot grow any further", errno=28)
        blocks = 1
        while clusters + blocks > blocks * header.block_entries:
            blocks += 1
        content = [bytearray(cluster) for _ in range(blocks)]
        for at in range(clusters + blocks):
            self._put(content[at // header.block_entries], at % header.block_entries, 1)
        at = first + clusters
        table = self._table + [(at + number) * cluster for number in range(blocks)]
        table += [0] * (clusters * cluster // 8 - len(table))
        self._store.write(at * cluster, b"".join(content))
        self._store.write(first * cluster, struct.pack(f">{len(table)}Q", *table))
        self._store.sync()
        self._store.write(48, struct.pack(">QI", first * cluster, clusters))
        self._store.sync()
        header.refcount_offset, header.refcount_clusters = first * cluster, clusters
        self._table = table
        self._metadata.difference_update(range(old_offset // cluster, old_offset // cluster + old_clusters))
        self._note_metadata()
        for index in range(old_clusters):
            self._set(old_offset // cluster + index, 0)

    def _note_metadata(self) -> None:
        first = self._header.refcount_offset // self._cluster
        self._metadata.update(range(first, first + self._header.refcount_clusters))
        self._metadata.update((entry & OFFSET) // self._cluster for entry in self._table if entry & OFFSET)

    # -- entries ---------------------------------------------------------------------------------------------------

    def _set(self, cluster: int, count: int) -> None:
        number, at = divmod(cluster, self._header.block_entries)
        block = self._block(number)
        if block is None or count >= 1 << self._bits:
            raise BackendError(f"the image is damaged: cluster {cluster} cannot have a count of {count}", errno=5)
        old = self._entry(block, at)
        self._put(block, at, count)
        first, last = at * self._bits // 8, ((at + 1) * self._bits + 7) // 8
        try:
            self._store.write((self._table[number] & OFFSET) + first, block[first:last])
        except BaseException:
            self._put(block, at, old)
            raise

    def _entry(self, block: bytearray, at: int) -> int:
        if self._bits >= 8:
            size = self._bits // 8
            return int.from_bytes(block[at * size : (at + 1) * size], "big")
        per = 8 // self._bits
        return block[at // per] >> (at % per * self._bits) & ((1 << self._bits) - 1)

    def _put(self, block: bytearray, at: int, count: int) -> None:
        if self._bits >= 8:
            size = self._bits // 8
            block[at * size : (at + 1) * size] = count.to_bytes(size, "big")
            return
        per = 8 // self._bits
        shift = at % per * self._bits
        block[at // per] = block[at // per] & ~(((1 << self._bits) - 1) << shift) | count << shift


def _zero_word(block: bytearray, at: int) -> int:
    """The first 16-bit zero from entry `at` on, or the number of entries."""
    found = block.find(b"\0\0", 2 * at)
    while found >= 0 and found % 2:
        found = block.find(b"\0\0", found + 1)
    return found // 2 if found >= 0 else len(block) // 2
