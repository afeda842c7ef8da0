"""The machine code of shares as a fuzz target runs it: as checked Python, which refuses every access outside the areas
it was given. What it leaves goes to the session in Python, as in a device process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from devproc.device import VirtioDevice
from devproc.engine import load_engine
from devproc.fs.fuse.device import VirtioFsDevice
from devproc.fs.fuse.fast import serve as serve_fuse
from devproc.fs.fuse.known import NativeTables
from devproc.fs.ninep.device import NinePDevice
from devproc.fs.ninep.fast import serve as serve_ninep
from devproc.fs.ninep.known import NativeFids
from native.memory import Area
from proto.ring import Chain

__all__ = ["MEMORY", "NativeShare", "native_share"]

Serve = Callable[[Any, Chain, int], bool]

MEMORY = 1 << 17  # bytes for a request, its answer, and what is around them


class NativeShare:
    """The machine code of one device, which lives as long as this process."""

    def __init__(self, device: Any) -> None:
        self._area = Area.allocate(Chain.size() + MEMORY)
        self.memory = self._area.view()[Chain.size() :]
        self._chain = Chain(self._area.address, self._area)
        self._native, self._serve, journal = _PROTOCOLS[type(device)](device, self._chain.address)
        self._journal = Area.adopt(journal._address, journal._size)

    def answer(self, readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]) -> int | None:
        """How many bytes were written to a request in these pieces of `memory` (begin, length); None for what is
        Python's."""
        chain, begin = self._chain, self._area.address + Chain.size()
        chain.head, chain.error, chain.again, chain.counter = 1, 0, 0, 0
        chain.readable, chain.writable = len(readable), len(writable)
        chain.readable_bytes, chain.writable_bytes = (sum(size for _, size in part) for part in (readable, writable))
        for place, (at, size) in enumerate([*readable, *writable]):
            chain.segments[place].host, chain.segments[place].length = begin + at, size
        return int(self._native.share.written) if self._serve(self._native.known, chain, 0) else None


def _ninep(device: Any, chain: int) -> tuple[Any, Serve, Any]:
    session, native = device._session, NativeFids(chain, device._tree)
    session.use(native)
    return native, serve_ninep, session.journal


def _fuse(device: Any, chain: int) -> tuple[Any, Serve, Any]:
    session, native = device._session, NativeTables(load_engine(), chain, device._tree, 0)
    session.nodes.use(native)
    return native, serve_fuse, session.nodes._journal


_PROTOCOLS = {NinePDevice: _ninep, VirtioFsDevice: _fuse}


@cache
def native_share(device: VirtioDevice) -> NativeShare | None:
    """The machine code of a device; None where a protocol has none."""
    return NativeShare(device) if type(device) in _PROTOCOLS else None
