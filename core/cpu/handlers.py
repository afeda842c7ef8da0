"""Which handlers the interpreter has, and their numbers: what its builder and its decoder agree on.

An instruction has one handler for each length it is encoded in, and for what is worth knowing when it is decoded, its
variant: whether a branch stays in its page, so that it needs no translation; whether rd is x0; whether the rounding
mode is dynamic.
"""

from __future__ import annotations

from core.cpu.state import SLOT_SIZE
from core.isa.instruction import Flow, Instruction

SCALE = SLOT_SIZE // 2  # bytes of slots for a byte of code
ZERO_SINK = 32  # what a slot has as rd for x0

# Bits of a variant's number.
FAR = 1  # the target at pc + imm is in another page; if not, the slot's immediate is scaled by SCALE
DISCARD = 2  # rd is x0
DYNAMIC = 1  # the rounding mode is frm's
VARIANTS = 4  # numbers set aside for each instruction and length

# Handlers that are no instruction.
H_DECODE, H_CROSS, H_STRADDLE, H_ILLEGAL, H_TRAP, H_RESUME = SPECIAL = (
    "h_decode",
    "h_cross",
    "h_straddle",
    "h_illegal",
    "h_trap",
    "h_resume",
)


def variants(instruction: Instruction) -> tuple[int, ...]:
    """The variants an instruction has."""
    if instruction.flow is Flow.BRANCH:
        return (0, FAR)
    if instruction.flow is Flow.JUMP:
        return (0, FAR, DISCARD, FAR | DISCARD)
    if instruction.flow is Flow.INDIRECT:
        return (0, DISCARD)
    if instruction.has_rounding_mode:
        return (0, DYNAMIC)
    return (0,)


def handler_number(index: int, length: int, variant: int) -> int:
    """Number of the handler for the instruction with this index in the table."""
    return len(SPECIAL) + (index * 2 + (length // 2 - 1)) * VARIANTS + variant
