"""The native decoder: from the bits of an instruction to its slot. Its tables are made from the table of instructions.

Encodings are looked up by opcode and tried one by one; operands are put together from the segments that their encoding
lists. So there is no instruction in this file, only the choice between an instruction's handlers
(core/cpu/interpreter.py says which there are).
"""

from core.cpu.debug import must_stop_at
from core.cpu.fetch import fetch_parcel
from core.cpu.handlers import (
    DISCARD,
    DYNAMIC,
    FAR,
    H_ILLEGAL,
    H_STRADDLE,
    SCALE,
    SPECIAL,
    ZERO_SINK,
    handler_number,
)
from core.cpu.memory import page_host
from core.cpu.slots import slot_page_info
from core.cpu.state import PAGE_SIZE, SLOT_PAGE_SIZE, SLOT_SIZE, XLEN, Hart, Slot
from core.isa.encoding import DYNAMIC_ROUNDING, OPERANDS, Operand
from core.isa.instruction import Flow
from core.isa.table import OPCODES, opcode, table
from native import (
    addressof,
    external,
    fn,
    load16,
    u8,
    u16,
    u32,
    u64,
    wrap32,
    wrap64,
)
from native import (
    table as data,
)

NO_ROW = 0xFFFF
ILLEGAL = SPECIAL.index(H_ILLEGAL)
STRADDLE = SPECIAL.index(H_STRADDLE)

# What the choice of a handler depends on.
HAS_TARGET = 1  # at pc + imm
MAY_DISCARD = 2  # has variants for x0 as rd
IS_ROUNDED = 4
CHOICES = {Flow.BRANCH: HAS_TARGET, Flow.JUMP: HAS_TARGET | MAY_DISCARD, Flow.INDIRECT: MAY_DISCARD}

_isa = table(XLEN)
_rows = sorted(_isa.rows(), key=lambda row: opcode(row.encoding.match))
_instructions = [_isa.expansion(row) for row in _rows]
_excluded = [pair for row in _rows for pair in row.encoding.excluded]
_operands = list(dict.fromkeys(row.encoding.operands.get(name, Operand()) for row in _rows for name in OPERANDS))
_segments = [segment for operand in _operands for segment in operand.segments]


