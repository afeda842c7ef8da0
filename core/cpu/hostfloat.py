"""Floating-point arithmetic on the host's unit where its result is final, and in core/cpu/softfloat where it is not.

The functions fast32_* and fast64_* return what fp32_* and fp64_* return and raise the same flags, only sooner. The
host's result stands if the rounding mode is RNE and the result is a normal number, or any finite one for a sum: then no
other exception than *inexact* can be due. While that flag is set already nothing remains to be found out; otherwise an
error-free transform tells whether the host rounded (Muller et al., Handbook of Floating-Point Arithmetic, chapter 4):

* a sum s = a + b is exact if s - a is b and s - b is a, because the one by the larger operand is computed exactly;
* a product, quotient or root is exact if a fused multiply-add finds its residue to be zero, which needs room for the
  residue above the smallest subnormal number;
* of binary32, products of two are exact in binary64, which makes all residues plain comparisons.

The host's control register is as the C library left it: nearest, no traps, subnormal numbers kept.
"""

from core.cpu.softfloat import (
    fp32_add,
    fp32_div,
    fp32_fma,
    fp32_from_fp64,
    fp32_mul,
    fp32_sqrt,
    fp64_add,
    fp64_div,
    fp64_fma,
    fp64_from_fp32,
    fp64_mul,
    fp64_sqrt,
)
from core.cpu.softfloat.format import F32, F64, NX, RNE, infinity, magnitude, raise_flags, sign_bit
from core.cpu.state import Hart
from native import (
    f32_add,
    f32_div,
    f32_eq,
    f32_fma,
    f32_from_f64,
    f32_sqrt,
    f32_sub,
    f64_add,
    f64_div,
    f64_eq,
    f64_fma,
    f64_from_f32,
    f64_mul,
    f64_sqrt,
    f64_sub,
    fn,
    u32,
    u64,
)

# Magnitudes: what leaves room for a residue below, 2**-968; and twice the smallest normal numbers, since the smallest
# itself may have been rounded from a tiny one.
ROOM_BELOW_64 = 0x0370_0000_0000_0000
NOT_TINY_64 = 0x0020_0000_0000_0000
NOT_TINY_32 = 0x0100_0000


@fn(inline=True)
def note(hart: Hart, exact: bool) -> None:
    if not exact:
        raise_flags(hart, NX)


@fn(inline=True)
def noted(hart: Hart) -> bool:
    """Whether *inexact* is set already, so that it need not be found out again."""
    return hart.fflags & NX != 0


@fn(inline=True)
def is_exact_sum_64(total: u64, a: u64, b: u64) -> bool:
    return f64_eq(f64_sub(total, a), b) and f64_eq(f64_sub(total, b), a)


@fn(inline=True)
def is_exact_product_64(product: u64, a: u64, b: u64) -> bool:
    """Whether product == a * b, given that it is the rounded product, or either factor the rounded quotient or root."""
    return magnitude(f64_fma(a, b, product ^ sign_bit(F64)), F64) == 0


