"""Operations of the language that take any integer type, as Python computes them."""

from typing import Any

__all__ = ["addressof", "tdiv", "trem"]


def tdiv(a: int, b: int) -> int:
    """Signed division that truncates towards zero (`//` rounds down, and is for unsigned types only)."""
    if b == 0:
        raise ZeroDivisionError(f"tdiv({a}, 0)")
    return -(abs(a) // abs(b)) if (a < 0) != (b < 0) else abs(a) // abs(b)


def trem(a: int, b: int) -> int:
    """The remainder of `tdiv`: it has the sign of `a`."""
    return a - b * tdiv(a, b)


def addressof(place: Any) -> int:
    """Where `record.field` or `record.field[i]` is. Only inside an `@fn`: Python passes the value, not the place.

    Outside, use `native.records.field_address(record, "field", index)`.
    """
    raise TypeError("addressof is understood inside an @fn only; outside, use field_address(record, 'field', index)")
