"""Numbers of the SBI specification 2.0 that more than one module needs: extensions, errors, argument registers."""

from enum import IntEnum

from core.cpu.state import Hart
from native import fn, u64

A0, A1, A2, A6, A7 = 10, 11, 12, 16, 17  # numbers of the argument registers
TWO_TO_64 = 1 << 64


class Extension(IntEnum):
    """Extension identifiers that the built-in SBI answers."""

    LEGACY_SET_TIMER = 0x00
    LEGACY_PUTCHAR = 0x01
    LEGACY_GETCHAR = 0x02
    LEGACY_CLEAR_IPI = 0x03
    LEGACY_SEND_IPI = 0x04
    LEGACY_FENCE_I = 0x05
    LEGACY_SFENCE_VMA = 0x06
    LEGACY_SFENCE_VMA_ASID = 0x07
    LEGACY_SHUTDOWN = 0x08
    BASE = 0x10
    TIME = 0x54494D45
    IPI = 0x735049
    RFENCE = 0x52464E43
    HSM = 0x48534D
    SRST = 0x53525354
    DBCN = 0x4442434E


class SbiError(IntEnum):
    """Standard error codes (3), as 64-bit two's complement."""

    SUCCESS = 0
    FAILED = TWO_TO_64 - 1
    NOT_SUPPORTED = TWO_TO_64 - 2
    INVALID_PARAM = TWO_TO_64 - 3
    DENIED = TWO_TO_64 - 4
    INVALID_ADDRESS = TWO_TO_64 - 5
    ALREADY_AVAILABLE = TWO_TO_64 - 6
    ALREADY_STARTED = TWO_TO_64 - 7
    ALREADY_STOPPED = TWO_TO_64 - 8


@fn
def answer(hart: Hart, error: u64) -> None:
    """Return an error code, and 0 as the value."""
    hart.x[A0] = error
    hart.x[A1] = 0


@fn
def answer_value(hart: Hart, value: u64) -> None:
    """Return success and a value."""
    hart.x[A0] = 0
    hart.x[A1] = value
