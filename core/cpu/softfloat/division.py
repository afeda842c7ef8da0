"""Division and square root, for either format (IEEE 754-2019, section 5.4.1)."""

from core.cpu.softfloat.arithmetic import invalid, propagate_nan
from core.cpu.softfloat.format import (
    DZ,
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
from core.cpu.softfloat.rounding import round_pack
from core.cpu.state import Hart
from native import fn, u32, u64, u128


@fn(cold=True)
def divide_special(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """a / b where either is zero, infinite or a NaN."""
    if is_nan(a, width) or is_nan(b, width):
        return propagate_nan(hart, a, b, width)
    negative = is_negative(a ^ b, width)
    if is_infinite(a, width):
        return invalid(hart, width) if is_infinite(b, width) else signed_as(negative, infinity(width), width)
    if is_infinite(b, width):
        return signed_as(negative, u64(0), width)
    if is_zero(a, width):
        return invalid(hart, width) if is_zero(b, width) else signed_as(negative, u64(0), width)
    raise_flags(hart, DZ)
    return signed_as(negative, infinity(width), width)


@fn(inline=True)
def divide_long(upper: u64, divisor: u64) -> u64:
    """upper * 2**64 // divisor with bit 0 sticky; upper < divisor, so the quotient fits."""
    dividend = u128(upper) << 64
    quotient = dividend // u128(divisor)
    return u64(quotient) | u64(quotient * u128(divisor) != dividend)


@fn(inline=True)
def divide(hart: Hart, a: u64, b: u64, rm: u32, width: u32) -> u64:
    if not is_finite(a, width) or not is_finite(b, width) or is_zero(a, width) or is_zero(b, width):
        return divide_special(hart, a, b, width)
    quotient = divide_long(significand(a, width) >> 1, significand(b, width))
    return round_pack(hart, is_negative(a ^ b, width), exponent(a, width) - exponent(b, width), quotient, rm, width)


@fn(cold=True)
def square_root_special(hart: Hart, a: u64, width: u32) -> u64:
    """The square root of a NaN, an infinity, a zero or a negative number."""
    if is_nan(a, width):
        return propagate_nan(hart, a, a, width)
    if is_zero(a, width):
        return a
    return invalid(hart, width) if is_negative(a, width) else a


@fn(inline=True)
def integer_square_root(n: u64) -> u64:
    """floor(sqrt(n)) for n of 2**62 or more.

    Each step doubles the correct bits: n >> 2k is close to the square of the root so far, and the next one is the mean
    of it and n over it, as in Python's math.isqrt, whose proof bounds the last error to one.
    """
    root = 1 + (n >> 62)
    root = (root << 1) + (n >> 59) // root
    root = (root << 3) + (n >> 53) // root
    root = (root << 7) + (n >> 41) // root
    root = (root << 15) + (n >> 17) // root
    return root - u64(u128(root) * u128(root) > u128(n))


@fn(inline=True)
def square_root_long(n: u64) -> u64:
    """floor(sqrt(n * 2**62)) with bit 0 sticky; n is 2**62 or more.

    One step of Zimmermann's "Karatsuba Square Root" (INRIA RR-3805): the lower half of the root is the remainder of the
    upper half over twice that half, and at most one too large.
    """
    upper = integer_square_root(n)
    root = (upper << 31) + ((n - upper * upper) << 31) // (upper << 1)
    radicand = u128(n) << 62
    if u128(root) * u128(root) > radicand:
        root -= 1
    return root | u64(u128(root) * u128(root) != radicand)


@fn(inline=True)
def square_root(hart: Hart, a: u64, rm: u32, width: u32) -> u64:
    if not is_finite(a, width) or is_negative(a, width) or is_zero(a, width):
        return square_root_special(hart, a, width)
    # An even power of two goes before the root; what stays is in [1, 4), scaled by 2**62.
    odd = exponent(a, width) & 1
    radicand = significand(a, width) if odd != 0 else significand(a, width) >> 1
    half = (exponent(a, width) - odd) >> 1
    return round_pack(hart, False, half + 1, square_root_long(radicand), rm, width)
