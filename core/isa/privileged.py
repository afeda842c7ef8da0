"""Zicsr, Zifencei and the privileged instructions (unprivileged ISA, 5 and 6; privileged ISA, 3.3 and 10.2)."""

from __future__ import annotations

from core.isa.builder import RD, RS1, RS2, AnyBuilder
from core.isa.instruction import Flow, Meaning, instruction

csr_row = instruction("Zicsr", Flow.SYSTEM)
system_row = instruction("Privileged", Flow.SYSTEM)


def _write_csr(b: AnyBuilder) -> None:
    """CSRRW and CSRRWI always write; they do not read if rd is x0."""
    b.write(b.csr("write", b.x(RS1), reads=b.is_not_x0(RD), writes=True))


def _write_csr_immediate(b: AnyBuilder) -> None:
    b.write(b.csr("write", b.number(RS1), reads=b.is_not_x0(RD), writes=True))


def _modify_csr(operation: str) -> Meaning:
    """CSRRS and CSRRC always read; they do not write if rs1 is x0, whatever a register holds."""
    return lambda b: b.write(b.csr(operation, b.x(RS1), reads=True, writes=b.is_not_x0(RS1)))


def _modify_csr_immediate(operation: str) -> Meaning:
    return lambda b: b.write(b.csr(operation, b.number(RS1), reads=True, writes=b.is_not_x0(RS1)))


def _system(name: str) -> Meaning:
    return lambda b: b.system(name)


INSTRUCTIONS = [
    csr_row("csrrw", "csr[11:0] rs1 001 rd 1110011", "rd, csr, rs1", _write_csr),
    csr_row("csrrs", "csr[11:0] rs1 010 rd 1110011", "rd, csr, rs1", _modify_csr("set")),
    csr_row("csrrc", "csr[11:0] rs1 011 rd 1110011", "rd, csr, rs1", _modify_csr("clear")),
    csr_row("csrrwi", "csr[11:0] zimm 101 rd 1110011", "rd, csr, zimm", _write_csr_immediate),
    csr_row("csrrsi", "csr[11:0] zimm 110 rd 1110011", "rd, csr, zimm", _modify_csr_immediate("set")),
    csr_row("csrrci", "csr[11:0] zimm 111 rd 1110011", "rd, csr, zimm", _modify_csr_immediate("clear")),
    instruction("Zifencei", Flow.SYSTEM)("fence.i", "------------ ----- 001 ----- 0001111", "", _system("fence.i")),
    system_row("sret", "0001000 00010 00000 000 00000 1110011", "", _system("sret")),
    system_row("mret", "0011000 00010 00000 000 00000 1110011", "", _system("mret")),
    system_row("wfi", "0001000 00101 00000 000 00000 1110011", "", _system("wfi")),
    system_row(
        "sfence.vma",
        "0001001 rs2 rs1 000 00000 1110011",
        "rs1, rs2",
        lambda b: b.system("sfence.vma", b.x(RS1), b.number(RS1), b.x(RS2), b.number(RS2)),
    ),
]
