"""What the device has to say to the guest: notices, one in each buffer that the guest has posted on the third queue.

Two ways. `push` says a thing now, or refuses when the guest has posted no buffer: for whoever wants to know. `stale`
and `stale_directory` note that what the guest may have cached of an inode is old: noted once, however often, and said
as soon as there is a buffer. So nothing is lost when many things change and the guest is slow: an inode is told of
once, and the guest asks what has become of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from devproc.fs.v86fs.messages import Type, encode
from devproc.request import Request

__all__ = ["NOTIFY_QUEUE", "Notices"]

NOTIFY_QUEUE = 2
DEBUG, WARNING = 10, 30


class Notices:
    """What is to be said. `want` and `posted` are the device's; `log` takes a text and a level."""

    def __init__(
        self,
        want: Callable[[int, bool], None],
        posted: Callable[[int], bool],
        log: Callable[[str, int], None],
    ) -> None:
        self._want = want
        self._posted = posted
        self._log = log
        self._messages: deque[bytes] = deque()
        self._stale: dict[tuple[Type, int], None] = {}  # in order

    def push(self, kind: Type, *fields: Any) -> bool:
        """Say this. False, and a line in the log: the guest has posted no buffer."""
        if not self._posted(NOTIFY_QUEUE):
            self._log(f"{kind.name} is refused: the driver has posted no buffer", WARNING)
            return False
        self.say(kind, *fields)
        return True

    def say(self, kind: Type, *fields: Any) -> None:
        """Say this as soon as there is a buffer."""
        self._log(f"{kind.name.lower()} {list(fields)}", DEBUG)
        self._messages.append(encode(kind, 0, fields))
        self._want(NOTIFY_QUEUE, True)

    def stale(self, inode: int) -> None:
        """Attributes and data of an inode have changed."""
        self._note(Type.INVALIDATE, inode)

    def stale_directory(self, inode: int) -> None:
        """The names in a directory have changed."""
        self._note(Type.INVALIDATE_DIR, inode)

    def resume(self) -> None:
        """There are queues now."""
        self._want(NOTIFY_QUEUE, self._next() is not None)

    def clear(self) -> None:
        """The guest that was to be told is gone."""
        self._messages.clear()
        self._stale.clear()
        self._want(NOTIFY_QUEUE, False)

    def handle(self, request: Request) -> None:
        """The guest has a buffer for one notice. One that is too small comes back empty."""
        message = self._next()
        if message is not None and len(message) <= request.writable:
            request.write_at(0, message)
            self._said()
        elif message is not None:
            self._log(f"a buffer of {request.writable} bytes, and a notice of {len(message)}", WARNING)
        self._want(NOTIFY_QUEUE, self._next() is not None)

    def _note(self, kind: Type, inode: int) -> None:
        if (kind, inode) not in self._stale:
            self._stale[kind, inode] = None
            self._want(NOTIFY_QUEUE, True)

    def _next(self) -> bytes | None:
        if self._messages:
            return self._messages[0]
        for kind, inode in self._stale:
            return encode(kind, 0, (inode, 0, 0) if kind == Type.INVALIDATE else (inode,))
        return None

    def _said(self) -> None:
        if self._messages:
            self._messages.popleft()
        else:
            del self._stale[next(iter(self._stale))]
