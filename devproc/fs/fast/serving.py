"""The loop around the machine code of a protocol, and data between files and the guest's memory."""

from __future__ import annotations

from collections.abc import Callable

from devproc.fs.fast.shared import Share
from devproc.loop import Loop, Reason, begin_turn, flush_and_call, lie_down, pop_now, put_now, rest, stop_ring
from native import addressof, fn, i64, monotonic_ns, sys, syscall, u32, u64
from proto.ring import Chain, Pop, Ring, chain_iovec

__all__ = ["LAST", "serving", "transfer"]

BATCH = 64  # requests taken from one queue before the next is looked at
LAST = 0x7FFFFFFFFFFFFFFF  # byte of a file
Serve = Callable[[Share, Chain, int], bool]


@fn
def transfer(share: Share, chain: Chain, reading: bool, fd: u64, at: u64, size: u64, position: u64) -> i64:
    """Move bytes between a file and the writable (`reading`) or the readable part of a chain, where `size` of them must
    be there from `at` on. How many were moved, or an errno below 0."""
    if size == 0:
        return 0
    iovec: u64 = addressof(share.iovec[0])
    count: u32 = chain_iovec(chain, reading, at, size, iovec)
    number: u64 = sys.PREADV if reading else sys.PWRITEV
    return syscall(number, fd, iovec, u64(count), position, 0, 0)


def serving(serve: Serve) -> tuple[Callable[[Loop, Share, Ring], int], Callable[[Loop, Share, int], int]]:
    """Two functions around `serve`, an @fn that answers the request in a chain, if it is one of machine code's:
    `ring_pop` for Python, and the loop."""

    @fn
    def pop(loop: Loop, share: Share, ring: Ring) -> u32:
        chain = Chain(share.chain)
        if share.pending == ring.queue + 1:
            share.pending = 0
            return Pop.CHAIN
        for _ in range(u32(BATCH)):
            found: u32 = pop_now(ring, chain)
            if found != Pop.CHAIN or not serve(share, chain, ring.queue):
                return found
            share.served = share.served + 1
            put_now(ring, chain, share.written, 0)
            flush_and_call(loop, ring)
        return Pop.EMPTY

    @fn
    def run(loop: Loop, share: Share, service_ns: u64) -> u32:
        begin_turn(loop, service_ns)
        while True:
            before: u64 = share.served
            for number in range(loop.count):
                ring = Ring(loop.rings[number])
                found: u32 = pop(loop, share, ring)
                if found == Pop.CHAIN:
                    share.pending = ring.queue + 1
                    loop.ready = u32(1) << ring.queue  # no other: the chain has one place, and this request is in it
                    return Reason.WORK
                if found == Pop.BROKEN:
                    stop_ring(loop, ring)
            if loop.broken != 0:
                return Reason.BROKEN
            if loop.calls != 0:
                return Reason.SLEEP if loop.spinning == 0 and lie_down(loop) else Reason.CALL
            if share.served != before:
                if monotonic_ns() > loop.deadline:
                    return Reason.SERVICE
            elif rest(loop):
                return Reason.SLEEP

    return pop, run
