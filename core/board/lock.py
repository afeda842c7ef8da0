"""Locks and waits between harts and the link thread: futexes, always with a deadline where somebody else must act.

The lock is U. Drepper's three-state mutex ("Futexes Are Tricky", 2011, section 6): 0 free, 1 held, 2 held and somebody
waits. Its critical sections are a few dozen instructions and never wait for a device.
"""

from native import atomic_cas32, atomic_swap32, fn, monotonic_ns, u32, u64
from native.futex import SECOND_NS, futex_wait, futex_wake

PATIENCE_NS = 50_000_000


@fn(inline=True)
def lock(address: u64) -> None:
    """Take the lock whose word is at `address`."""
    if atomic_cas32(address, 0, 1) != 0:
        lock_slow(address)


@fn(cold=True)
def lock_slow(address: u64) -> None:
    """Somebody holds it: say that we wait, and sleep until it may be free."""
    while atomic_swap32(address, 2) != 0:
        futex_wait(address, 2, SECOND_NS)


@fn(inline=True)
def unlock(address: u64) -> None:
    """Give it back, and wake who waits."""
    if atomic_swap32(address, 0) == 2:
        futex_wake(address)


@fn
def wait_while(address: u64, old: u32, deadline_ns: u64) -> bool:
    """Sleep once while the word is `old`; the caller looks at everything again. False: `deadline_ns` has passed.

    No sleep is longer than PATIENCE_NS: an order to stop changes another word, and may come just before the sleep.
    """
    now = monotonic_ns()
    if now >= deadline_ns:
        return False
    left: u64 = deadline_ns - now
    futex_wait(address, old, left if left < PATIENCE_NS else PATIENCE_NS)
    return True
