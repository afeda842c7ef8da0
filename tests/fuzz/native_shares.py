"""The machine code of shares as a fuzz target runs it: as checked Python, which refuses every access outside the areas
it was given. What it leaves goes to the session in Python, as in a device process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from devproc.device import VirtioDevice
from devproc.fs.ninep.device import NinePDevice
from devproc.fs.ninep.fast import serve
from devproc.fs.ninep.known import NativeFids
from native.memory import Area
from proto.ring import Chain

__all__ = ["MEMORY", "NativeShare", "native_share"]

MEMORY = 1 << 17  # bytes for a request, its answer, and what is around them


class NativeShare:
    """The machine code of one device, which lives as long as this process."""

    def __init__(self, device: NinePDevice) -> None:
        self._area = Area.allocate(Chain.size() + MEMORY)
        self.memory = self._area.view()[Chain.size() :]
        self._chain = Chain(self._area.address, self._area)
        session = device._session
        self._native = NativeFids(self._chain.address, device._tree)
        session.use(self._native)
        self._journal = Area.adopt(session.journal._address, session.journal._size)

    def answer(self, readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]) -> int | None:
        """How many bytes were written to a request in these pieces of `memory` (begin, length); None for what is
        Python's."""
        chain, begin = self._chain, self._area.address + Chain.size()
        chain.head, chain.error, chain.again, chain.counter = 1, 0, 0, 0
        chain.readable, chain.writable = len(readable), len(writable)
        chain.readable_bytes, chain.writable_bytes = (sum(size for _, size in part) for part in (readable, writable))
        for place, (at, size) in enumerate([*readable, *writable]):
            chain.segments[place].host, chain.segments[place].length = begin + at, size
        return int(self._native.share.written) if serve(self._native.known, chain, 0) else None


@cache
def native_share(device: VirtioDevice) -> NativeShare | None:
    """The machine code of a device: of 9P's. FUSE's fills so much memory at each reset that few inputs would be tried;
    `tests/devproc/fs/test_fuse_fast_changes.py` has hostile requests for it."""
    return NativeShare(device) if isinstance(device, NinePDevice) else None
