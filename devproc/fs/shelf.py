"""Descriptors that outlive the process: left with the supervisor under a name, and given back to a successor.

What is on the shelf stays open when this process is killed: a file whose last name is about to go, a lock. `put`
returns only when the supervisor has the packet, so whatever is done after it finds the descriptor there, come what may.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from devproc.device import Device

__all__ = ["Shelf"]


class Shelf:
    """At most `limit` descriptors, by name."""

    def __init__(
        self,
        found: dict[str, int],
        store: Callable[[str, int], None],
        unstore: Callable[[str], None],
        limit: int,
    ) -> None:
        """`found` are those of a predecessor; they are this object's from now on."""
        self._fds = found
        self._store = store
        self._unstore = unstore
        self._limit = limit

    @classmethod
    def of(cls, device: Device, prefix: str, limit: int) -> Shelf:
        """The shelf of a device for names that begin with `prefix`."""
        names = [name for name in device.descriptors if name.startswith(prefix)]
        return cls({name: device.descriptors.pop(name) for name in names}, device.store, device.unstore, limit)

    def __len__(self) -> int:
        return len(self._fds)

    def __contains__(self, name: str) -> bool:
        return name in self._fds

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._fds))

    def get(self, name: str) -> int | None:
        """The descriptor, which stays the shelf's."""
        return self._fds.get(name)

    def put(self, name: str, fd: int) -> bool:
        """Take over a descriptor. False, and the descriptor is closed, when the shelf is full."""
        if name in self._fds:
            os.close(self._fds.pop(name))
        elif len(self._fds) >= self._limit:
            os.close(fd)
            return False
        self._store(name, fd)
        self._fds[name] = fd
        return True

    def drop(self, name: str) -> None:
        """Close it, here and with the supervisor."""
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)
            self._unstore(name)

    def clear(self) -> None:
        """Drop them all."""
        for name in self:
            self.drop(name)

    def close(self) -> None:
        """The end of this process, not of what is on the shelf."""
        while self._fds:
            os.close(self._fds.popitem()[1])
