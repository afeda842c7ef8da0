"""virtio-9p (device 9; Linux's include/uapi/linux/virtio_9p.h): a shared directory for `mount -t 9p`.

The fids of the session are kept in memory that the supervisor holds, so that a mount outlives this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from devproc.device import Queue, VirtioDevice
from devproc.fs import locks as held
from devproc.fs import nameless
from devproc.fs.intents import settled
from devproc.fs.journal import kept_journal
from devproc.fs.ninep import attributes, connection, directories, files, locks, names, walk, xattrs
from devproc.fs.ninep.known import NativeFids
from devproc.fs.ninep.session import Session, collect
from devproc.fs.share import TAG_MAX, check_tag, open_tree
from devproc.fs.shelf import Shelf
from devproc.fs.waiting import Alarm, Waiting
from devproc.properties import Property
from devproc.request import Request
from native import Array, Record, plain, u8, u16
from proto.virtio import DeviceId

__all__ = ["NinePDevice"]

MOUNT_TAG = 1 << 0
SERVICE_NS = 1_000_000  # a busy device looks at its messages this often
JOURNAL = "fids"  # the descriptor's name with the supervisor
ANSWERS = collect(attributes, connection, directories, files, locks, names, walk, xattrs)


class NinePConfig(Record):
    """struct virtio_9p_config."""

    tag_len: u16
    tag: Array[u8] = plain(count=TAG_MAX)


class NinePDevice(VirtioDevice):
    """A directory of the host, for mount -t 9p."""

    device_id = DeviceId.NINEP
    waits = True
    queues = (Queue("requests", size=128),)
    features = MOUNT_TAG
    starts_late = True  # in a swap: it takes over what its predecessor kept
    Config = NinePConfig

    tag = Property(str, help="the name under which the guest mounts it")
    ro = Property(bool, False, "refuse whatever would change something")

    def start(self) -> None:
        os.umask(0)  # the guest has its own
        tag = check_tag(self.tag)
        self._tree = open_tree(self.backend, self.ro, self)
        self.config.tag_len = len(tag)
        for place, byte in enumerate(tag):
            self.config.tag[place] = byte
        journal = kept_journal(self, JOURNAL)
        gone, locked = Shelf.of(self, nameless.PREFIX, nameless.LIMIT), Shelf.of(self, held.PREFIX, held.LIMIT)
        self._session = Session(self._tree, journal, ANSWERS, gone, locked)
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
        self._session.fids.catch_up()
        return {JOURNAL: settled(self._session.journal)}

    def _ring(self) -> None:
        self._alarm.heard()
        with self._session.in_python():
            self._session.waiting.look()

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int] | None:
        try:
            loop, fids = queues.loop, NativeFids(queues.chain.address, self._tree)
        except OSError:  # a tree in memory: Python's alone
            return None
        self._session.use(fids)
        self.native_pop = lambda ring, chain: engine.ninep_pop(loop, fids.known, ring)
        return lambda: engine.ninep_loop(loop, fids.known, SERVICE_NS)

    def handle(self, request: Request) -> None:
        self._session.handle(request)
