"""Makes a bootable disk: `python -m guest.disk OUT [KERNEL.elf] [--size BYTES]`.

Sector 0 is guest/bootsector.bin with the number of sectors to load in it; from sector 1 on, the ELF's segments as they
are in memory from 0x80200000 on. The rest of the disk is empty.
"""

from __future__ import annotations

import argparse
import struct
from importlib import resources
from pathlib import Path

__all__ = ["bootable", "flat"]

SECTOR = 512
LOAD_ADDRESS = 0x8020_0000  # where the boot sector puts what it reads
SECTORS_OFFSET = 504  # of the number of sectors, in the boot sector
PT_LOAD = 1


def flat(elf: bytes) -> bytes:
    """The loadable segments of a 64-bit ELF file as memory from LOAD_ADDRESS on has them; bss is not written out."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (entry, table), (entry_size, count) = struct.unpack_from("<QQ", elf, 0x18), struct.unpack_from("<HH", elf, 0x36)
    if entry != LOAD_ADDRESS:
        raise ValueError(f"starts at {entry:#x}; the boot sector starts what it loads at {LOAD_ADDRESS:#x}")
    image = bytearray()
    for index in range(count):
        kind, _, offset, _, address, size = struct.unpack_from("<IIQQQQ", elf, table + index * entry_size)
        if kind == PT_LOAD:
            start = address - LOAD_ADDRESS
            image.extend(bytes(max(0, start + size - len(image))))
            image[start : start + size] = elf[offset : offset + size]
    return bytes(image)


def bootable(elf: bytes, boot_sector: bytes, size: int = 0) -> bytes:
    """The whole disk, at least `size` bytes, a multiple of the sector's size."""
    image = flat(elf)
    sectors = -(-len(image) // SECTOR)
    first = bytearray(boot_sector)
    struct.pack_into("<I", first, SECTORS_OFFSET, sectors)
    disk = bytes(first) + image.ljust(sectors * SECTOR, b"\0")
    return disk.ljust(-(-max(size, len(disk)) // SECTOR) * SECTOR, b"\0")


def main() -> None:
    parser = argparse.ArgumentParser(prog="guest.disk", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("kernel", type=Path, nargs="?", help="an ELF file; without one, the bundled guest")
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes (default: 1 MiB)")
    arguments = parser.parse_args()
    here = resources.files("guest")
    elf = arguments.kernel.read_bytes() if arguments.kernel else here.joinpath("bulkhead-guest.elf").read_bytes()
    arguments.out.write_bytes(bootable(elf, here.joinpath("bootsector.bin").read_bytes(), arguments.size))


if __name__ == "__main__":
    main()
