"""The types of values: integers of declared width and sign. (`bool` and record pointers are the others.)

For a type checker each of them is plain `int`. At run time each is an `IntType`, and calling it is the checked
conversion: `u8(300)` raises OverflowError. `wrap32(x)` and `signed32(x)` keep the low bits instead; inside a compiled
function they make the whole `+ - * << & | ^ ~` tree in their parentheses modular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

__all__ = [
    "INT_TYPES",
    "IntType",
    "Modular",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "signed8",
    "signed16",
    "signed32",
    "signed64",
    "signed128",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "wrap8",
    "wrap16",
    "wrap32",
    "wrap64",
    "wrap128",
]


@dataclass(frozen=True, eq=False)
class IntType:
    """An integer type. There is one object a type, so `is` compares them."""

    name: str
    bits: int
    signed: bool
    minimum: int
    maximum: int

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.bits // 8

    def fits(self, value: int) -> bool:
        return self.minimum <= value <= self.maximum

    def wrap(self, value: int) -> int:
        """The value of this type that equals `value` modulo 2**bits."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if value > self.maximum else value

    def __call__(self, value: int) -> int:
        """Checked conversion; a bool becomes 0 or 1."""
        if self.minimum <= value <= self.maximum:
            return int(value)
        raise OverflowError(f"{value} does not fit {self.name}")

    def __repr__(self) -> str:
        return self.name


def _int_type(bits: int, signed: bool) -> IntType:
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    return IntType(f"{'i' if signed else 'u'}{bits}", bits, signed, low, high)


U8, U16, U32, U64, U128 = (_int_type(bits, signed=False) for bits in (8, 16, 32, 64, 128))
I8, I16, I32, I64, I128 = (_int_type(bits, signed=True) for bits in (8, 16, 32, 64, 128))
INT_TYPES = {t.name: t for t in (U8, U16, U32, U64, U128, I8, I16, I32, I64, I128)}


@dataclass(frozen=True, eq=False)
class Modular:
    """`wrapN` and `signedN`: the low bits, as an unsigned or a two's complement number."""

    name: str
    type: IntType

    def __call__(self, value: int) -> int:
        return self.type.wrap(value)

    def __repr__(self) -> str:
        return self.name


wrap8, wrap16, wrap32, wrap64, wrap128 = (Modular(f"wrap{t.bits}", t) for t in (U8, U16, U32, U64, U128))
signed8, signed16, signed32, signed64, signed128 = (Modular(f"signed{t.bits}", t) for t in (I8, I16, I32, I64, I128))

if TYPE_CHECKING:
    u8: TypeAlias = int
    u16: TypeAlias = int
    u32: TypeAlias = int
    u64: TypeAlias = int
    u128: TypeAlias = int
    i8: TypeAlias = int
    i16: TypeAlias = int
    i32: TypeAlias = int
    i64: TypeAlias = int
    i128: TypeAlias = int
else:
    u8, u16, u32, u64, u128 = U8, U16, U32, U64, U128
    i8, i16, i32, i64, i128 = I8, I16, I32, I64, I128
