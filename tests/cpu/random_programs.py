"""Random programs, made from the table of instructions, that run to their end on every machine.

A program is a list of units: a few instructions that belong together, such as an address and the access through it.
It runs in a loop over *states*. A state is a block of memory; a pass of the loop loads all registers from it, executes
the units, stores all registers back, and goes on to the next. So a thousand instructions make a million executed ones,
each with other operands, and whatever an instruction writes is compared: registers in the states, memory in the data
page of the program, both as bytes after the run.

`Image` puts many programs one behind the other, so that a machine runs them all at once.

Some registers have jobs: x3 points to the state, x2, x4 and x9 into the data page, x31 is a pointer of a unit. Programs
do not trap and do not write code; CSRs are those that a bare machine can have written at random.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from core.isa.encoding import HOLDER
from core.isa.instruction import Compressed, Instruction
from core.isa.table import Table, table
from core.isa.text import assemble, disassemble

BASE = 0x8000_0000
CODE_SIZE = 0x1000  # of one program
FIRST, STAGGER, SPREAD = 0xC00, 0x52, 0x300  # where code begins within that
DATA_SIZE = 0x1000
STATE_SIZE = 0x280  # fcsr, x1 to x31, f0 to f31, CSRs
FCSR_OFFSET = 0
F_OFFSET = 0x100
CSR_OFFSET = 0x200
MSTATUS, FCSR = 0x300, 0x003
# CSRs that every pass saves: mscratch, mepc, mcause, mtval, mtvec, mie, medeleg, mideleg, and those of S-mode
CSRS = (0x340, 0x341, 0x342, 0x343, 0x305, 0x304, 0x302, 0x303, 0x140, 0x141, 0x142, 0x143, 0x105, 0x104)
MSTATUS_FS = 0x6000

SP, STATE, DATA, SHORT_DATA, POINTER = 2, 3, 4, 9, 31
RESERVED = (SP, STATE, DATA, SHORT_DATA, POINTER)
ISA: Table = table(64)

Row = Instruction | Compressed
Rng = random.Random


@dataclass(frozen=True)
class Line:
    """One instruction: its word and length. With `skip`, a branch over so many units that follow."""

    word: int
    length: int
    row: Row | None = None
    skip: int = 0


Unit = tuple[Line, ...]


@dataclass(frozen=True)
class Program:
    """Units, and the states that they run on."""

    units: tuple[Unit, ...]
    states: tuple[bytes, ...]
    data: bytes
    floats: int = 0  # width of the floating-point registers that are compared; 0: none

    def without(self, start: int, stop: int) -> Program:
        """The same with some units left out."""
        return Program((*self.units[:start], *self.units[stop:]), self.states, self.data, self.floats)

    def on(self, states: Sequence[bytes]) -> Program:
        """The same with other states."""
        return Program(self.units, tuple(states), self.data, self.floats)

    def instructions(self) -> int:
        """How many it has."""
        return sum(len(unit) for unit in self.units)

    def describe(self) -> str:
        """Its instructions, one a line."""
        return "\n".join(disassemble(line.word) for unit in self.units for line in unit)


def line(name: str, **operands: int) -> Line:
    row = next(row for row in ISA.rows() if row.name == name)
    return Line(assemble(name, **operands), row.encoding.length, row)


def random_line(rng: Rng, row: Row, **fixed: int) -> Line:
    """The row with random operands that keep off the reserved registers, some of them given."""
    encoding = row.encoding
    while True:
        word = rng.getrandbits(8 * encoding.length) & ~encoding.mask | encoding.match
        for name, value in fixed.items():
            operand = encoding.operands["imm" if name == "csr" else HOLDER.get(name, name)]
            mask = sum(s.mask << s.low for s in operand.segments)
            word = word & ~mask | operand.insert(value)
        if encoding.matches(word) and not _spoils(row, word):
            return Line(word, encoding.length, row)


def _spoils(row: Row, word: int) -> bool:
    rd = row.encoding.operands.get("rd")
    return ISA.expansion(row).writes_x and rd is not None and rd.extract(word) in RESERVED


class Image:
    """Memory with many programs, and where to begin and end."""

    def __init__(self, programs: Sequence[Program]):
        self.programs = programs
        self.states_at: list[int] = []
        self.data_at: list[int] = []
        # at odd places, so that instructions and branches cross pages here and there
        self.code_at = [BASE + FIRST + CODE_SIZE * n + n * STAGGER % SPREAD for n in range(len(programs) + 1)]
        self.end = self.code_at[-1]
        at = BASE + CODE_SIZE * (len(programs) + 2)
        for program in programs:
            self.data_at.append(at)
            self.states_at.append(at + DATA_SIZE)
            at += DATA_SIZE + len(program.states) * STATE_SIZE
        self.size = (at - BASE + 0xFFFF) & ~0xFFFF
        self.memory = bytearray(self.size)
        self._put(BASE, assemble("jal", imm=self.code_at[0] - BASE).to_bytes(4, "little"))
        for number, program in enumerate(programs):
            self._place(number, program)
        self._put(self.end, struct.pack("<5I", *STOP))

    def _place(self, number: int, program: Program) -> None:
        at, after = self.code_at[number : number + 2]
        code = _code(program, at, after, self.states_at[number], self.data_at[number])
        assert len(code) <= CODE_SIZE - SPREAD, "a program is too long"
        self._put(at, code)
        self._put(self.data_at[number], program.data)
        self._put(self.states_at[number], b"".join(state.ljust(STATE_SIZE, b"\0") for state in program.states))

    def _put(self, address: int, data: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(data)] = data

    def results(self, memory: bytes, number: int) -> tuple[bytes, list[bytes]]:
        """What program `number` left in `memory`: its data, and its states."""
        program, states = self.programs[number], self.states_at[number] - BASE
        data = self.data_at[number] - BASE
        blocks = [memory[states + n * STATE_SIZE : states + (n + 1) * STATE_SIZE] for n in range(len(program.states))]
        return memory[data : data + DATA_SIZE], blocks


# Store 0x5555 to the test finisher, and stay.
STOP = (
    assemble("lui", rd=5, imm=0x100000),
    assemble("lui", rd=6, imm=0x5000),
    assemble("addi", rd=6, rs1=6, imm=0x555),
    assemble("sw", rs1=5, rs2=6),
    assemble("jal", rd=0, imm=0),
)


def _address(rd: int, value: int, at: int) -> list[int]:
    """auipc and addi: rd = value, executed at `at`."""
    offset = value - at
    low = (offset & 0xFFF ^ 0x800) - 0x800
    high = (offset - low + (1 << 31)) % (1 << 32) - (1 << 31)
    return [assemble("auipc", rd=rd, imm=high), assemble("addi", rd=rd, rs1=rd, imm=low)]


def _code(program: Program, at: int, then: int, states: int, data: int) -> bytes:
    """The loop: load the state, run the units, store the state; after the last state go on at `then`."""
    end = states + len(program.states) * STATE_SIZE
    head = [*_address(STATE, states, at)]
    if program.floats:
        head += [assemble("lui", rd=1, imm=MSTATUS_FS), assemble("csrrs", rs1=1, csr=MSTATUS)]
    loop = at + 4 * len(head)
    words = list(head)
    for register in (SP, DATA, SHORT_DATA):
        words += _address(register, data + DATA_SIZE // 2, at + 4 * len(words))
    words += _save_or_restore(program, restore=True)
    body = b"".join(word.to_bytes(4, "little") for word in words) + _units(program.units)
    words = _save_or_restore(program, restore=False)
    for number, csr in enumerate(CSRS):
        words += [assemble("csrrs", rd=1, csr=csr), assemble("sd", rs1=STATE, rs2=1, imm=CSR_OFFSET + 8 * number)]
    words.append(assemble("addi", rd=STATE, rs1=STATE, imm=STATE_SIZE))
    after = at + len(body) + 4 * len(words)
    words += _address(POINTER, end, after)
    words.append(assemble("beq", rs1=STATE, rs2=POINTER, imm=8))
    words.append(assemble("jal", rd=0, imm=loop - (after + 12)))
    words.append(assemble("jal", rd=0, imm=then - (after + 16)))
    return body + b"".join(word.to_bytes(4, "little") for word in words)


def _save_or_restore(program: Program, restore: bool) -> list[int]:
    """Registers from the state, or to it; x1 last or first, because fcsr passes through it."""
    words = []
    if program.floats:
        load, store = ("fld", "fsd") if program.floats == 64 else ("flw", "fsw")
        for number in range(32):
            offset = F_OFFSET + 8 * number
            if restore:
                words.append(assemble(load, rd=number, rs1=STATE, imm=offset))
            else:
                words.append(assemble(store, rs2=number, rs1=STATE, imm=offset))
        if restore:
            words += [assemble("ld", rd=1, rs1=STATE, imm=FCSR_OFFSET), assemble("csrrw", rs1=1, csr=FCSR)]
    for number in range(1, 31):
        if number in RESERVED:
            continue
        if restore:
            words.append(assemble("ld", rd=number, rs1=STATE, imm=8 * number))
        else:
            words.append(assemble("sd", rs2=number, rs1=STATE, imm=8 * number))
    if program.floats and not restore:
        words += [assemble("csrrs", rd=1, csr=FCSR), assemble("sd", rs2=1, rs1=STATE, imm=FCSR_OFFSET)]
    return words


def _units(units: Sequence[Unit]) -> bytes:
    """The units as code, branches resolved."""
    starts = [0]
    for unit in units:
        starts.append(starts[-1] + sum(item.length for item in unit))
    code = bytearray()
    for number, unit in enumerate(units):
        for item in unit:
            word = item.word
            if item.skip:
                assert item.row is not None
                target = starts[min(number + item.skip, len(units))]
                word |= item.row.encoding.operands["imm"].insert(target - len(code))
            code += word.to_bytes(item.length, "little")
    return bytes(code)
