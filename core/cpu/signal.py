"""Signals to a hart from other threads: interrupt lines, requests of other harts, control by the process.

All but the last three functions may be called from any thread, and none but the last blocks. A hart asleep in WFI is
woken through the futex word `wake`: whoever signals changes the hart's state first, then looks at `parked`; the hart
sets `parked`, then looks at its state; both with a full fence between.
"""

from core.cpu.state import (
    ATTENTION_CONTROL,
    ATTENTION_INTERRUPT,
    ATTENTION_REQUEST,
    Hart,
)
from native import (
    addressof,
    atomic_add32,
    atomic_add64,
    atomic_and32,
    atomic_and64,
    atomic_or32,
    atomic_or64,
    fence,
    fn,
    i64,
    local,
    sys,
    syscall,
    u32,
    u64,
)
from native.futex import SECOND_NS, Timespec, futex_wake

FUTEX_WAIT_BITSET_PRIVATE = sys.FUTEX_WAIT_BITSET | sys.FUTEX_PRIVATE
NEVER = 0xFFFF_FFFF_FFFF_FFFF


@fn
def notify_hart(hart: Hart) -> None:
    """Have the hart look at its interrupts now."""
    call_attention(hart, ATTENTION_INTERRUPT)


@fn
def call_attention(hart: Hart, reason: u64) -> None:
    atomic_or64(addressof(hart.attention), reason)
    fence()
    if hart.parked != 0:
        atomic_add32(addressof(hart.wake), 1)
        futex_wake(addressof(hart.wake))


@fn
def set_mip(hart: Hart, bits: u64) -> None:
    """Raise interrupt lines of the hart (bits of mip)."""
    if atomic_or64(addressof(hart.mip), bits) & bits != bits:
        notify_hart(hart)


@fn
def clear_mip(hart: Hart, bits: u64) -> None:
    """Lower interrupt lines of the hart. One that the hart is just taking may still be taken."""
    atomic_and64(addressof(hart.mip), ~bits)


@fn
def control_hart(hart: Hart, bits: u32) -> None:
    """Ask the hart to pause or to leave run_hart (CONTROL_*)."""
    atomic_or32(addressof(hart.control), bits)
    call_attention(hart, ATTENTION_CONTROL)


@fn
def release_hart(hart: Hart, bits: u32) -> None:
    """Take back what control_hart asked: a paused hart goes on."""
    atomic_and32(addressof(hart.control), ~bits)
    call_attention(hart, ATTENTION_CONTROL)


@fn
def post_request(hart: Hart, requests: u32) -> u64:
    """Ask the hart to do something before its next instruction. Its number, for request_served."""
    atomic_or32(addressof(hart.requests), requests)
    number = atomic_add64(addressof(hart.requests_made), 1) + 1
    call_attention(hart, ATTENTION_REQUEST)
    return number


@fn
def request_served(hart: Hart, number: u64) -> bool:
    """Has the hart served that request? A parked hart counts: it will have before it runs guest code again."""
    return hart.requests_served >= number or hart.parked != 0


@fn
def park(hart: Hart) -> u32:
    """The hart's own thread is about to sleep. The value of `wake` to sleep on, once there is still nothing to do."""
    value = hart.wake
    hart.parked = 1
    fence()
    return value


@fn
def unpark(hart: Hart) -> None:
    """The hart's own thread goes on; it must look at its requests before it runs guest code."""
    hart.parked = 0
    fence()


@fn
def sleep_until(hart: Hart, wake: u32, deadline_ns: u64) -> None:
    """Sleep until `wake` changes or CLOCK_MONOTONIC reaches the deadline (all ones: no deadline); may return early."""
    timeout: u64 = 0
    time = local(Timespec)
    if deadline_ns != NEVER:
        time.seconds = deadline_ns // SECOND_NS
        time.nanoseconds = deadline_ns % SECOND_NS
        timeout = time.address
    syscall(
        sys.FUTEX,
        i64(addressof(hart.wake)),
        FUTEX_WAIT_BITSET_PRIVATE,
        i64(wake),
        i64(timeout),
        0,
        sys.FUTEX_BITSET_MATCH_ANY,
    )
