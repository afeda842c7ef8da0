"""Sleeping on a word of this process's memory, and waking who sleeps there: futex(2), private ones."""

from native import Record, fn, i64, local, sys, syscall, u32, u64

__all__ = ["SECOND_NS", "Timespec", "futex_wait", "futex_wake"]

FUTEX_WAIT_PRIVATE = sys.FUTEX_WAIT | sys.FUTEX_PRIVATE
FUTEX_WAKE_PRIVATE = sys.FUTEX_WAKE | sys.FUTEX_PRIVATE
EVERYBODY = 0x7FFFFFFF
SECOND_NS = 1_000_000_000


class Timespec(Record):
    """struct timespec of 64-bit Linux."""

    seconds: u64
    nanoseconds: u64


@fn
def futex_wait(address: u64, expected: u32, timeout_ns: u64) -> None:
    """Sleep while the word is `expected`, at most `timeout_ns`. May return early: the caller looks again."""
    timeout = local(Timespec)
    timeout.seconds = timeout_ns // SECOND_NS
    timeout.nanoseconds = timeout_ns % SECOND_NS
    syscall(sys.FUTEX, i64(address), FUTEX_WAIT_PRIVATE, i64(expected), i64(timeout.address), 0, 0)


@fn
def futex_wake(address: u64) -> None:
    """Wake everybody who sleeps on the word."""
    syscall(sys.FUTEX, i64(address), FUTEX_WAKE_PRIVATE, EVERYBODY, 0, 0, 0)
