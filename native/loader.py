"""An image becomes callable code: mapped, relocated, then made read-only or executable, never both writable and so.

No part of LLVM is involved. Code stays mapped until the process ends: threads may be in it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from native import memory
from native.errors import LinkError
from native.image import LIBRARY, Image

__all__ = ["Loaded", "load_image"]


@dataclass(frozen=True)
class Loaded:
    """A mapped image."""

    base: int
    image: Image

    def address(self, symbol: str) -> int:
        """Where a symbol is; KeyError when the unit does not tell of it."""
        return self.base + self.image.symbols[symbol]

    def functions(self) -> list[tuple[str, int, int]]:
        """Name, address and size of every function: for profilers and debuggers."""
        return [(name, self.base + offset, size) for name, offset, size in self.image.functions]


@lru_cache(maxsize=64)
def _library_function(name: str) -> int:
    library = next(file for file, names in LIBRARY.items() if name in names)
    try:
        function = getattr(ctypes.CDLL(library), name)
    except (OSError, AttributeError) as error:
        raise LinkError(f"the host has no {name} in {library}: {error}") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def load_image(image: Image) -> Loaded:
    """Map an image. OSError when the host does not allow executable memory."""
    content = bytearray(image.content)
    flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS
    base = memory.map_memory(image.size, memory.PROT_READ | memory.PROT_WRITE, flags)
    try:
        view = memoryview(content)
        padded = len(content) & ~7
        cells = view[:padded].cast("Q")
        for offset in image.relative:
            cells[offset >> 3] += base
        for name, offset in image.imports:
            cells[offset >> 3] = _library_function(name)
        ctypes.memmove(base, (ctypes.c_char * len(content)).from_buffer(content), len(content))
        memory.protect_memory(base, image.code_size, memory.PROT_READ | memory.PROT_EXEC)
        if image.constant_size:
            memory.protect_memory(base + image.code_size, image.constant_size, memory.PROT_READ)
    except BaseException:
        memory.unmap_memory(base, image.size)
        raise
    return Loaded(base, image)