def _starts(counts: list[int]) -> list[int]:
    """Where each of these groups begins when they stand one after the other, and where the last ends."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts


OPCODE_ROWS = data(u16, _starts([sum(opcode(row.encoding.match) == o for row in _rows) for o in range(OPCODES)]))

ROW_MASK = data(u32, [row.encoding.mask for row in _rows])
ROW_MATCH = data(u32, [row.encoding.match for row in _rows])
ROW_EXCLUDED = data(u16, _starts([len(row.encoding.excluded) for row in _rows]))
ROW_OPERANDS = data(
    u16, [_operands.index(row.encoding.operands.get(name, Operand())) for row in _rows for name in OPERANDS]
)
ROW_HANDLER = data(
    u16,
    [
        handler_number(_isa.instructions.index(instruction), row.encoding.length, 0)
        for row, instruction in zip(_rows, _instructions, strict=True)
    ],
)
ROW_CHOICE = data(u8, [CHOICES.get(i.flow, 0) | IS_ROUNDED * i.has_rounding_mode for i in _instructions])
ROW_WRITES_X = data(u8, [int(i.writes_x) for i in _instructions])

EXCLUDED_MASK = data(u32, [mask for mask, _ in _excluded])
EXCLUDED_MATCH = data(u32, [match for _, match in _excluded])

OPERAND_SEGMENTS = data(u16, _starts([len(operand.segments) for operand in _operands]))
OPERAND_SIGN = data(u32, [1 << (operand.width - 1) if operand.signed else 0 for operand in _operands])
OPERAND_BIAS = data(u32, [operand.bias for operand in _operands])

SEGMENT_LOW = data(u8, [segment.low for segment in _segments])
SEGMENT_MASK = data(u32, [segment.mask for segment in _segments])
SEGMENT_TO = data(u8, [segment.to for segment in _segments])

NOPERANDS = len(OPERANDS)


@external
def handler_address(number: u32) -> u64:  # type: ignore[empty-body]
    """Address of a handler, in the IR of the interpreter."""


@fn
def decode_slot(hart: Hart, slot: u64, pc: u64) -> bool:
    """Decode the instruction that this slot of the hart's pool stands for. True: a debugger wants the hart to stop
    before it, and it is not decoded."""
    if hart.breakpoint_count | hart.stepping != 0 and must_stop_at(hart, pc):
        return True
    number = (slot - hart.pool) // SLOT_PAGE_SIZE
    offset = (slot - hart.pool) % SLOT_PAGE_SIZE // (SLOT_SIZE // 2)
    host = page_host(hart, slot_page_info(hart, number).page) + offset
    word = u32(load16(host))
    if word & 3 == 3:
        if offset == PAGE_SIZE - 2:
            Slot(slot).imm = word
            Slot(slot).handler = handler_address(STRADDLE)
            return False
        word = word | u32(load16(host + 2)) << 16
    fill_slot(Slot(slot), word, offset)
    return False


@fn
def decode_straddling(hart: Hart, slot: u64, pc: u64) -> u64:
    """Decode an instruction whose second half is in the next page, which may change or trap: a slot for this once."""
    word = Slot(slot).imm | u32(fetch_parcel(hart, wrap64(pc + 2))) << 16
    fill_slot(hart.scratch[0], word, PAGE_SIZE)
    hart.scratch[1].handler = hart.cross_handler
    hart.scratch[2].handler = hart.cross_handler
    return addressof(hart.scratch[0])


@fn
def fill_slot(slot: Slot, word: u32, offset: u64) -> None:
    """Decode `word` into a slot. `offset` is where in its page it begins; PAGE_SIZE: its neighbours are not at hand."""
    row = find_row(word)
    if row == NO_ROW:
        slot.handler = handler_address(ILLEGAL)
        return
    rd = operand_of(row, 0, word)
    slot.rs1 = u8(operand_of(row, 1, word))
    slot.rs2 = u8(operand_of(row, 2, word))
    imm = operand_of(row, 3, word)
    aux = operand_of(row, 4, word)
    slot.aux = u8(aux)
    choice = ROW_CHOICE[row]
    variant: u32 = 0
    if choice & IS_ROUNDED != 0 and aux == DYNAMIC_ROUNDING:
        variant = DYNAMIC
    if choice & MAY_DISCARD != 0 and rd == 0:
        variant = variant | DISCARD
    if choice & HAS_TARGET != 0:
        if offset < PAGE_SIZE and wrap32(u32(offset) + imm) < PAGE_SIZE:
            imm = wrap32(imm * SCALE)
        else:
            variant = variant | FAR
    slot.imm = imm
    slot.rd = u8(ZERO_SINK) if rd == 0 and ROW_WRITES_X[row] != 0 else u8(rd)
    slot.handler = handler_address(u32(ROW_HANDLER[row]) + variant)


@fn
def find_row(word: u32) -> u32:
    """The encoding that a word has, as a number of row; NO_ROW if it is illegal."""
    opcode = (word >> 2) & 31 if word & 3 == 3 else 32 + ((word & 3) << 3) + ((word >> 13) & 7)
    row = u32(OPCODE_ROWS[opcode])
    while row < u32(OPCODE_ROWS[opcode + 1]):
        if word & ROW_MASK[row] == ROW_MATCH[row] and not is_excluded(row, word):
            return row
        row += 1
    return NO_ROW


@fn(inline=True)
def is_excluded(row: u32, word: u32) -> bool:
    """Does a word that looks like this row's encoding belong to another?"""
    pair = ROW_EXCLUDED[row]
    while pair < ROW_EXCLUDED[row + 1]:
        if word & EXCLUDED_MASK[pair] == EXCLUDED_MATCH[pair]:
            return True
        pair += 1
    return False


@fn(inline=True)
def operand_of(row: u32, which: u32, word: u32) -> u32:
    """One of the operands, in the order of OPERANDS; a negative one modulo 2**32."""
    operand = ROW_OPERANDS[row * NOPERANDS + which]
    segment = OPERAND_SEGMENTS[operand]
    value: u32 = 0
    while segment < OPERAND_SEGMENTS[operand + 1]:
        value = value | ((word >> SEGMENT_LOW[segment]) & SEGMENT_MASK[segment]) << SEGMENT_TO[segment]
        segment += 1
    sign = OPERAND_SIGN[operand]
    return wrap32((value ^ sign) - sign + OPERAND_BIAS[operand])
