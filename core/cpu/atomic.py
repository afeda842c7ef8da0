"""The A extension where it misses the TLBs, and LR/SC always (unprivileged ISA, chapter 13).

Atomics work in RAM only, and aligned; elsewhere they are access faults, those of AMOs and SC being store faults. A
reservation is an address, a width and the value that was read: SC is a compare-and-swap with that value. A location
that was changed and changed back between LR and SC therefore lets the SC succeed, which real hardware would not.
"""

from core.cpu.access import admit_store, after_store, find_load, find_store
from core.cpu.faults import raise_access_fault
from core.cpu.memory import host_of
from core.cpu.pmp import pmp_uniform
from core.cpu.state import WATCH_READ, WATCH_WRITE, Hart
from core.cpu.status import PMP_R, PMP_W
from core.cpu.tlb import enter_load
from core.cpu.walk import NO_ADDRESS, translate
from core.cpu.watch import WATCH_ANY, watched
from core.isa.builder import AMO_OPERATIONS
from native import (
    atomic_add32,
    atomic_add64,
    atomic_and32,
    atomic_and64,
    atomic_cas32,
    atomic_cas64,
    atomic_max32,
    atomic_max64,
    atomic_maxu32,
    atomic_maxu64,
    atomic_min32,
    atomic_min64,
    atomic_minu32,
    atomic_minu64,
    atomic_or32,
    atomic_or64,
    atomic_swap32,
    atomic_swap64,
    atomic_xor32,
    atomic_xor64,
    fence,
    fn,
    load32,
    load64,
    u64,
    wrap32,
)

AMO_ADD = AMO_OPERATIONS.index("add")
AMO_SWAP = AMO_OPERATIONS.index("xchg")
AMO_XOR = AMO_OPERATIONS.index("xor")
AMO_OR = AMO_OPERATIONS.index("or")
AMO_AND = AMO_OPERATIONS.index("and")
AMO_MIN = AMO_OPERATIONS.index("min")
AMO_MAX = AMO_OPERATIONS.index("max")
AMO_MINU = AMO_OPERATIONS.index("umin")
AMO_MAXU = AMO_OPERATIONS.index("umax")


@fn
def load_reserved(hart: Hart, va: u64, size: u64) -> u64:
    """LR.W, LR.D: the value, zero-extended; the reservation is the hart's only one."""
    if hart.watch_count != 0 and watched(hart, va, size, WATCH_READ):
        return 0
    host = find_load(hart, va)
    if host == 0 or va & (size - 1) != 0:
        host = atomic_host(hart, va, size, PMP_R)
        if host == 0:
            return 0
    fence()
    value = load64(host) if size == 8 else u64(load32(host))
    fence()
    hart.reserved_width = size
    hart.reserved_va = va
    hart.reserved_host = host
    hart.reserved_value = value
    return value


@fn
def store_conditional(hart: Hart, va: u64, size: u64, value: u64) -> u64:
    """SC.W, SC.D: 0 if it stored, else 1. Either way the reservation is gone."""
    if hart.watch_count != 0 and watched(hart, va, size, WATCH_WRITE):
        return 0
    reserved = hart.reserved_width == size and hart.reserved_va == va
    hart.reserved_width = 0
    host = find_store(hart, va)
    if host == 0 or va & (size - 1) != 0:
        host = atomic_host(hart, va, size, PMP_W)
        if host == 0:
            return 0
    if not reserved or host != hart.reserved_host or not swap_reserved(hart, host, size, value):
        return 1
    after_store(hart, host, size)
    return 0


@fn(inline=True)
def swap_reserved(hart: Hart, host: u64, size: u64, value: u64) -> bool:
    """Replace the reserved value, if it is still there."""
    expected = hart.reserved_value
    if size == 8:
        return atomic_cas64(host, expected, value) == expected
    return atomic_cas32(host, wrap32(expected), wrap32(value)) == wrap32(expected)


@fn
def amo_slow(hart: Hart, va: u64, operation: u64, size: u64, value: u64) -> u64:
    """An AMO; the old value, zero-extended. `operation`: its index in AMO_OPERATIONS."""
    if hart.watch_count != 0 and watched(hart, va, size, WATCH_ANY):
        return 0
    host = find_store(hart, va)
    if host == 0 or va & (size - 1) != 0:
        host = atomic_host(hart, va, size, PMP_W)
        if host == 0:
            return 0
    old = amo64(host, operation, value) if size == 8 else amo32(host, operation, value)
    after_store(hart, host, size)
    return old


@fn
def atomic_host(hart: Hart, va: u64, size: u64, access: u64) -> u64:
    """Host address for an atomic access; 0: a trap is pending."""
    if va & (size - 1) != 0:
        raise_access_fault(hart, va, access)
        return 0
    address = translate(hart, va, size, access)
    if address == NO_ADDRESS:
        return 0
    host = host_of(hart, address, size)
    if host == 0:
        raise_access_fault(hart, va, access)
    elif access == PMP_W:
        admit_store(hart, va, address, host)
    elif pmp_uniform(hart, address):
        enter_load(hart, va, host)
    return host


@fn
def amo32(host: u64, operation: u64, operand: u64) -> u64:
    value = wrap32(operand)
    if operation == AMO_ADD:
        return u64(atomic_add32(host, value))
    if operation == AMO_SWAP:
        return u64(atomic_swap32(host, value))
    if operation == AMO_XOR:
        return u64(atomic_xor32(host, value))
    if operation == AMO_OR:
        return u64(atomic_or32(host, value))
    if operation == AMO_AND:
        return u64(atomic_and32(host, value))
    if operation == AMO_MIN:
        return u64(atomic_min32(host, value))
    if operation == AMO_MAX:
        return u64(atomic_max32(host, value))
    if operation == AMO_MINU:
        return u64(atomic_minu32(host, value))
    return u64(atomic_maxu32(host, value))


@fn
def amo64(host: u64, operation: u64, value: u64) -> u64:
    if operation == AMO_ADD:
        return atomic_add64(host, value)
    if operation == AMO_SWAP:
        return atomic_swap64(host, value)
    if operation == AMO_XOR:
        return atomic_xor64(host, value)
    if operation == AMO_OR:
        return atomic_or64(host, value)
    if operation == AMO_AND:
        return atomic_and64(host, value)
    if operation == AMO_MIN:
        return atomic_min64(host, value)
    if operation == AMO_MAX:
        return atomic_max64(host, value)
    if operation == AMO_MINU:
        return atomic_minu64(host, value)
    return atomic_maxu64(host, value)
