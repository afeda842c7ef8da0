"""Watchpoints of a debugger (debug.py): does an access run into one, does a page have one?"""

from core.cpu.state import PAGE_MASK, PAGE_SIZE, TRAP_DEBUG, WATCH_READ, WATCH_WRITE, Hart
from native import fn, u64, wrap64

WATCH_ANY = WATCH_READ | WATCH_WRITE


@fn(cold=True)
def watched(hart: Hart, va: u64, size: u64, access: u64) -> bool:
    """An access is about to happen: True when a watchpoint is in the way. Then a trap is pending that is none of the
    guest's."""
    if hart.watch_skip != 0:
        return False
    for index in range(hart.watch_count):
        watch = hart.watches[index]
        if watch.access & access != 0 and va <= watch.last and watch.first <= wrap64(va + size - 1):
            hart.watch_hit = va if va > watch.first else watch.first
            hart.watch_hit_access = watch.access
            hart.trap = TRAP_DEBUG
            return True
    return False


@fn(cold=True)
def watched_page(hart: Hart, va: u64) -> bool:
    """Is there a watchpoint in the page of `va`?"""
    first = va & ~PAGE_MASK
    for index in range(hart.watch_count):
        if hart.watches[index].first <= first + (PAGE_SIZE - 1) and first <= hart.watches[index].last:
            return True
    return False
