"""Raising an exception: the cause and what mtval shall say, left in the hart for `take_trap`.

A kind of access is PMP_R, PMP_W or PMP_X; AMOs and SC are stores (privileged ISA, table 14).
"""

from core.cpu.state import Hart
from core.cpu.status import (
    CAUSE_FETCH_ACCESS,
    CAUSE_FETCH_PAGE,
    CAUSE_ILLEGAL,
    CAUSE_LOAD_ACCESS,
    CAUSE_LOAD_PAGE,
    CAUSE_STORE_ACCESS,
    CAUSE_STORE_PAGE,
    PMP_R,
    PMP_X,
)
from native import fn, u64


@fn
def raise_exception(hart: Hart, cause: u64, tval: u64) -> None:
    hart.trap = cause + 1
    hart.tval = tval


@fn
def raise_illegal(hart: Hart) -> None:
    """Illegal instruction; `take_trap` reads the instruction for mtval."""
    raise_exception(hart, CAUSE_ILLEGAL, 0)


@fn
def raise_access_fault(hart: Hart, va: u64, access: u64) -> None:
    cause: u64 = CAUSE_STORE_ACCESS
    if access == PMP_R:
        cause = CAUSE_LOAD_ACCESS
    elif access == PMP_X:
        cause = CAUSE_FETCH_ACCESS
    raise_exception(hart, cause, va)


@fn
def raise_page_fault(hart: Hart, va: u64, access: u64) -> None:
    cause: u64 = CAUSE_STORE_PAGE
    if access == PMP_R:
        cause = CAUSE_LOAD_PAGE
    elif access == PMP_X:
        cause = CAUSE_FETCH_PAGE
    raise_exception(hart, cause, va)
