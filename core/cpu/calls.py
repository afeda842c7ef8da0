"""The native functions that generated code calls, by what it calls them for.

Each takes the hart first. Those that may trap leave `hart.trap` not zero; core/cpu/state.py says how that goes on.
"""

from __future__ import annotations

from typing import Any

from core.cpu import hostfloat, softfloat
from core.cpu.access import load_slow, store_slow
from core.cpu.atomic import amo_slow, load_reserved, store_conditional
from core.cpu.csr import CSR_CLEAR, CSR_SET, CSR_WRITE, csr_access
from core.cpu.decoder import decode_slot, decode_straddling
from core.cpu.faults import raise_illegal
from core.cpu.fetch import fetch_page
from core.cpu.fpstatus import require_fp
from core.cpu.hart import attend
from core.cpu.slots import do_fence_i
from core.cpu.traps import do_ebreak, do_ecall, do_mret, do_sfence_vma, do_sret, do_wfi, take_trap
from native import Function

AnyFunction = Function[..., Any]

ATTEND = attend
TAKE_TRAP = take_trap
RAISE_ILLEGAL = raise_illegal

FETCH_PAGE = fetch_page
DECODE_SLOT = decode_slot
DECODE_STRADDLING = decode_straddling

LOAD_SLOW = load_slow
STORE_SLOW = store_slow
AMO_SLOW = amo_slow
LOAD_RESERVED = load_reserved
STORE_CONDITIONAL = store_conditional

CSR_ACCESS = csr_access
CSR_OPERATIONS = {"write": CSR_WRITE, "set": CSR_SET, "clear": CSR_CLEAR}

# Instructions of the privileged architecture, by the name that the table gives them.
SYSTEM: dict[str, AnyFunction] = {
    "ecall": do_ecall,
    "ebreak": do_ebreak,
    "mret": do_mret,
    "sret": do_sret,
    "wfi": do_wfi,
    "fence.i": do_fence_i,
    "sfence.vma": do_sfence_vma,
}
CHANGES_PC = ("ecall", "mret", "sret")  # these leave hart.pc where to go on

REQUIRE_FP = require_fp
FP: dict[str, AnyFunction] = {
    name: function for name, function in vars(softfloat).items() if name.startswith("fp")
} | hostfloat.FAST


def all_calls() -> list[AnyFunction]:
    """Every function that generated code may call: a unit with such code must have them."""
    named = [value for name, value in globals().items() if name.isupper() and isinstance(value, Function)]
    return list(dict.fromkeys([*named, *SYSTEM.values(), *FP.values()]))
