"""Instruction fetch: from a pc to the slots of its page, and single halfwords where decoding needs them.

Code runs from RAM and ROM only; elsewhere it is an access fault (cause 1). Where memory protection divides a page, the
permission of the first instruction that a jump reaches is checked, not that of each one after it.
"""

from core.cpu.faults import raise_access_fault
from core.cpu.memory import NO_PAGE, page_host, page_number
from core.cpu.pmp import pmp_uniform
from core.cpu.slots import slots_of
from core.cpu.state import PAGE_MASK, Hart
from core.cpu.status import PMP_X
from core.cpu.tlb import enter_fetch
from core.cpu.walk import NO_ADDRESS, translate
from native import fn, load16, u64, wrap64


@fn
def fetch_page(hart: Hart, pc: u64) -> u64:
    """Address of the slots of the page of `pc`, now in the fetch TLB; 0: a trap is pending."""
    address = translate(hart, pc, 2, PMP_X)
    if address == NO_ADDRESS:
        return 0
    page = page_number(hart, address)
    if page == NO_PAGE:
        raise_access_fault(hart, pc, PMP_X)
        return 0
    slots = slots_of(hart, page)
    if pmp_uniform(hart, address):
        enter_fetch(hart, pc, slots)
    return slots


@fn
def fetch_parcel(hart: Hart, va: u64) -> u64:
    """The 16 bits of code at `va`; a trap may be pending afterwards."""
    address = translate(hart, va, 2, PMP_X)
    if address == NO_ADDRESS:
        return 0
    page = page_number(hart, address)
    if page == NO_PAGE:
        raise_access_fault(hart, va, PMP_X)
        return 0
    return u64(load16(page_host(hart, page) + (address & PAGE_MASK)))


@fn(cold=True)
def read_instruction(hart: Hart, pc: u64) -> u64:
    """The instruction at `pc`, which was just fetched, for mtval; leaves no trap."""
    trap = hart.trap
    tval = hart.tval
    bits = fetch_parcel(hart, pc)
    if bits & 3 == 3:
        bits = bits | fetch_parcel(hart, wrap64(pc + 2)) << 16
    hart.trap = trap
    hart.tval = tval
    return bits
