"""The two formats of the F and D extensions, binary32 and binary64, taken apart (IEEE 754-2019, section 3.4).

A value is its bit pattern in a u64; a binary32 pattern has the upper half zero. Every function is given the format as
its `width`, 32 or 64. A finite value other than zero also has one form common to both formats, which the arithmetic
works on: significand(a) * 2**(exponent(a) - 63), where bit 63 of the significand is set, for subnormal numbers too.

Rounding modes and exception flags are numbered as in the `fcsr` register (RISC-V unprivileged ISA, chapter "F").
"""

from core.cpu.state import Hart
from native import clz64, fn, i32, u32, u64

F32 = 32
F64 = 64

# Rounding modes (field `frm`). Whoever calls has resolved DYN and refused the reserved encodings.
RNE = 0  # to nearest, ties to even
RTZ = 1  # towards zero
RDN = 2  # down
RUP = 3  # up
RMM = 4  # to nearest, ties away from zero

# Accrued exceptions (field `fflags`).
NX = 1  # inexact
UF = 2  # underflow
OF = 4  # overflow
DZ = 8  # division by zero
NV = 16  # invalid operation


@fn(inline=True)
def raise_flags(hart: Hart, flags: u64) -> None:
    hart.fflags = hart.fflags | flags


@fn(inline=True)
def fraction_bits(width: u32) -> u32:
    """Bits of the stored fraction: the precision without its implicit leading bit."""
    return u32(23) if width == F32 else u32(52)


@fn(inline=True)
def bias(width: u32) -> i32:
    return i32(127) if width == F32 else i32(1023)


@fn(inline=True)
def exponent_field_max(width: u32) -> i32:
    """The exponent field of infinities and NaNs."""
    return i32(255) if width == F32 else i32(2047)


@fn(inline=True)
def infinity(width: u32) -> u64:
    return u64(0x7F80_0000) if width == F32 else u64(0x7FF0_0000_0000_0000)


@fn(inline=True)
def canonical_nan(width: u32) -> u64:
    return u64(0x7FC0_0000) if width == F32 else u64(0x7FF8_0000_0000_0000)


@fn(inline=True)
def sign_bit(width: u32) -> u64:
    return u64(0x8000_0000) if width == F32 else u64(0x8000_0000_0000_0000)


@fn(inline=True)
def signed_as(negative: bool, magnitude: u64, width: u32) -> u64:
    """The pattern with that sign and those other bits."""
    return (magnitude | sign_bit(width)) if negative else magnitude


@fn(inline=True)
def is_negative(a: u64, width: u32) -> bool:
    return (a & sign_bit(width)) != 0


@fn(inline=True)
def magnitude(a: u64, width: u32) -> u64:
    """All bits but the sign: magnitudes of numbers are ordered as the numbers are, and those of NaNs come last."""
    return a & (sign_bit(width) - 1)


@fn(inline=True)
def is_zero(a: u64, width: u32) -> bool:
    return magnitude(a, width) == 0


@fn(inline=True)
def is_infinite(a: u64, width: u32) -> bool:
    return magnitude(a, width) == infinity(width)


@fn(inline=True)
def is_finite(a: u64, width: u32) -> bool:
    return magnitude(a, width) < infinity(width)


@fn(inline=True)
def is_nan(a: u64, width: u32) -> bool:
    return magnitude(a, width) > infinity(width)


@fn(inline=True)
def is_signaling(a: u64, width: u32) -> bool:
    """A NaN whose fraction has its top bit clear (section 6.2.1)."""
    return is_nan(a, width) and (a >> (fraction_bits(width) - 1)) & 1 == 0


@fn(inline=True)
def exponent(a: u64, width: u32) -> i32:
    """floor(log2(|a|)); `a` is finite and not zero."""
    field = i32(magnitude(a, width) >> fraction_bits(width))
    if field != 0:
        return field - bias(width)
    leading = i32(63) - i32(clz64(magnitude(a, width)))
    return leading + 1 - bias(width) - i32(fraction_bits(width))


@fn(inline=True)
def significand(a: u64, width: u32) -> u64:
    """The significant bits from bit 63 down; `a` is finite and not zero."""
    implicit = u64(1) << fraction_bits(width)
    stored = magnitude(a, width)
    if stored >= implicit:
        return ((stored & (implicit - 1)) | implicit) << (63 - fraction_bits(width))
    return stored << clz64(stored)