@fn
def fast64_add(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    total = f64_add(a, b)
    if rm != RNE or magnitude(total, F64) >= infinity(F64):
        return fp64_add(hart, a, b, rm)
    if not noted(hart):
        note(hart, is_exact_sum_64(total, a, b))
    return total


@fn
def fast64_sub(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return fast64_add(hart, a, b ^ sign_bit(F64), rm)


@fn
def fast64_mul(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    product = f64_mul(a, b)
    if rm != RNE or not ROOM_BELOW_64 <= magnitude(product, F64) < infinity(F64):
        return fp64_mul(hart, a, b, rm)
    if not noted(hart):
        note(hart, is_exact_product_64(product, a, b))
    return product


@fn
def fast64_div(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    quotient = f64_div(a, b)
    if rm != RNE or not NOT_TINY_64 <= magnitude(quotient, F64) < infinity(F64):
        return fp64_div(hart, a, b, rm)
    if not noted(hart):
        if magnitude(a, F64) < ROOM_BELOW_64:
            return fp64_div(hart, a, b, rm)
        note(hart, is_exact_product_64(a, quotient, b))
    return quotient


@fn
def fast64_sqrt(hart: Hart, a: u64, rm: u32) -> u64:
    # Negative numbers and NaNs with the sign set are above infinity here.
    if rm != RNE or not ROOM_BELOW_64 <= a < infinity(F64):
        return fp64_sqrt(hart, a, rm)
    root = f64_sqrt(a)
    if not noted(hart):
        note(hart, is_exact_product_64(a, root, root))
    return root


@fn
def fast64_fma(hart: Hart, a: u64, b: u64, c: u64, rm: u32) -> u64:
    result = f64_fma(a, b, c)
    if rm != RNE or not NOT_TINY_64 <= magnitude(result, F64) < infinity(F64):
        return fp64_fma(hart, a, b, c, rm)
    if not noted(hart):
        # Only where the product needs no rounding is it this simple. Where it does, the sum mostly does too, and the
        # flag is set from then on.
        product = f64_mul(a, b)
        has_room = ROOM_BELOW_64 <= magnitude(product, F64) < infinity(F64)
        if not has_room or not is_exact_product_64(product, a, b):
            return fp64_fma(hart, a, b, c, rm)
        note(hart, is_exact_sum_64(result, product, c))
    return result


@fn
def fast64_from_fp32(hart: Hart, a: u64, rm: u32) -> u64:
    if magnitude(a, F32) > infinity(F32):
        return fp64_from_fp32(hart, a, rm)
    return f64_from_f32(u32(a))


@fn(inline=True)
def is_final_32(result: u32) -> bool:
    return NOT_TINY_32 <= magnitude(u64(result), F32) < infinity(F32)


@fn
def fast32_add(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    x = u32(a)
    y = u32(b)
    total = f32_add(x, y)
    if rm != RNE or magnitude(u64(total), F32) >= infinity(F32):
        return fp32_add(hart, a, b, rm)
    if not noted(hart):
        note(hart, f32_eq(f32_sub(total, x), y) and f32_eq(f32_sub(total, y), x))
    return u64(total)


@fn
def fast32_sub(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return fast32_add(hart, a, b ^ sign_bit(F32), rm)


@fn
def fast32_mul(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    exact = f64_mul(f64_from_f32(u32(a)), f64_from_f32(u32(b)))
    product = f32_from_f64(exact)
    if rm != RNE or not is_final_32(product):
        return fp32_mul(hart, a, b, rm)
    if not noted(hart):
        note(hart, f64_eq(f64_from_f32(product), exact))
    return u64(product)


@fn
def fast32_div(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    quotient = f32_div(u32(a), u32(b))
    if rm != RNE or not is_final_32(quotient):
        return fp32_div(hart, a, b, rm)
    if not noted(hart):
        note(hart, f64_eq(f64_mul(f64_from_f32(quotient), f64_from_f32(u32(b))), f64_from_f32(u32(a))))
    return u64(quotient)


@fn
def fast32_sqrt(hart: Hart, a: u64, rm: u32) -> u64:
    root = f32_sqrt(u32(a))
    if rm != RNE or not is_final_32(root):
        return fp32_sqrt(hart, a, rm)
    if not noted(hart):
        note(hart, f64_eq(f64_mul(f64_from_f32(root), f64_from_f32(root)), f64_from_f32(u32(a))))
    return u64(root)


@fn
def fast32_fma(hart: Hart, a: u64, b: u64, c: u64, rm: u32) -> u64:
    result = f32_fma(u32(a), u32(b), u32(c))
    if rm != RNE or not is_final_32(result):
        return fp32_fma(hart, a, b, c, rm)
    if not noted(hart):
        product = f64_mul(f64_from_f32(u32(a)), f64_from_f32(u32(b)))
        note(hart, is_exact_sum_64(f64_from_f32(result), product, f64_from_f32(u32(c))))
    return u64(result)


@fn
def fast32_from_fp64(hart: Hart, a: u64, rm: u32) -> u64:
    result = f32_from_f64(a)
    if rm != RNE or not is_final_32(result):
        return fp32_from_fp64(hart, a, rm)
    if not noted(hart):
        note(hart, f64_eq(f64_from_f32(result), a))
    return u64(result)


# The shortcut for each function of softfloat that has one; the others are about as fast as the host.
FAST = {
    "fp32_add": fast32_add,
    "fp32_sub": fast32_sub,
    "fp32_mul": fast32_mul,
    "fp32_div": fast32_div,
    "fp32_sqrt": fast32_sqrt,
    "fp32_fma": fast32_fma,
    "fp32_from_fp64": fast32_from_fp64,
    "fp64_add": fast64_add,
    "fp64_sub": fast64_sub,
    "fp64_mul": fast64_mul,
    "fp64_div": fast64_div,
    "fp64_sqrt": fast64_sqrt,
    "fp64_fma": fast64_fma,
    "fp64_from_fp32": fast64_from_fp32,
}
