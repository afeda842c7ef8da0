"""Which shared libraries an ELF file asks for: its DT_NEEDED entries. 64 bits, little-endian, as the guest is."""

from __future__ import annotations

import struct

from launcher.images.errors import ImagesError

__all__ = ["needed"]

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB = 1, 5
IDENT = b"\x7fELF\x02\x01"
PROGRAM_HEADER = "<IIQQQQQQ"


def needed(file: bytes) -> list[str]:
    """The names by which it asks for libraries, in its order; none for a static program. Raises ImagesError."""
    try:
        return _needed(file)
    except (struct.error, ValueError) as error:
        raise ImagesError(f"a file that should be a program or a library is damaged: {error}") from error


def _needed(file: bytes) -> list[str]:
    if not file.startswith(IDENT):
        raise ValueError("not an ELF file of 64 bits, little-endian")
    (at,) = struct.unpack_from("<Q", file, 0x20)
    size, count = struct.unpack_from("<HH", file, 0x36)
    headers = [struct.unpack_from(PROGRAM_HEADER, file, at + number * size) for number in range(count)]
    loads = [header for header in headers if header[0] == PT_LOAD]
    for kind, _, offset, _, _, length, *_ in headers:
        if kind == PT_DYNAMIC:
            entries = list(struct.iter_unpack("<QQ", file[offset : offset + length // 16 * 16]))
            strings = next((_in_file(loads, value) for tag, value in entries if tag == DT_STRTAB), 0)
            return [_string(file, strings + value) for tag, value in entries if tag == DT_NEEDED]
    return []


def _in_file(loads: list[tuple[int, ...]], address: int) -> int:
    """The offset in the file of what will be at an address."""
    for _, _, offset, start, _, size, *_ in loads:
        if start <= address < start + size:
            return offset + address - start
    raise ValueError(f"nothing is loaded at {address:#x}")


def _string(file: bytes, at: int) -> str:
    return file[at : file.index(b"\0", at)].decode()
