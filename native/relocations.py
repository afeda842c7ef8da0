"""How each architecture writes a distance into its code: the relocation types that the linker knows.

x86-64: System V ABI, AMD64 supplement, section 4.4. aarch64: ELF for the Arm 64-bit Architecture, section 5.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from native.errors import LinkError

__all__ = ["MACHINES", "Machine"]

Apply = Callable[[bytearray, int, int], None]  # content, place, value (symbol + addend)


@dataclass(frozen=True)
class Machine:
    """One architecture."""

    absolute: int  # a 64-bit address
    relocations: dict[int, Apply]
    through_word: frozenset[int]  # those whose value is the address of a word that holds the symbol's address
    stub: Callable[[int], bytes]  # jump through the word at this distance from the stub's start


def _fits(value: int, bits: int) -> int:
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise LinkError(f"a distance of {value} does not fit {bits} bits")
    return value


def _relative32(content: bytearray, place: int, value: int) -> None:
    struct.pack_into("<i", content, place, _fits(value - place, 32))


def _relative64(content: bytearray, place: int, value: int) -> None:
    struct.pack_into("<q", content, place, value - place)


def _x86_stub(distance: int) -> bytes:
    """jmp *distance(%rip)"""
    return b"\xff\x25" + struct.pack("<i", distance - 6)


_X86_64 = Machine(
    absolute=1,  # R_X86_64_64
    relocations={
        2: _relative32,  # R_X86_64_PC32
        4: _relative32,  # R_X86_64_PLT32
        9: _relative32,  # R_X86_64_GOTPCREL
        24: _relative64,  # R_X86_64_PC64
        41: _relative32,  # R_X86_64_GOTPCRELX
        42: _relative32,  # R_X86_64_REX_GOTPCRELX
    },
    through_word=frozenset((9, 41, 42)),
    stub=_x86_stub,
)


def _patch(content: bytearray, place: int, bits: int, mask: int) -> None:
    word = struct.unpack_from("<I", content, place)[0]
    struct.pack_into("<I", content, place, word & ~mask | bits & mask)


def _branch26(content: bytearray, place: int, value: int) -> None:
    _patch(content, place, _fits(value - place, 28) >> 2, 0x03FFFFFF)


def _page21(content: bytearray, place: int, value: int) -> None:
    """adrp: images are loaded at a page boundary, so pages of offsets are pages of addresses."""
    pages = _fits((value >> 12) - (place >> 12), 21)
    _patch(content, place, (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5, 0x60FFFFE0)


def _low12(shift: int) -> Apply:
    def apply(content: bytearray, place: int, value: int) -> None:
        _patch(content, place, ((value & 0xFFF) >> shift) << 10, 0x003FFC00)

    return apply


def _aarch64_stub(distance: int) -> bytes:
    """ldr x16, <word>; br x16: reaches 1 MiB."""
    return struct.pack("<II", 0x58000010 | (_fits(distance, 21) >> 2 & 0x7FFFF) << 5, 0xD61F0200)


_AARCH64 = Machine(
    absolute=257,  # R_AARCH64_ABS64
    relocations={
        260: _relative64,  # R_AARCH64_PREL64
        261: _relative32,  # R_AARCH64_PREL32
        275: _page21,  # R_AARCH64_ADR_PREL_PG_HI21
        277: _low12(0),  # R_AARCH64_ADD_ABS_LO12_NC
        278: _low12(0),  # R_AARCH64_LDST8_ABS_LO12_NC
        282: _branch26,  # R_AARCH64_JUMP26
        283: _branch26,  # R_AARCH64_CALL26
        284: _low12(1),  # R_AARCH64_LDST16_ABS_LO12_NC
        285: _low12(2),  # R_AARCH64_LDST32_ABS_LO12_NC
        286: _low12(3),  # R_AARCH64_LDST64_ABS_LO12_NC
        299: _low12(4),  # R_AARCH64_LDST128_ABS_LO12_NC
        311: _page21,  # R_AARCH64_ADR_GOT_PAGE
        312: _low12(3),  # R_AARCH64_LD64_GOT_LO12_NC
    },
    through_word=frozenset((311, 312)),
    stub=_aarch64_stub,
)

MACHINES = {62: _X86_64, 183: _AARCH64}
