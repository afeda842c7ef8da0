"""RV32I and RV64I: the base integer instructions (unprivileged ISA, chapters 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable

from core.isa.builder import RS1, RS2, AnyBuilder, AnyValue, Argument
from core.isa.instruction import Flow, Meaning, instruction

row = instruction("I")
row64 = instruction("I", xlens=(64,))
branch_row = instruction("I", Flow.BRANCH)


def _address(b: AnyBuilder) -> AnyValue:
    return b.add(b.x(RS1), b.imm())


def _register(operation: str) -> Meaning:
    return lambda b: b.write(b.binary(operation, b.x(RS1), b.x(RS2)))


def _immediate(operation: str) -> Meaning:
    return lambda b: b.write(b.binary(operation, b.x(RS1), b.imm()))


def _shift(operation: str) -> Meaning:
    return lambda b: b.write(b.binary(operation, b.x(RS1), b.and_(b.x(RS2), b.xlen - 1)))


def _set(predicate: str, second: Callable[[AnyBuilder], Argument]) -> Meaning:
    return lambda b: b.write(b.zext(b.compare(predicate, b.x(RS1), second(b)), b.xlen))


def word(operation: str, second: Callable[[AnyBuilder], AnyValue]) -> Meaning:
    """An operation on the lower 32 bits, its result sign-extended."""
    return lambda b: b.write(b.sext(b.binary(operation, b.low(b.x(RS1), 32), second(b)), b.xlen))


def word_rs2(b: AnyBuilder) -> AnyValue:
    return b.low(b.x(RS2), 32)


def _word_imm(b: AnyBuilder) -> AnyValue:
    return b.low(b.imm(), 32)


def _word_count(b: AnyBuilder) -> AnyValue:
    return b.and_(word_rs2(b), 31)


def _rs2(b: AnyBuilder) -> AnyValue:
    return b.x(RS2)


def _imm(b: AnyBuilder) -> AnyValue:
    return b.imm()


def _branch(predicate: str) -> Meaning:
    return lambda b: b.branch(b.compare(predicate, b.x(RS1), b.x(RS2)))


def _load(width: int, signed: bool) -> Meaning:
    if signed:
        return lambda b: b.write(b.sext(b.load(_address(b), width), b.xlen))
    return lambda b: b.write(b.zext(b.load(_address(b), width), b.xlen))


def _store(width: int) -> Meaning:
    return lambda b: b.store(_address(b), b.low(b.x(RS2), width))


def _jal(b: AnyBuilder) -> None:
    b.write(b.next_pc())
    b.jump()


def _jalr(b: AnyBuilder) -> None:
    target = b.and_(_address(b), -2)
    b.write(b.next_pc())
    b.jump_to(target)


def _system(name: str) -> Meaning:
    return lambda b: b.system(name)


INSTRUCTIONS = [
    row("lui", "imm[31:12] rd 0110111", "rd, upper", lambda b: b.write(b.imm())),
    row("auipc", "imm[31:12] rd 0010111", "rd, upper", lambda b: b.write(b.add(b.pc(), b.imm()))),
    instruction("I", Flow.JUMP)("jal", "imm[20|10:1|11|19:12] rd 1101111", "rd, pc+imm", _jal),
    instruction("I", Flow.INDIRECT)("jalr", "imm[11:0] rs1 000 rd 1100111", "rd, imm(rs1)", _jalr),
    branch_row("beq", "imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("eq")),
    branch_row("bne", "imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("ne")),
    branch_row("blt", "imm[12|10:5] rs2 rs1 100 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("slt")),
    branch_row("bge", "imm[12|10:5] rs2 rs1 101 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("sge")),
    branch_row("bltu", "imm[12|10:5] rs2 rs1 110 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("ult")),
    branch_row("bgeu", "imm[12|10:5] rs2 rs1 111 imm[4:1|11] 1100011", "rs1, rs2, pc+imm", _branch("uge")),
    row("lb", "imm[11:0] rs1 000 rd 0000011", "rd, imm(rs1)", _load(8, True)),
    row("lh", "imm[11:0] rs1 001 rd 0000011", "rd, imm(rs1)", _load(16, True)),
    row("lw", "imm[11:0] rs1 010 rd 0000011", "rd, imm(rs1)", _load(32, True)),
    row("lbu", "imm[11:0] rs1 100 rd 0000011", "rd, imm(rs1)", _load(8, False)),
    row("lhu", "imm[11:0] rs1 101 rd 0000011", "rd, imm(rs1)", _load(16, False)),
    row("sb", "imm[11:5] rs2 rs1 000 imm[4:0] 0100011", "rs2, imm(rs1)", _store(8)),
    row("sh", "imm[11:5] rs2 rs1 001 imm[4:0] 0100011", "rs2, imm(rs1)", _store(16)),
    row("sw", "imm[11:5] rs2 rs1 010 imm[4:0] 0100011", "rs2, imm(rs1)", _store(32)),
    row("addi", "imm[11:0] rs1 000 rd 0010011", "rd, rs1, imm", _immediate("add")),
    row("slti", "imm[11:0] rs1 010 rd 0010011", "rd, rs1, imm", _set("slt", _imm)),
    row("sltiu", "imm[11:0] rs1 011 rd 0010011", "rd, rs1, imm", _set("ult", _imm)),
    row("xori", "imm[11:0] rs1 100 rd 0010011", "rd, rs1, imm", _immediate("xor")),
    row("ori", "imm[11:0] rs1 110 rd 0010011", "rd, rs1, imm", _immediate("or")),
    row("andi", "imm[11:0] rs1 111 rd 0010011", "rd, rs1, imm", _immediate("and")),
    row("add", "0000000 rs2 rs1 000 rd 0110011", "rd, rs1, rs2", _register("add")),
    row("sub", "0100000 rs2 rs1 000 rd 0110011", "rd, rs1, rs2", _register("sub")),
    row("sll", "0000000 rs2 rs1 001 rd 0110011", "rd, rs1, rs2", _shift("shl")),
    row("slt", "0000000 rs2 rs1 010 rd 0110011", "rd, rs1, rs2", _set("slt", _rs2)),
    row("sltu", "0000000 rs2 rs1 011 rd 0110011", "rd, rs1, rs2", _set("ult", _rs2)),
    row("xor", "0000000 rs2 rs1 100 rd 0110011", "rd, rs1, rs2", _register("xor")),
    row("srl", "0000000 rs2 rs1 101 rd 0110011", "rd, rs1, rs2", _shift("lshr")),
    row("sra", "0100000 rs2 rs1 101 rd 0110011", "rd, rs1, rs2", _shift("ashr")),
    row("or", "0000000 rs2 rs1 110 rd 0110011", "rd, rs1, rs2", _register("or")),
    row("and", "0000000 rs2 rs1 111 rd 0110011", "rd, rs1, rs2", _register("and")),
    # fm, predecessor and successor sets, rs1 and rd only ever weaken it: every fence is a full one
    row("fence", "uimm[11:0] ----- 000 ----- 0001111", "pred, succ", lambda b: b.fence()),
    instruction("I", Flow.SYSTEM)("ecall", "000000000000 00000 000 00000 1110011", "", _system("ecall")),
    instruction("I", Flow.SYSTEM)("ebreak", "000000000001 00000 000 00000 1110011", "", _system("ebreak")),
    # RV64I
    row64("lwu", "imm[11:0] rs1 110 rd 0000011", "rd, imm(rs1)", _load(32, False)),
    row64("ld", "imm[11:0] rs1 011 rd 0000011", "rd, imm(rs1)", _load(64, True)),
    row64("sd", "imm[11:5] rs2 rs1 011 imm[4:0] 0100011", "rs2, imm(rs1)", _store(64)),
    row64("addiw", "imm[11:0] rs1 000 rd 0011011", "rd, rs1, imm", word("add", _word_imm)),
    row64("slliw", "0000000 shamt[4:0] rs1 001 rd 0011011", "rd, rs1, shamt", word("shl", _word_imm)),
    row64("srliw", "0000000 shamt[4:0] rs1 101 rd 0011011", "rd, rs1, shamt", word("lshr", _word_imm)),
    row64("sraiw", "0100000 shamt[4:0] rs1 101 rd 0011011", "rd, rs1, shamt", word("ashr", _word_imm)),
    row64("addw", "0000000 rs2 rs1 000 rd 0111011", "rd, rs1, rs2", word("add", word_rs2)),
    row64("subw", "0100000 rs2 rs1 000 rd 0111011", "rd, rs1, rs2", word("sub", word_rs2)),
    row64("sllw", "0000000 rs2 rs1 001 rd 0111011", "rd, rs1, rs2", word("shl", _word_count)),
    row64("srlw", "0000000 rs2 rs1 101 rd 0111011", "rd, rs1, rs2", word("lshr", _word_count)),
    row64("sraw", "0100000 rs2 rs1 101 rd 0111011", "rd, rs1, rs2", word("ashr", _word_count)),
]

# A shift by an immediate has one more bit of it in RV64.
for _xlen, _top in ((32, "{}0 shamt[4:0]"), (64, "{} shamt[5:0]")):
    _row = instruction("I", xlens=(_xlen,))
    INSTRUCTIONS += [
        _row("slli", f"{_top.format('000000')} rs1 001 rd 0010011", "rd, rs1, shamt", _immediate("shl")),
        _row("srli", f"{_top.format('000000')} rs1 101 rd 0010011", "rd, rs1, shamt", _immediate("lshr")),
        _row("srai", f"{_top.format('010000')} rs1 101 rd 0010011", "rd, rs1, shamt", _immediate("ashr")),
    ]
