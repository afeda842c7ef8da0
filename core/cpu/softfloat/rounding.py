"""Rounding an exact intermediate result into a format, with the flags that says (IEEE 754-2019, sections 4.3 and 7).

An intermediate result is sign, significand and exponent as in `format.py`, where bit 0 of the significand is *sticky*:
set when anything below it was not zero. That keeps every rounding exact as long as two bits or more lie between the
format's precision and the sticky bit. Tininess is detected after rounding, as RISC-V asks.
"""

from core.cpu.softfloat.format import (
    NX,
    OF,
    RDN,
    RMM,
    RNE,
    RTZ,
    RUP,
    UF,
    bias,
    exponent_field_max,
    fraction_bits,
    infinity,
    raise_flags,
    signed_as,
)
from core.cpu.state import Hart
from native import clz64, fn, i32, u32, u64, u128


@fn(inline=True)
def shift_right_sticky(value: u64, count: u32) -> u64:
    """value >> count for any count, with bit 0 set if a one was shifted out."""
    if count >= 64:
        return u64(value != 0)
    lost = value & ((u64(1) << count) - 1)
    return (value >> count) | u64(lost != 0)


@fn(inline=True)
def shift_right_sticky_wide(value: u128, count: u32) -> u128:
    """shift_right_sticky on 128 bits."""
    if count >= 128:
        return u128(value != 0)
    lost = value & ((u128(1) << count) - 1)
    return (value >> count) | u128(lost != 0)


@fn(inline=True)
def rounds_away(odd: bool, discarded: u64, half: u64, negative: bool, rm: u32) -> bool:
    """Whether to add one to the magnitude kept, `odd` or not, given what was discarded below it."""
    if rm == RNE:
        return discarded > half or (discarded == half and odd)
    if rm == RMM:
        return discarded >= half
    if rm == RDN:
        return negative and discarded != 0
    if rm == RUP:
        return not negative and discarded != 0
    return False


@fn(inline=True)
def rounded(significand: u64, negative: bool, rm: u32, width: u32) -> u64:
    """The significand rounded to the format's precision, as an integer; a carry makes it one bit longer."""
    dropped = 63 - fraction_bits(width)
    kept = significand >> dropped
    discarded = significand & ((u64(1) << dropped) - 1)
    half = u64(1) << (dropped - 1)
    return kept + u64(rounds_away(kept & 1 != 0, discarded, half, negative, rm))


@fn(inline=True)
def is_inexact(significand: u64, width: u32) -> bool:
    return significand & ((u64(1) << (63 - fraction_bits(width))) - 1) != 0


@fn(cold=True)
def overflow(hart: Hart, negative: bool, rm: u32, width: u32) -> u64:
    """Infinity, or the largest finite number where the rounding mode points to zero (section 7.4)."""
    raise_flags(hart, OF | NX)
    towards_zero = rm == RTZ or (rm == RDN and not negative) or (rm == RUP and negative)
    return signed_as(negative, infinity(width) - u64(towards_zero), width)


@fn(cold=True)
def round_subnormal(hart: Hart, negative: bool, field: i32, significand: u64, rm: u32, width: u32) -> u64:
    """Rounds a number below the normal range: `field` is the exponent field it would need, zero or less."""
    result = rounded(shift_right_sticky(significand, u32(1 - field)), negative, rm, width)
    if is_inexact(shift_right_sticky(significand, u32(1 - field)), width):
        carries = rounded(significand, negative, rm, width) >> (fraction_bits(width) + 1) != 0
        tiny = field < 0 or not carries
        raise_flags(hart, u64(NX | UF) if tiny else u64(NX))
    return signed_as(negative, result, width)


@fn
def round_pack(hart: Hart, negative: bool, exponent: i32, significand: u64, rm: u32, width: u32) -> u64:
    """The number significand * 2**(exponent - 63) in the format; the significand is not zero, else of any size."""
    leading = clz64(significand)
    normal = significand << leading
    field = exponent - i32(leading) + bias(width)
    if field <= 0:
        return round_subnormal(hart, negative, field, normal, rm, width)
    if field >= exponent_field_max(width):
        return overflow(hart, negative, rm, width)
    # The implicit bit adds one to the field below it, and so does a carry out of the rounding.
    result = (u64(field - 1) << fraction_bits(width)) + rounded(normal, negative, rm, width)
    if result >= infinity(width):
        return overflow(hart, negative, rm, width)
    if is_inexact(normal, width):
        raise_flags(hart, NX)
    return signed_as(negative, result, width)
