"""Conversions between the formats and to and from integers (RISC-V unprivileged ISA, chapters "F" and "D").

Integers are in a u64 as in an `x` register: those of 32 bits are read from the lower half, and returned sign-extended
to 64 bits, unsigned ones as well.
"""

from core.cpu.softfloat.arithmetic import propagate_nan
from core.cpu.softfloat.format import (
    NV,
    NX,
    canonical_nan,
    exponent,
    infinity,
    is_finite,
    is_infinite,
    is_nan,
    is_negative,
    is_zero,
    raise_flags,
    signed_as,
    significand,
)
from core.cpu.softfloat.rounding import round_pack, rounds_away, shift_right_sticky
from core.cpu.state import Hart
from native import fn, i32, u32, u64, wrap64


@fn(inline=True)
def change_format(hart: Hart, a: u64, rm: u32, width: u32, new_width: u32) -> u64:
    """`a`, of format `width`, in the format `new_width`."""
    if is_nan(a, width):
        propagate_nan(hart, a, a, width)
        return canonical_nan(new_width)
    negative = is_negative(a, width)
    if is_infinite(a, width):
        return signed_as(negative, infinity(new_width), new_width)
    if is_zero(a, width):
        return signed_as(negative, u64(0), new_width)
    return round_pack(hart, negative, exponent(a, width), significand(a, width), rm, new_width)


@fn(inline=True)
def all_ones(bits: u32) -> u64:
    return u64(0xFFFF_FFFF_FFFF_FFFF) >> (64 - bits)


@fn(inline=True)
def from_integer(hart: Hart, value: u64, signed: bool, bits: u32, rm: u32, width: u32) -> u64:
    """The integer in the low `bits` of `value` as a number."""
    negative = signed and (value >> (bits - 1)) & 1 != 0
    magnitude = (wrap64(0 - value) if negative else value) & all_ones(bits)
    if magnitude == 0:
        return u64(0)
    return round_pack(hart, negative, i32(63), magnitude, rm, width)


@fn(inline=True)
def integer_part(a: u64, width: u32) -> u64:
    """floor(|a|); `a` is not zero and below 2**64."""
    power = exponent(a, width)
    return u64(0) if power < 0 else significand(a, width) >> u32(63 - power)


@fn(inline=True)
def fraction_part(a: u64, width: u32) -> u64:
    """|a| - floor(|a|), scaled by 2**64, with bit 0 sticky; `a` is not zero and below 2**64."""
    power = exponent(a, width)
    if power == 63:
        return u64(0)
    if power < 0:
        return shift_right_sticky(significand(a, width), u32(-1 - power))
    return wrap64(significand(a, width) << u32(power + 1))


@fn(inline=True)
def largest_magnitude(negative: bool, signed: bool, bits: u32) -> u64:
    """The magnitude of the last integer in range on the side of that sign."""
    if signed:
        return (all_ones(bits) >> 1) + u64(negative)
    return u64(0) if negative else all_ones(bits)


@fn(inline=True)
def integer_register(negative: bool, magnitude: u64, bits: u32) -> u64:
    """An integer of `bits` bits as it is written to an `x` register of 64."""
    value = wrap64(0 - magnitude) if negative else magnitude
    top = u64(1) << (bits - 1)
    return wrap64(((value & all_ones(bits)) ^ top) - top)


@fn(inline=True)
def to_integer(hart: Hart, a: u64, signed: bool, bits: u32, rm: u32, width: u32) -> u64:
    """`a` rounded to an integer of `bits` bits; out of range, the closest one, and a NaN counts as above all."""
    if is_zero(a, width):
        return u64(0)
    negative = is_negative(a, width) and not is_nan(a, width)
    limit = largest_magnitude(negative, signed, bits)
    if not is_finite(a, width) or exponent(a, width) > 63:
        raise_flags(hart, NV)
        return integer_register(negative, limit, bits)
    integer = integer_part(a, width)
    fraction = fraction_part(a, width)
    if rounds_away(integer & 1 != 0, fraction, u64(0x8000_0000_0000_0000), negative, rm):
        integer += 1
    if integer > limit:
        raise_flags(hart, NV)
        return integer_register(negative, limit, bits)
    if fraction != 0:
        raise_flags(hart, NX)
    return integer_register(negative, integer, bits)
