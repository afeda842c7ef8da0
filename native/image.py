"""An image: a linked unit, as the cache keeps it and the loader maps it.

One run of bytes: code (with a stub for each library function called), read-only data (with the handler tables and the
addresses the stubs jump through), and writable data. References inside it are resolved. What is left to the loader is
to add the load address to a list of words, and to write the addresses of library functions into another list.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass

__all__ = ["LIBRARY", "Image"]

# What LLVM calls by itself, and what `native` declares: (library, names).
LIBRARY = {
    "libc.so.6": ("memcpy", "memmove", "memset", "memcmp", "bcmp", "clock_gettime"),
    "libm.so.6": ("fma", "fmaf", "sqrt", "sqrtf", "trunc", "truncf"),
    "libgcc_s.so.1": ("__udivti3", "__umodti3", "__divti3", "__modti3", "__multi3"),
}


@dataclass
class Image:
    """Code, then read-only data, then writable data, each from a page boundary on; offsets count from the start.

    `content` may end before the data does: the rest is zero.
    """

    code_size: int
    constant_size: int
    data_size: int
    content: bytes | memoryview
    symbols: dict[str, int]
    relative: array[int]  # offsets of words to which the load address is added
    imports: list[tuple[str, int]]  # library function, offset of the word for its address
    functions_text: bytes

    @property
    def size(self) -> int:
        return self.code_size + self.constant_size + self.data_size

    @property
    def functions(self) -> list[tuple[str, int, int]]:
        """Name, offset and size of every function: for profilers."""
        return [(name, offset, size) for name, offset, size in json.loads(self.functions_text)]

    def pack(self) -> bytes:
        """As bytes, for the cache."""
        sizes = (self.code_size, self.constant_size, self.data_size)
        head = json.dumps({"sizes": sizes, "symbols": self.symbols, "imports": self.imports}).encode()
        parts = (head, self.relative.tobytes(), bytes(self.content), self.functions_text)
        return b"".join([struct.pack("<4Q", *map(len, parts)), *parts])

    @classmethod
    def unpack(cls, data: memoryview) -> Image:
        """What `pack` made; the content is not copied."""
        parts, at = [], 32
        for length in struct.unpack_from("<4Q", data):
            parts.append(data[at : at + length])
            at += length
        head = json.loads(bytes(parts[0]))
        relative = array("Q")
        relative.frombytes(parts[1])
        imports = [(name, offset) for name, offset in head["imports"]]
        code, constant, writable = head["sizes"]
        return cls(code, constant, writable, parts[2], head["symbols"], relative, imports, bytes(parts[3]))
