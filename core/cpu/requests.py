"""What harts ask of one another, and wait for: remote fences (the SBI's RFENCE), and letting go of pages to decode.

A request is served by the target before its next guest instruction. A hart that waits serves its own meanwhile, so two
that ask each other do not wait for ever. Targets that are parked count as having served (signal.py).
"""

from core.cpu.signal import post_request, request_served
from core.cpu.state import (
    ATTENTION_FENCE_I,
    REQUEST_DROP_STORES,
    REQUEST_FENCE_I,
    REQUEST_FLUSH_TLB,
    Hart,
)
from core.cpu.tlb import flush_stores, flush_translations
from native import addressof, atomic_or64, atomic_swap32, fence, fn, load64, pause, u32, u64


@fn
def serve_requests(hart: Hart) -> None:
    """Do what others asked for. Called by the hart's own thread, between instructions."""
    made = hart.requests_made
    requests = atomic_swap32(addressof(hart.requests), 0)
    if requests & REQUEST_FLUSH_TLB != 0:
        flush_translations(hart)
    if requests & REQUEST_DROP_STORES != 0:
        flush_stores(hart)
    if requests & REQUEST_FENCE_I != 0:
        # slots.py does it, in attend; nobody can tell that it comes after the answer
        atomic_or64(addressof(hart.attention), ATTENTION_FENCE_I)
    fence()
    hart.requests_served = made


@fn
def request_others(hart: Hart, harts: u64, requests: u32) -> None:
    """Ask every other hart whose bit is set in `harts`, and wait until all have served."""
    others = harts & ~hart.peer_bit
    for index in range(hart.peer_count):
        if others >> index & 1 != 0:
            peer = Hart(load64(hart.peers + 8 * index))
            number = post_request(peer, requests)
            while not request_served(peer, number):
                serve_requests(hart)
                pause()


@fn
def ask_others(hart: Hart, harts: u64, requests: u32) -> None:
    """Ask every other hart whose bit is set in `harts`, and do not wait."""
    others = harts & ~hart.peer_bit
    for index in range(hart.peer_count):
        if others >> index & 1 != 0:
            post_request(Hart(load64(hart.peers + 8 * index)), requests)
