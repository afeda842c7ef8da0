"""Floating point in integer arithmetic: the F and D extensions, results and flags exact (IEEE 754-2019, RISC-V F 2.2).

Public functions are named fp32_* and fp64_* after their format; the ISA table calls them by these names. Conventions:

* A value is its bit pattern in a u64. A binary32 pattern has the upper half zero, going in and out: NaN boxing is for
  the caller.
* `rm` is a static rounding mode, RNE to RMM: the caller has resolved DYN and refused the reserved encodings.
* Exceptions are OR-ed into `hart.fflags`; nothing else of the hart is read or written. A NaN result is the canonical
  one.
* Integers are as in `x` registers of 64 bits: arguments of 32 bits are the lower half, whatever the upper; results of
  32 bits are sign-extended, those of *_to_u32 too, as RV64 has it. RV32 keeps the lower half.
* FMSUB, FNMSUB and FNMADD are *_fma with the sign bit of `c`, of `a`, or both flipped. FSGNJ* and FMV.* move bits and
  are not here.

Each function is one line: the operation for either format, found in the files beside this one, given a width.
"""

from core.cpu.softfloat.arithmetic import add, fused_multiply_add, multiply
from core.cpu.softfloat.compare import classify, equal, extremum, less, less_or_equal
from core.cpu.softfloat.convert import change_format, from_integer, to_integer
from core.cpu.softfloat.division import divide, square_root
from core.cpu.softfloat.format import F32, F64, sign_bit
from core.cpu.state import Hart
from native import fn, u32, u64


@fn
def fp32_add(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return add(hart, a, b, rm, F32)


@fn
def fp32_sub(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return add(hart, a, b ^ sign_bit(F32), rm, F32)


@fn
def fp32_mul(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return multiply(hart, a, b, rm, F32)


@fn
def fp32_div(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return divide(hart, a, b, rm, F32)


@fn
def fp32_sqrt(hart: Hart, a: u64, rm: u32) -> u64:
    return square_root(hart, a, rm, F32)


@fn
def fp32_fma(hart: Hart, a: u64, b: u64, c: u64, rm: u32) -> u64:
    return fused_multiply_add(hart, a, b, c, rm, F32)


@fn
def fp32_min(hart: Hart, a: u64, b: u64) -> u64:
    return extremum(hart, a, b, False, F32)


@fn
def fp32_max(hart: Hart, a: u64, b: u64) -> u64:
    return extremum(hart, a, b, True, F32)


@fn
def fp32_eq(hart: Hart, a: u64, b: u64) -> u64:
    return equal(hart, a, b, F32)


@fn
def fp32_lt(hart: Hart, a: u64, b: u64) -> u64:
    return less(hart, a, b, F32)


@fn
def fp32_le(hart: Hart, a: u64, b: u64) -> u64:
    return less_or_equal(hart, a, b, F32)


@fn
def fp32_classify(hart: Hart, a: u64) -> u64:
    return classify(a, F32)


@fn
def fp32_to_i32(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, True, 32, rm, F32)


@fn
def fp32_to_u32(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, False, 32, rm, F32)


@fn
def fp32_to_i64(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, True, 64, rm, F32)


@fn
def fp32_to_u64(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, False, 64, rm, F32)


@fn
def fp32_from_i32(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, True, 32, rm, F32)


@fn
def fp32_from_u32(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, False, 32, rm, F32)


@fn
def fp32_from_i64(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, True, 64, rm, F32)


@fn
def fp32_from_u64(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, False, 64, rm, F32)


@fn
def fp64_add(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return add(hart, a, b, rm, F64)


@fn
def fp64_sub(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return add(hart, a, b ^ sign_bit(F64), rm, F64)


@fn
def fp64_mul(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return multiply(hart, a, b, rm, F64)


@fn
def fp64_div(hart: Hart, a: u64, b: u64, rm: u32) -> u64:
    return divide(hart, a, b, rm, F64)


@fn
def fp64_sqrt(hart: Hart, a: u64, rm: u32) -> u64:
    return square_root(hart, a, rm, F64)


@fn
def fp64_fma(hart: Hart, a: u64, b: u64, c: u64, rm: u32) -> u64:
    return fused_multiply_add(hart, a, b, c, rm, F64)


@fn
def fp64_min(hart: Hart, a: u64, b: u64) -> u64:
    return extremum(hart, a, b, False, F64)


@fn
def fp64_max(hart: Hart, a: u64, b: u64) -> u64:
    return extremum(hart, a, b, True, F64)


@fn
def fp64_eq(hart: Hart, a: u64, b: u64) -> u64:
    return equal(hart, a, b, F64)


@fn
def fp64_lt(hart: Hart, a: u64, b: u64) -> u64:
    return less(hart, a, b, F64)


@fn
def fp64_le(hart: Hart, a: u64, b: u64) -> u64:
    return less_or_equal(hart, a, b, F64)


@fn
def fp64_classify(hart: Hart, a: u64) -> u64:
    return classify(a, F64)


@fn
def fp64_to_i32(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, True, 32, rm, F64)


@fn
def fp64_to_u32(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, False, 32, rm, F64)


@fn
def fp64_to_i64(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, True, 64, rm, F64)


@fn
def fp64_to_u64(hart: Hart, a: u64, rm: u32) -> u64:
    return to_integer(hart, a, False, 64, rm, F64)


@fn
def fp64_from_i32(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, True, 32, rm, F64)


@fn
def fp64_from_u32(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, False, 32, rm, F64)


@fn
def fp64_from_i64(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, True, 64, rm, F64)


@fn
def fp64_from_u64(hart: Hart, value: u64, rm: u32) -> u64:
    return from_integer(hart, value, False, 64, rm, F64)


@fn
def fp32_from_fp64(hart: Hart, a: u64, rm: u32) -> u64:
    return change_format(hart, a, rm, F64, F32)


@fn
def fp64_from_fp32(hart: Hart, a: u64, rm: u32) -> u64:
    return change_format(hart, a, rm, F32, F64)
