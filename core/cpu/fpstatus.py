"""mstatus.FS, the state of the floating-point unit, as floating-point instructions see it (privileged ISA, 3.1.6.6)."""

from core.cpu.faults import raise_illegal
from core.cpu.state import Hart
from core.cpu.status import MSTATUS_FS
from native import fn


@fn(cold=True)
def require_fp(hart: Hart, dirty: bool) -> None:
    """Illegal instruction if FS is Off; else, with `dirty`, FS becomes Dirty."""
    if hart.mstatus & MSTATUS_FS == 0:
        raise_illegal(hart)
    elif dirty:
        hart.mstatus = hart.mstatus | MSTATUS_FS
