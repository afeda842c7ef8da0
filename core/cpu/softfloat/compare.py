"""Comparison, minimum, maximum and classification, for either format (RISC-V unprivileged ISA, chapter "F")."""

from core.cpu.softfloat.format import (
    NV,
    canonical_nan,
    fraction_bits,
    is_infinite,
    is_nan,
    is_negative,
    is_signaling,
    is_zero,
    magnitude,
    raise_flags,
)
from core.cpu.state import Hart
from native import fn, u32, u64


@fn(inline=True)
def precedes(a: u64, b: u64, width: u32) -> bool:
    """Whether `a` is below `b` in the order in which -0 is below +0; neither is a NaN."""
    if is_negative(a, width) != is_negative(b, width):
        return is_negative(a, width)
    if is_negative(a, width):
        return magnitude(a, width) > magnitude(b, width)
    return magnitude(a, width) < magnitude(b, width)


@fn(inline=True)
def are_equal(a: u64, b: u64, width: u32) -> bool:
    """Whether two numbers are equal; zeros are, whatever their signs."""
    return a == b or (is_zero(a, width) and is_zero(b, width))


@fn(inline=True)
def equal(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """a == b as 0 or 1: quiet, that is, invalid only for signalling NaNs."""
    if is_nan(a, width) or is_nan(b, width):
        if is_signaling(a, width) or is_signaling(b, width):
            raise_flags(hart, NV)
        return u64(0)
    return u64(are_equal(a, b, width))


@fn(inline=True)
def less(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """a < b as 0 or 1: signalling, that is, invalid for any NaN."""
    if is_nan(a, width) or is_nan(b, width):
        raise_flags(hart, NV)
        return u64(0)
    return u64(precedes(a, b, width) and not are_equal(a, b, width))


@fn(inline=True)
def less_or_equal(hart: Hart, a: u64, b: u64, width: u32) -> u64:
    """a <= b as 0 or 1: signalling, that is, invalid for any NaN."""
    if is_nan(a, width) or is_nan(b, width):
        raise_flags(hart, NV)
        return u64(0)
    return u64(precedes(a, b, width) or are_equal(a, b, width))


@fn(inline=True)
def extremum(hart: Hart, a: u64, b: u64, largest: bool, width: u32) -> u64:
    """minimumNumber or maximumNumber (IEEE 754-2019, section 9.6): of a number and a NaN, the number."""
    if is_signaling(a, width) or is_signaling(b, width):
        raise_flags(hart, NV)
    if is_nan(a, width):
        return canonical_nan(width) if is_nan(b, width) else b
    if is_nan(b, width):
        return a
    return a if precedes(a, b, width) != largest else b


@fn(inline=True)
def classify(a: u64, width: u32) -> u64:
    """The ten-bit mask of FCLASS with one bit set (RISC-V unprivileged ISA, chapter "F")."""
    if is_nan(a, width):
        return u64(0x100) if is_signaling(a, width) else u64(0x200)
    # From +0 up the classes of positive numbers are bits 4 to 7; those of negative ones are mirrored, 3 to 0.
    rank = u32(3)
    if is_zero(a, width):
        rank = u32(0)
    elif magnitude(a, width) >> fraction_bits(width) == 0:
        rank = u32(1)
    elif not is_infinite(a, width):
        rank = u32(2)
    return u64(1) << (3 - rank if is_negative(a, width) else 4 + rank)
