"""What the host changes in a shared directory, told to the guest: which inode, and whether its data or its names.

The guest is told of inodes it knows, in directories it has looked at (`devproc.fs.v86fs.watches`). When the host's
queue of events runs over, when a directory is no longer watched, and after a crash of this process, all is told that
may be old, and the guest asks again. Without inotify nothing is told; that is said once, in the log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from devproc.fs.tree import ROOT, join, parent
from devproc.fs.v86fs.files import Files
from devproc.fs.v86fs.inodes import Inodes
from devproc.fs.v86fs.messages import Type
from devproc.fs.v86fs.notices import Notices
from devproc.fs.v86fs.watches import Change, Event, Holder, Watches

__all__ = ["Push"]

WARNING = 30
QUIET = 10.0  # seconds after a line in the log that says the same
DELETE, DELETE_SELF = int(Change.DELETE), int(Change.DELETE_SELF)  # plain numbers are looked at faster
MOVED_FROM, MOVED_TO = int(Change.MOVED_FROM), int(Change.MOVED_TO)
NAMES = int(Change.CREATE) | DELETE | MOVED_FROM | MOVED_TO
GONE = DELETE | MOVED_FROM


class Push:
    """`mounted` is where the guest was asked to mount the share (b"": it was not); `unwatch` is the device's."""

    def __init__(
        self,
        inodes: Inodes,
        files: Files,
        notices: Notices,
        log: Callable[[str, int], None],
        unwatch: Callable[[int], None] = lambda fd: None,
        mounted: bytes = b"",
    ) -> None:
        self._inodes = inodes
        self._files = files
        self._notices = notices
        self._log = log
        self._unwatch = unwatch
        self._mounted = mounted
        self._watches: Watches | None = None
        self._tree: Holder | None = None
        self._said = float("-inf")
        self._moving: dict[int, bytes] = {}  # half a rename: its cookie, and the old path

    def begin(self, tree: Holder) -> int | None:
        """Watch a tree of the host. Returns the descriptor to be waited for, then `ready` is due."""
        self._tree = tree
        try:
            self._watches = Watches(tree, self._changed, self._unwatched)
        except OSError as error:
            self._give_up(error)
            return None
        return self._watches.fd

    def ready(self) -> None:
        """Something has changed."""
        self._look_at_root()
        if self._watches is not None:
            self._watches.before()
            self._moving.clear()

    def looks(self, directory: bytes) -> None:
        """The guest is about to look at something in a directory."""
        self._look_at_root()
        if self._watches is None:
            return
        try:
            self._watches.look(directory)
        except FileNotFoundError:
            return  # the guest will be told so anyway
        except NotADirectoryError:
            return
        except OSError as error:
            self._give_up(error)

    @contextmanager
    def own(self, *paths: bytes) -> Iterator[None]:
        """What happens to these names now is the guest's doing."""
        if self._watches is None:
            yield
            return
        self._watches.before()
        try:
            yield
        finally:
            own = {(path, b"") for path in paths} | {parent(path) for path in paths if path}
            if self._watches is not None:
                self._watches.after(own)

    def renamed(self, old: bytes, new: bytes) -> None:
        """The guest has renamed a directory, perhaps."""
        if self._watches is not None:
            self._watches.renamed(old, new)

    def everything(self) -> None:
        """Whatever the guest knows may be old."""
        for inode in self._inodes:
            self._notices.stale(inode.number)
            if inode.directory:
                self._notices.stale_directory(inode.number)

    def forgotten(self, number: int) -> None:
        """An inode has left the table: the guest must ask for it again by name."""
        self._notices.stale(number)

    def clear(self) -> None:
        """A new guest begins."""
        if self._watches is not None:
            self._watches.clear()

    def close(self) -> None:
        """The end, of watching or of this process."""
        if self._watches is not None:
            self._unwatch(self._watches.fd)
            self._watches.close()
            self._watches = None

    # -- what inotify says -----------------------------------------------------------------------------------------

    def _changed(self, event: Event) -> None:
        if not event.name:
            self._itself(event)
            return
        path = join(event.directory, event.name)
        if event.change & NAMES:
            self._stale_directory(event.directory)
        if event.change & GONE:
            self._files.lost(path)
        self._stale(path)
        if event.change & DELETE:
            self._inodes.unlinked(path)
        elif event.change & MOVED_FROM:
            self._moving[event.cookie] = path
        elif event.change & MOVED_TO and (old := self._moving.pop(event.cookie, None)) is not None:
            self._inodes.renamed(old, path)
            self.renamed(old, path)

    def _itself(self, event: Event) -> None:
        self._stale(event.directory)
        if event.change & DELETE_SELF:
            self._stale_directory(event.directory)

    def _look_at_root(self) -> None:
        """Has the shared directory itself been removed? inotify does not say so while it is open here."""
        if not self._mounted or self._tree is None:
            return
        fd = self._tree.hold(ROOT)
        try:
            gone = os.fstat(fd).st_nlink == 0
        finally:
            os.close(fd)
        if gone:
            self._notices.say(Type.UMOUNT_NOTIFY, self._mounted)
            self._mounted = b""

    def _unwatched(self, directory: bytes | None) -> None:
        """What happens in a directory, or (None) what has happened anywhere, is not told."""
        if directory is None:
            now = time.monotonic()
            if now - self._said > QUIET:
                self._said = now
                self._log("the host has changed more than can be told; the guest is to look at everything again", 20)
            self.everything()
            return
        self._stale_directory(directory)
        for inode in self._inodes.inside(directory):
            self._notices.stale(inode.number)

    def _stale(self, path: bytes) -> None:
        inode = self._inodes.at(path)
        if inode is not None:
            self._notices.stale(inode.number)

    def _stale_directory(self, path: bytes) -> None:
        inode = self._inodes.at(path)
        if inode is not None:
            self._notices.stale_directory(inode.number)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._log(f"the host's changes are not pushed any more: inotify: {os.strerror(error.errno or 0)}", WARNING)
