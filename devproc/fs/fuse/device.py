"""virtio-fs (virtio 1.2, 5.11): a shared directory for `mount -t virtiofs`. No DAX window.

Nodes and handles of the session are kept in memory that the supervisor holds, so that a mount outlives this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from devproc.device import Queue, VirtioDevice
from devproc.fs import locks as held
from devproc.fs import nameless
from devproc.fs.fuse import attributes, connection, directories, files, locks, names
from devproc.fs.fuse.counts import COUNTS_SIZE, Counts
from devproc.fs.fuse.known import NativeTables
from devproc.fs.fuse.listing import Packer
from devproc.fs.fuse.session import Session, collect
from devproc.fs.journal import kept_journal, kept_memory
from devproc.fs.share import check_tag, open_tree
from devproc.fs.shelf import Shelf
from devproc.fs.waiting import Alarm, Waiting
from devproc.properties import Property
from devproc.request import Request
from native import Array, Record, plain, u8, u32
from proto.virtio import DeviceId

__all__ = ["VirtioFsDevice"]

SERVICE_NS = 1_000_000  # a busy device looks at its messages this often
COUNTS = "counts"  # the descriptor's name with the supervisor
JOURNAL = "nodes"  # the descriptor's name with the supervisor
ANSWERS = collect(attributes, connection, directories, files, locks, names)


class FsConfig(Record):
    """5.11.4: struct virtio_fs_config."""

    tag: Array[u8] = plain(count=36)
    num_request_queues: u32


class VirtioFsDevice(VirtioDevice):
    """A directory of the host, for mount -t virtiofs."""

    device_id = DeviceId.FS
    waits = True
    queues = (Queue("hiprio", size=128), Queue("requests", size=1024))
    starts_late = True  # in a swap: it takes over what its predecessor kept
    Config = FsConfig

    tag = Property(str, help="the name under which the guest mounts it")
    ro = Property(bool, False, "refuse whatever would change something")
    cache = Property(float, 0.0, "seconds for which the guest may believe names and attributes without asking")

    def start(self) -> None:
        os.umask(0)  # the guest has its own
        for place, byte in enumerate(check_tag(self.tag)):
            self.config.tag[place] = byte
        self.config.num_request_queues = 1
        self._tree = open_tree(self.backend, self.ro, self)
        journal = kept_journal(self, JOURNAL)
        gone, locked = Shelf.of(self, nameless.PREFIX, nameless.LIMIT), Shelf.of(self, held.PREFIX, held.LIMIT)
        memory = kept_memory(self, COUNTS, COUNTS_SIZE)
        counts = Counts(memory)
        os.close(memory)
        self._session = Session(self._tree, journal, counts, ANSWERS, gone, locked, self.cache)
        self._alarm = Alarm()
        self._session.waiting = Waiting(self._alarm.switch)
        self.watch(self._alarm.fd, self._ring)

    def stop(self) -> None:
        self._session.close()
        self._alarm.close()
        self._tree.close()

    def reset(self) -> None:
        with self._session.in_python():
            self._session.clear()

    def remembered(self) -> dict[str, dict[int, Any]]:
        nodes, counts = self._session.nodes.remembered()
        return {JOURNAL: nodes, COUNTS: counts}

    def _ring(self) -> None:
        self._alarm.heard()
        with self._session.in_python():
            self._session.waiting.look()

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int] | None:
        try:
            loop, tables = queues.loop, NativeTables(engine, queues.chain.address, self._tree, self.cache)
        except OSError:  # a tree in memory: Python's alone
            return None
        self._session.nodes.use(tables)
        self._session.packer = Packer(engine)
        self.native_pop = lambda ring, chain: engine.fuse_pop(loop, tables.known, ring)
        return lambda: engine.fuse_loop(loop, tables.known, SERVICE_NS)

    def handle(self, request: Request) -> None:
        self._session.handle(request)
