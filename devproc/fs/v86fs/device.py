"""The v86fs device (type 63, not of the virtio specification): a shared directory, and notices of what changes in it.

Queues: 0 for metadata and 1 for data, either of which takes any request; 2 has buffers that the driver posts, one for
each notice. A device of one's own answers the requests itself:

    class ClockDevice(V86fsDevice):
        def adapter(self):
            return Clock()  # see adapter.py
"""

from __future__ import annotations

import os
from typing import Any

from devproc.device import Queue, VirtioDevice
from devproc.fs import nameless
from devproc.fs.intents import Intents
from devproc.fs.journal import kept_journal
from devproc.fs.memory import MemoryTree, kept_tree
from devproc.fs.readonly import ReadOnly
from devproc.fs.share import MEMORY, check_tag, open_tree
from devproc.fs.shelf import Shelf
from devproc.fs.tree import ROOT, Changes, Owner, Tree
from devproc.fs.v86fs.files import Files
from devproc.fs.v86fs.inodes import FIRST, Inodes
from devproc.fs.v86fs.messages import Type
from devproc.fs.v86fs.notices import NOTIFY_QUEUE, Notices
from devproc.fs.v86fs.push import Push
from devproc.fs.v86fs.session import Session
from devproc.fs.v86fs.shared import SharedTree
from devproc.properties import Property
from devproc.request import Request
from proto.virtio import DeviceId

__all__ = ["V86fsDevice"]

JOURNAL = "inodes"  # the descriptor's name with the supervisor
FIRST_INODE = 2  # of an empty tree
HELLO_TIME = 1_711_500_000 * 1_000_000_000
MOUNT_SAID = 0  # the journal's key for: the guest was told where to mount it


class V86fsDevice(VirtioDevice):
    """A shared directory that tells the guest of changes: v86fs."""

    device_id = DeviceId.V86FS
    waits = True
    starts_late = True  # in a swap: it takes over what its predecessor kept
    queues = (
        Queue("hipri", size=128),
        Queue("requests", size=128),
        Queue("notify", size=128, in_order=True, on_demand=True),
    )

    tag = Property(str, "", "the name under which the guest mounts it; the empty name is the same")
    ro = Property(bool, False, "refuse whatever would change something")
    at = Property(str, "", "ask the guest to mount it there")

    def adapter(self) -> Any:
        """Who answers requests before the shared tree is asked; None for nobody. For devices made from this one."""
        return None

    def start(self) -> None:
        os.umask(0)  # the guest has its own
        name = check_tag(self.tag) if self.tag else b""
        self._tree = self._open_tree()
        self._journal = kept_journal(self, JOURNAL)
        self.notices = Notices(self._want, self._posted, self._say)
        self._inodes = Inodes(self._journal, self._forgotten)
        shelf = Shelf.of(self, nameless.PREFIX, nameless.LIMIT)
        self._files = Files(self._tree, self._inodes, nameless.Nameless(self._tree, shelf))
        self._push = Push(self._inodes, self._files, self.notices, self._say, self.unwatch, self.at.encode())
        intents = Intents(self._journal)
        shared = SharedTree(self._tree, name, intents, self._inodes, self._files, self._push)
        self._session = Session([self.adapter(), shared], intents, self._say)
        if isinstance(self._tree, MemoryTree):
            self._tree.forget_nameless()
        if self.backend not in ("", MEMORY) and (fd := self._push.begin(self._tree)) is not None:
            self.watch(fd, self._push.ready)
        if self._journal.table:  # a predecessor was killed: who knows what has changed meanwhile
            self._push.everything()

    def stop(self) -> None:
        self._push.close()
        self._tree.close()
        self._files.close()

    def reset(self) -> None:
        self.notices.clear()
        self._push.clear()
        self._files.clear()
        self._inodes.clear()

    def negotiated(self) -> None:
        if self.at and MOUNT_SAID not in self._journal.table:
            self._journal.put(MOUNT_SAID, 1)
            self.notices.say(Type.MOUNT_NOTIFY, self.tag.encode(), self.at.encode())
        self.notices.resume()

    def remembered(self) -> dict[str, dict[int, Any]]:
        return {JOURNAL: self._inodes.remembered()}

    def handle(self, request: Request) -> None:
        if request.queue == NOTIFY_QUEUE:
            self.notices.handle(request)
        else:
            self._session.handle(request)

    def _open_tree(self) -> Tree:
        if self.backend not in ("", MEMORY):
            return open_tree(self.backend, self.ro, self)
        tree = kept_tree(self)
        if not self.backend and tree.next_inode == FIRST_INODE:
            _furnish(tree)
        return ReadOnly(tree) if self.ro else tree

    # The runtime gives the device these only after `start`.

    def _want(self, queue: int, wanted: bool) -> None:
        self.want(queue, wanted)

    def _posted(self, queue: int) -> bool:
        return self.posted(queue)

    def _say(self, text: str, level: int) -> None:
        self.log(f"{self.id}: {text}", level)

    def _forgotten(self, number: int) -> None:
        self._push.forgotten(number)


def _furnish(tree: MemoryTree) -> None:
    """What is in the tree of a device without a backend."""
    file = tree.create(b"hello.txt", os.O_RDWR, 0o644, Owner())
    file.write([memoryview(b"hello world\n")], 0)
    tree.mkdir(b"subdir", 0o755, Owner())
    for path in (b"hello.txt", b"subdir", ROOT):
        tree.change(path, Changes(mtime=HELLO_TIME))
    file.close()
    tree.next_inode = FIRST
