"""The C extension: 16-bit encodings of common instructions (unprivileged ISA, chapter 26, tables 26.2 to 26.6).

Each is another instruction with some operands left out; encodings that are not here are illegal. What the manual calls
a HINT (a result thrown away into x0) is the instruction itself.
"""

from __future__ import annotations

from core.isa.encoding import parse
from core.isa.instruction import BOTH, Compressed

RV32, RV64 = (32,), (64,)
SP = {"rs1": 2}
SP_SP = {"rd": 2, "rs1": 2}


def _row(
    name: str,
    encoding: str,
    syntax: str,
    expands: str,
    implied: dict[str, int] | None = None,
    xlens: tuple[int, ...] = BOTH,
) -> Compressed:
    extension = "C" if not expands.startswith(("fl", "fs")) else f"C with {'F' if expands.endswith('w') else 'D'}"
    return Compressed(name, parse(encoding, **(implied or {})), syntax, expands, extension, xlens)


COMPRESSED = [
    # quadrant 0
    _row("c.addi4spn", "000 nzuimm[5:4|9:6|2|3] rd' 00", "rd, sp, imm", "addi", SP),
    _row("c.fld", "001 uimm[5:3] rs1' uimm[7:6] rd' 00", "frd, imm(rs1)", "fld"),
    _row("c.lw", "010 uimm[5:3] rs1' uimm[2|6] rd' 00", "rd, imm(rs1)", "lw"),
    _row("c.flw", "011 uimm[5:3] rs1' uimm[2|6] rd' 00", "frd, imm(rs1)", "flw", xlens=RV32),
    _row("c.ld", "011 uimm[5:3] rs1' uimm[7:6] rd' 00", "rd, imm(rs1)", "ld", xlens=RV64),
    _row("c.fsd", "101 uimm[5:3] rs1' uimm[7:6] rs2' 00", "frs2, imm(rs1)", "fsd"),
    _row("c.sw", "110 uimm[5:3] rs1' uimm[2|6] rs2' 00", "rs2, imm(rs1)", "sw"),
    _row("c.fsw", "111 uimm[5:3] rs1' uimm[2|6] rs2' 00", "frs2, imm(rs1)", "fsw", xlens=RV32),
    _row("c.sd", "111 uimm[5:3] rs1' uimm[7:6] rs2' 00", "rs2, imm(rs1)", "sd", xlens=RV64),
    # quadrant 1
    _row("c.addi", "000 imm[5] rd/rs1 imm[4:0] 01", "rd, imm", "addi"),
    _row("c.jal", "001 imm[11|4|9:8|10|6|7|3:1|5] 01", "pc+imm", "jal", {"rd": 1}, RV32),
    _row("c.addiw", "001 imm[5] rd/rs1!=0 imm[4:0] 01", "rd, imm", "addiw", xlens=RV64),
    _row("c.li", "010 imm[5] rd imm[4:0] 01", "rd, imm", "addi", {"rs1": 0}),
    _row("c.addi16sp", "011 nzimm[9] 00010 nzimm[4|6|8:7|5] 01", "sp, imm", "addi", SP_SP),
    _row("c.lui", "011 nzimm[17] rd!=2 nzimm[16:12] 01", "rd, upper", "lui"),
    _row("c.srli", "100 shamt[5] 00 rd'/rs1' shamt[4:0] 01", "rd, shamt", "srli", xlens=RV64),
    _row("c.srai", "100 shamt[5] 01 rd'/rs1' shamt[4:0] 01", "rd, shamt", "srai", xlens=RV64),
    _row("c.srli", "100 0 00 rd'/rs1' shamt[4:0] 01", "rd, shamt", "srli", xlens=RV32),
    _row("c.srai", "100 0 01 rd'/rs1' shamt[4:0] 01", "rd, shamt", "srai", xlens=RV32),
    _row("c.andi", "100 imm[5] 10 rd'/rs1' imm[4:0] 01", "rd, imm", "andi"),
    _row("c.sub", "100 0 11 rd'/rs1' 00 rs2' 01", "rd, rs2", "sub"),
    _row("c.xor", "100 0 11 rd'/rs1' 01 rs2' 01", "rd, rs2", "xor"),
    _row("c.or", "100 0 11 rd'/rs1' 10 rs2' 01", "rd, rs2", "or"),
    _row("c.and", "100 0 11 rd'/rs1' 11 rs2' 01", "rd, rs2", "and"),
    _row("c.subw", "100 1 11 rd'/rs1' 00 rs2' 01", "rd, rs2", "subw", xlens=RV64),
    _row("c.addw", "100 1 11 rd'/rs1' 01 rs2' 01", "rd, rs2", "addw", xlens=RV64),
    _row("c.j", "101 imm[11|4|9:8|10|6|7|3:1|5] 01", "pc+imm", "jal", {"rd": 0}),
    _row("c.beqz", "110 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", "rs1, pc+imm", "beq", {"rs2": 0}),
    _row("c.bnez", "111 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", "rs1, pc+imm", "bne", {"rs2": 0}),
    # quadrant 2
    _row("c.slli", "000 shamt[5] rd/rs1 shamt[4:0] 10", "rd, shamt", "slli", xlens=RV64),
    _row("c.slli", "000 0 rd/rs1 shamt[4:0] 10", "rd, shamt", "slli", xlens=RV32),
    _row("c.fldsp", "001 uimm[5] rd uimm[4:3|8:6] 10", "frd, imm(sp)", "fld", SP),
    _row("c.lwsp", "010 uimm[5] rd!=0 uimm[4:2|7:6] 10", "rd, imm(sp)", "lw", SP),
    _row("c.flwsp", "011 uimm[5] rd uimm[4:2|7:6] 10", "frd, imm(sp)", "flw", SP, RV32),
    _row("c.ldsp", "011 uimm[5] rd!=0 uimm[4:3|8:6] 10", "rd, imm(sp)", "ld", SP, RV64),
    _row("c.jr", "100 0 rs1!=0 00000 10", "rs1", "jalr", {"rd": 0, "imm": 0}),
    _row("c.mv", "100 0 rd rs2!=0 10", "rd, rs2", "add", {"rs1": 0}),
    _row("c.ebreak", "100 1 00000 00000 10", "", "ebreak"),
    _row("c.jalr", "100 1 rs1!=0 00000 10", "rs1", "jalr", {"rd": 1, "imm": 0}),
    _row("c.add", "100 1 rd/rs1 rs2!=0 10", "rd, rs2", "add"),
    _row("c.fsdsp", "101 uimm[5:3|8:6] rs2 10", "frs2, imm(sp)", "fsd", SP),
    _row("c.swsp", "110 uimm[5:2|7:6] rs2 10", "rs2, imm(sp)", "sw", SP),
    _row("c.fswsp", "111 uimm[5:2|7:6] rs2 10", "frs2, imm(sp)", "fsw", SP, RV32),
    _row("c.sdsp", "111 uimm[5:3|8:6] rs2 10", "rs2, imm(sp)", "sd", SP, RV64),
]
