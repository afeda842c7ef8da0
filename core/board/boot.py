"""Putting a kernel, an initrd, firmware and the device tree into RAM, and where harts begin.

What can be given: an ELF file (32 or 64 bits, RISC-V), a raw Linux Image (its header says how large it grows), or a
flat file. Where things go is QEMU's choice, so that what works there works here:

* firmware (`--bios FILE`) and, with `--bios none`, a flat program: start of RAM; M-mode begins at the reset vector;
* a kernel that is no ELF: 2 MiB into RAM, or after the firmware, aligned to 2 MiB; with the built-in SBI harts enter it
  in S-mode with a0 = hart id and a1 = device tree;
* initrd: half of RAM, at most 512 MiB, above the kernel's start, or right behind it where that would not fit;
* device tree: as high as possible below 3 GiB, aligned to 2 MiB.

Every mistake is a ConfigError that names the file and says what is wrong.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from core.board.device_tree import Chosen, device_tree
from core.board.virt import RAM_BASE, ROM_BASE, Machine
from proto.errors import ConfigError

ALIGNMENT = 2 << 20  # of kernel, initrd and device tree on RV64 (4 MiB on RV32)
KERNEL_OFFSET = 0x200000
INITRD_GAP = 512 << 20
FDT_CEILING = 3 << 30
SECTOR = 512

ELF_MAGIC = b"\x7fELF"
EM_RISCV = 243
PT_LOAD = 1
IMAGE_MAGIC = b"RISCV\0\0\0"  # at 0x30 of a Linux Image
IMAGE_MAGIC2 = b"RSC\x05"  # at 0x38
FW_DYNAMIC_MAGIC = 0x4942534F  # "OSBI"
FW_DYNAMIC_VERSION = 2
NEXT_MODE_S = 1


class Mode(Enum):
    """The privilege mode in which harts begin."""

    MACHINE = "M"
    SUPERVISOR = "S"


@dataclass(frozen=True)
class Piece:
    """Bytes that go into RAM, and the memory they occupy there (at least as much: .bss, Image's size)."""

    name: str
    address: int
    data: bytes
    extent: int

    @property
    def end(self) -> int:
        return self.address + self.extent


@dataclass(frozen=True)
class Boot:
    """Everything that is placed, and where harts begin."""

    pieces: tuple[Piece, ...]
    rom: bytes  # contents of the boot ROM
    mode: Mode
    entry: int
    device_tree: int

    def describe(self) -> str:
        """One line a piece, for `-v`."""
        lines = [f"{piece.address:#012x}-{piece.end - 1:#012x} {piece.name}" for piece in self.pieces]
        return "\n".join([*lines, f"harts begin at {self.entry:#x} in {self.mode.value}-mode"])


@dataclass(frozen=True)
class Loaded:
    """A program: the pieces of one file, and its entry."""

    pieces: tuple[Piece, ...]
    entry: int

    @property
    def end(self) -> int:
        return max(piece.end for piece in self.pieces)


def read_file(path: str, what: str) -> bytes:
    """The bytes of a file. Raises ConfigError when it is missing, unreadable or empty."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from error
    if not data:
        raise ConfigError(f"{what} {path} is empty")
    return data


def load_program(path: str, data: bytes, flat_address: int, machine: Machine) -> Loaded:
    """An ELF at its own addresses; an Image or a flat file at `flat_address`. Raises ConfigError."""
    if data.startswith(ELF_MAGIC):
        return _load_elf(path, data, machine)
    if data[0x30:0x38] == IMAGE_MAGIC or data[0x38:0x3C] == IMAGE_MAGIC2:
        return _load_image(path, data, flat_address)
    if data[:2] == b"\x1f\x8b":
        raise ConfigError(f"{path} is compressed with gzip", hint=f"Unpack it first: gunzip -k {path}")
    if data[:2] == b"MZ":
        raise ConfigError(f"{path} is an EFI program for another machine: it has no RISC-V Image header")
    return Loaded((Piece(os.path.basename(path), flat_address, data, len(data)),), flat_address)


def _load_elf(path: str, data: bytes, machine: Machine) -> Loaded:
    """ELF specification, chapters "ELF header" and "Program header"; the entry must be a physical address."""
    if len(data) < 0x34 or data[4] not in (1, 2):
        raise ConfigError(f"{path} is a damaged ELF file")
    wide = data[4] == 2
    if data[5] != 1 or struct.unpack_from("<H", data, 18)[0] != EM_RISCV:
        raise ConfigError(f"{path} is an ELF file, but not for RISC-V")
    if wide != (machine.xlen == 64):
        raise ConfigError(f"{path} is a {64 if wide else 32}-bit program; this machine is RV{machine.xlen}")
    try:
        entry, at, size, count = _elf_header(data, wide)
        headers = [_program_header(data, at + index * size, wide) for index in range(count)]
        pieces: list[Piece] = []
        for kind, offset, physical, in_file, in_memory in headers:
            if kind != PT_LOAD or not in_memory:
                continue
            if offset + in_file > len(data):
                raise ConfigError(f"{path} is cut short: a segment reaches to byte {offset + in_file} of {len(data)}")
            name = f"{os.path.basename(path)} segment {len(pieces)}"
            pieces.append(Piece(name, physical, data[offset : offset + in_file], max(in_memory, in_file)))
    except struct.error as error:
        raise ConfigError(f"{path} is a damaged ELF file: {error}") from error
    if not pieces:
        raise ConfigError(f"{path} has nothing to load")
    if not any(piece.address <= entry < piece.end for piece in pieces):
        raise ConfigError(
            f"{path} begins at {entry:#x}, which it does not load",
            hint="Link it to the physical addresses it starts at; of Linux give the Image, not vmlinux.",
        )
    return Loaded(tuple(pieces), entry)


def _elf_header(data: bytes, wide: bool) -> tuple[int, int, int, int]:
    """Entry, and where the program headers are: (entry, offset, size of one, number)."""
    if wide:
        entry, at = struct.unpack_from("<QQ", data, 24)
        size, count = struct.unpack_from("<HH", data, 54)
    else:
        entry, at = struct.unpack_from("<II", data, 24)
        size, count = struct.unpack_from("<HH", data, 42)
    return entry, at, size, count


def _program_header(data: bytes, at: int, wide: bool) -> tuple[int, int, int, int, int]:
    """(type, file offset, physical address, bytes in the file, bytes in memory)"""
    if wide:
        kind, _, offset, _, physical, in_file, in_memory = struct.unpack_from("<IIQQQQQ", data, at)
    else:
        kind, offset, _, physical, in_file, in_memory = struct.unpack_from("<6I", data, at)
    return kind, offset, physical, in_file, in_memory


def _load_image(path: str, data: bytes, address: int) -> Loaded:
    """Linux's Documentation/arch/riscv/boot-image-header.rst: text_offset at 8, image_size at 16."""
    text_offset, image_size = struct.unpack_from("<QQ", data, 8)
    if text_offset != KERNEL_OFFSET and address == RAM_BASE + KERNEL_OFFSET:
        address = RAM_BASE + text_offset
    piece = Piece(os.path.basename(path), address, data, max(image_size, len(data)))
    return Loaded((piece,), address)


def _align_up(address: int) -> int:
    return (address + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


@dataclass(frozen=True)
class BootFiles:
    """What the user named. `bios` is "default" for the built-in SBI, "none", or a path."""

    kernel: str = ""
    initrd: str = ""
    append: str = ""
    bios: str = "default"
    boot_sector: bytes | None = None  # sector 0 of the first disk, with --boot disk


def plan_boot(machine: Machine, files: BootFiles, rng_seed: bytes = b"") -> Boot:
    """Place everything. Raises ConfigError when a file is missing, not for RISC-V, or does not fit into RAM."""
    pieces: list[Piece] = []
    firmware = _firmware(machine, files)
    if firmware is not None:
        pieces += firmware.pieces
    kernel = _kernel(machine, files, firmware)
    if kernel is not None:
        pieces += kernel.pieces
    if firmware is None and kernel is None:
        raise ConfigError("nothing to start", hint="Give --kernel FILE, --bios FILE or --boot disk.")
    program_end = max(piece.end for piece in pieces)
    initrd = _initrd(machine, files, kernel or firmware, program_end)
    if initrd is not None:
        pieces.append(initrd)
    chosen = Chosen(files.append, (initrd.address, initrd.end) if initrd else None, rng_seed)
    tree = device_tree(machine, chosen)
    pieces.append(_place_tree(machine, tree, pieces))
    _check_pieces(machine, pieces)
    return _begin(machine, files, firmware, kernel, tuple(pieces))


def _firmware(machine: Machine, files: BootFiles) -> Loaded | None:
    """What runs in M-mode at the start of RAM."""
    if files.boot_sector is not None:
        if len(files.boot_sector) != SECTOR:
            raise ConfigError(f"the first disk has no sector 0: {len(files.boot_sector)} bytes read")
        return Loaded((Piece("boot sector", RAM_BASE, files.boot_sector, SECTOR),), RAM_BASE)
    if files.bios not in ("default", "none"):
        return load_program(files.bios, read_file(files.bios, "--bios"), RAM_BASE, machine)
    return None


def _kernel(machine: Machine, files: BootFiles, firmware: Loaded | None) -> Loaded | None:
    if not files.kernel:
        return None
    data = read_file(files.kernel, "--kernel")
    if firmware is not None:
        address = max(_align_up(firmware.end), RAM_BASE + KERNEL_OFFSET)
    elif files.bios == "none":
        address = RAM_BASE
    else:
        address = RAM_BASE + KERNEL_OFFSET
    return load_program(files.kernel, data, address, machine)


def _initrd(machine: Machine, files: BootFiles, program: Loaded | None, program_end: int) -> Piece | None:
    if not files.initrd:
        return None
    data = read_file(files.initrd, "--initrd")
    start = program.pieces[0].address if program else RAM_BASE
    address = max(start + min(machine.memory // 2, INITRD_GAP), program_end)
    if address + len(data) > RAM_BASE + machine.memory - ALIGNMENT:  # little RAM: right behind the kernel
        address = program_end
    return Piece(os.path.basename(files.initrd), (address + 4095) & ~4095, data, len(data))


def _place_tree(machine: Machine, tree: bytes, pieces: Sequence[Piece]) -> Piece:
    """Below 3 GiB if RAM begins there, else at the end of RAM; QEMU leaves 2 MiB granules."""
    ceiling = min(RAM_BASE + machine.memory, FDT_CEILING if RAM_BASE < FDT_CEILING else 1 << 62)
    address = (ceiling - len(tree)) & ~(ALIGNMENT - 1)
    if any(piece.address < address + len(tree) and address < piece.end for piece in pieces):
        address = (ceiling - len(tree)) & ~7  # little RAM: the very end
    return Piece("device tree", address, tree, len(tree))


def _check_pieces(machine: Machine, pieces: Sequence[Piece]) -> None:
    """Everything lies in RAM, and nothing on top of another."""
    end = RAM_BASE + machine.memory
    for piece in pieces:
        if piece.address < RAM_BASE or piece.end > end:
            raise ConfigError(
                f"{piece.name} needs {piece.address:#x}-{piece.end - 1:#x}, RAM is {RAM_BASE:#x}-{end - 1:#x}",
                hint="Give the machine more memory: -m.",
            )
    ordered = sorted(pieces, key=lambda piece: piece.address)
    for lower, upper in pairwise(ordered):
        if lower.end > upper.address:
            raise ConfigError(
                f"{lower.name} ({lower.address:#x}-{lower.end - 1:#x}) overlaps {upper.name} at {upper.address:#x}",
                hint="Give the machine more memory: -m.",
            )


def _begin(
    machine: Machine, files: BootFiles, firmware: Loaded | None, kernel: Loaded | None, pieces: tuple[Piece, ...]
) -> Boot:
    """Where harts begin: in the boot ROM (M-mode), or at the kernel (S-mode, built-in SBI)."""
    tree = next(piece.address for piece in pieces if piece.name == "device tree")
    if firmware is not None:
        rom = reset_rom(machine.xlen, firmware.entry, tree, kernel.entry if kernel else 0)
    elif files.bios == "none":
        assert kernel is not None
        rom = reset_rom(machine.xlen, kernel.entry, tree, 0)
    else:
        assert kernel is not None
        return Boot(pieces, b"", Mode.SUPERVISOR, kernel.entry, tree)
    return Boot(pieces, rom, Mode.MACHINE, ROM_BASE, tree)


def reset_rom(xlen: int, entry: int, tree: int, next_address: int) -> bytes:
    """The boot ROM, as QEMU's: jump to `entry` with a0 = mhartid, a1 = device tree, a2 = fw_dynamic_info.

    `next_address` is where OpenSBI's fw_dynamic goes on, in S-mode; 0 leaves it nothing to go on to.
    """
    width = 3 if xlen == 64 else 2  # funct3 of ld, or of lw
    info = 0x28
    code = struct.pack(
        "<6I",
        0x00000297,  # auipc t0, 0
        0x00000613 | info << 20 | 5 << 15,  # addi a2, t0, info
        0xF1402573,  # csrr a0, mhartid
        0x02028583 | width << 12,  # ld a1, 32(t0)
        0x01828283 | width << 12,  # ld t0, 24(t0)
        0x00028067,  # jr t0
    )
    data = struct.pack("<QQ", entry, tree)
    fields = (FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next_address, NEXT_MODE_S, 0, 0)
    return code + data + struct.pack("<6Q" if xlen == 64 else "<6I", *fields)


def place(boot: Boot, ram: memoryview) -> None:
    """Write every piece into RAM, and zero what each occupies beyond its bytes."""
    for piece in boot.pieces:
        start = piece.address - RAM_BASE
        ram[start : start + len(piece.data)] = piece.data
        ram[start + len(piece.data) : start + piece.extent] = bytes(piece.extent - len(piece.data))
