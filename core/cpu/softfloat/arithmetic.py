"""Addition, multiplication and fused multiply-add, for either format (IEEE 754-2019, section 5.4.1).

Each function deals with NaNs, infinities and zeros as sections 6 and 7 say, then computes the exact result, or enough
of it, in integers, and leaves the rest to `round_pack`. Subtraction is addition of the opposite.
"""

from core.cpu.softfloat.format import (
    NV,
    RDN,
    canonical_nan,
    exponent,
    infinity,
    is_finite,
    is_infinite,
    is_nan,
    is_negative,
    is_signaling,
    is_zero,
    magnitude,
    raise_flags,
    signed_as,
    significand,
)
from core.cpu.softfloat.rounding import round_pack, shift_right_sticky, shift_right_sticky_wide
from core.cpu.state import Hart
from native import clz64, fn, i32, u32, u64, u128, wrap64


@fn(cold=True)
def invalid(hart: Hart, width: u32) -> u64:
    """The result of an invalid operation (section 7.2)."""
    raise_flags(hart, NV)
    return canonical_nan(width)


@fn(cold=True)
def propagate_nan(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """The result where `a` or `b` is a NaN: RISC-V does not propagate payloads."""
    if is_signaling(a, width) or is_signaling(b, width):
        raise_flags(hart, NV)
    return canonical_nan(width)


@fn(inline=True)
def zero_sum(same_sign: bool, negative: bool, rm: u32, width: u32) -> u64:
    """An exact sum of zero (section 6.3): +0 unless both terms are negative or the rounding is downwards."""
    return signed_as(negative if same_sign else rm == RDN, u64(0), width)


@fn(cold=True)
def add_special(hart: Hart, a: u64, b: u64, rm: u32, width: u32) -> u64:
    """a + b where either is zero, infinite or a NaN."""
    if is_nan(a, width) or is_nan(b, width):
        return propagate_nan(hart, a, b, width)
    if is_infinite(a, width) and is_infinite(b, width):
        return a if a == b else invalid(hart, width)
    if is_zero(a, width) and is_zero(b, width):
        return zero_sum(a == b, is_negative(a, width), rm, width)
    return a if is_infinite(a, width) or is_zero(b, width) else b


@fn(inline=True)
def add(hart: Hart, a: u64, b: u64, rm: u32, width: u32) -> u64:
    if not is_finite(a, width) or not is_finite(b, width) or is_zero(a, width) or is_zero(b, width):
        return add_special(hart, a, b, rm, width)
    swap = magnitude(a, width) < magnitude(b, width)
    large = b if swap else a
    small = a if swap else b
    negative = is_negative(large, width)
    distance = u32(exponent(large, width) - exponent(small, width))
    # One bit of headroom for the carry. Where bits are lost to the sticky one, at most one leading bit cancels.
    x = significand(large, width) >> 1
    y = shift_right_sticky(significand(small, width) >> 1, distance)
    total = x - y if is_negative(a ^ b, width) else x + y
    if total == 0:
        return zero_sum(False, False, rm, width)
    return round_pack(hart, negative, exponent(large, width) + 1, total, rm, width)


@fn(cold=True)
def multiply_special(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """a * b where either is zero, infinite or a NaN."""
    if is_nan(a, width) or is_nan(b, width):
        return propagate_nan(hart, a, b, width)
    negative = is_negative(a ^ b, width)
    if is_infinite(a, width) or is_infinite(b, width):
        if is_zero(a, width) or is_zero(b, width):
            return invalid(hart, width)
        return signed_as(negative, infinity(width), width)
    return signed_as(negative, u64(0), width)


@fn(inline=True)
def multiply(hart: Hart, a: u64, b: u64, rm: u32, width: u32) -> u64:
    if not is_finite(a, width) or not is_finite(b, width) or is_zero(a, width) or is_zero(b, width):
        return multiply_special(hart, a, b, width)
    product = u128(significand(a, width)) * u128(significand(b, width))
    upper = u64(product >> 64) | u64(wrap64(product) != 0)
    return round_pack(hart, is_negative(a ^ b, width), exponent(a, width) + exponent(b, width) + 1, upper, rm, width)


@fn(cold=True)
def fused_special(hart: Hart, a: u64, b: u64, c: u64, rm: u32, width: u32) -> u64:
    """a * b + c where any of the three is zero, infinite or a NaN."""
    product_infinite = is_infinite(a, width) or is_infinite(b, width)
    product_zero = is_zero(a, width) or is_zero(b, width)
    if product_infinite and product_zero:
        return invalid(hart, width)  # even where c is a quiet NaN: section 7.2 leaves that open, RISC-V does not
    if is_nan(a, width) or is_nan(b, width) or is_nan(c, width):
        if is_signaling(c, width):
            raise_flags(hart, NV)
        return propagate_nan(hart, a, b, width)
    negative = is_negative(a ^ b, width)
    if product_infinite:
        return add_special(hart, signed_as(negative, infinity(width), width), c, rm, width)
    if product_zero or is_infinite(c, width):
        return add_special(hart, signed_as(negative, u64(0), width), c, rm, width)
    return multiply(hart, a, b, rm, width)


@fn(inline=True)
def round_pack_wide(hart: Hart, negative: bool, exponent: i32, wide: u128, rm: u32, width: u32) -> u64:
    """The number wide * 2**(exponent - 127) in the format; `wide` is not zero."""
    upper = u64(wide >> 64)
    if upper == 0:
        return round_pack(hart, negative, exponent - 64, wrap64(wide), rm, width)
    leading = clz64(upper)
    normal = wide << leading
    return round_pack(hart, negative, exponent - i32(leading), u64(normal >> 64) | u64(wrap64(normal) != 0), rm, width)


@fn(inline=True)
def fused_multiply_add(hart: Hart, a: u64, b: u64, c: u64, rm: u32, width: u32) -> u64:
    """a * b + c, rounded once. The other three forms of RISC-V flip the sign bits of a or c first."""
    if not is_finite(a, width) or not is_finite(b, width) or not is_finite(c, width):
        return fused_special(hart, a, b, c, rm, width)
    if is_zero(a, width) or is_zero(b, width) or is_zero(c, width):
        return fused_special(hart, a, b, c, rm, width)
    # Both terms as wide * 2**(exponent - 127) with one bit of headroom; the product has 22 zero bits or more at the
    # end, the addend 74, so that nothing is lost unless the exponents are too far apart for more than a bit to cancel.
    product = u128(significand(a, width) >> 1) * u128(significand(b, width))
    product_exponent = exponent(a, width) + exponent(b, width) + 2
    addend = u128(significand(c, width)) << 63
    addend_exponent = exponent(c, width) + 1
    if product_exponent > addend_exponent:
        addend = shift_right_sticky_wide(addend, u32(product_exponent - addend_exponent))
        addend_exponent = product_exponent
    else:
        product = shift_right_sticky_wide(product, u32(addend_exponent - product_exponent))
    negative = is_negative(a ^ b, width)
    if negative == is_negative(c, width):
        return round_pack_wide(hart, negative, addend_exponent, product + addend, rm, width)
    if product == addend:
        return zero_sum(False, False, rm, width)
    if product > addend:
        return round_pack_wide(hart, negative, addend_exponent, product - addend, rm, width)
    return round_pack_wide(hart, not negative, addend_exponent, addend - product, rm, width)
