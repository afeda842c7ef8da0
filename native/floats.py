"""The host's floating point on bit patterns, as the Python run computes it.

Rounding is to nearest, ties to even; no flags. binary32 operations are computed in binary64 and rounded once more,
which is exact for + - * / and square root (binary64 has more than 2p+2 digits); fma comes from libm. When a result is
a NaN, which NaN it is is not specified: machine code may give another one.
"""

import ctypes
import math
import struct

__all__ = [
    "bits_from_float32",
    "bits_from_float64",
    "divide",
    "float32_from_bits",
    "float64_from_bits",
    "fma32",
    "fma64",
]
__all__ += ["root", "round_integer", "truncate"]

_libm = ctypes.CDLL("libm.so.6")
_libm.fma.restype = ctypes.c_double
_libm.fma.argtypes = [ctypes.c_double] * 3
_libm.fmaf.restype = ctypes.c_float
_libm.fmaf.argtypes = [ctypes.c_float] * 3


def float64_from_bits(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def bits_from_float64(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def float32_from_bits(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def bits_from_float32(value: float) -> int:
    """Round a binary64 to binary32; too large becomes infinity (struct would raise)."""
    return int.from_bytes(bytes(ctypes.c_float(value)), "little")


def divide(a: float, b: float) -> float:
    """IEEE division: by zero gives infinity or NaN."""
    if b != 0.0 or math.isnan(b):
        return a / b
    if a == 0.0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def root(a: float) -> float:
    """IEEE square root: of a negative number gives NaN."""
    return math.sqrt(a) if a >= 0.0 else (a if a == 0.0 else math.nan)


def fma64(a: float, b: float, c: float) -> float:
    return float(_libm.fma(a, b, c))


def fma32(a: float, b: float, c: float) -> float:
    return float(_libm.fmaf(a, b, c))


def round_integer(value: int, digits: int) -> int:
    """Round to `digits` binary digits, ties to even: what a conversion to binary32 (24) keeps."""
    excess = abs(value).bit_length() - digits
    if excess <= 0:
        return value
    kept, rest, half = abs(value) >> excess, abs(value) & ((1 << excess) - 1), 1 << (excess - 1)
    if rest > half or (rest == half and kept & 1):
        kept += 1
    return (kept << excess) * (-1 if value < 0 else 1)


def truncate(value: float) -> int:
    """Towards zero; OverflowError for infinities and NaN."""
    if not math.isfinite(value):
        raise OverflowError(f"{value} is not an integer")
    return int(value)
