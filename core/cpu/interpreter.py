"""Tier 1: the threaded interpreter, as LLVM IR made from the table of instructions.

Guest code is predecoded into slots of 16 bytes, one per halfword of a physical page (core/cpu/slots.py): a handler and
the operands. A handler does its instruction and tail-calls the handler of the next slot, with hart, slot, budget and
pc key in registers that native calls preserve, so that `addi` is nine instructions of the host:

    pc = (slot + pc_key) >> 3, arithmetic: a slot is 16 bytes for 2 bytes of code

An instruction has several handlers (core/cpu/handlers.py); the decoder chooses one.

The budget counts instructions down, one by one. It and `attention` are looked at where a branch or jump is taken, and
after instructions that may have changed them.

Handlers that are no instruction are named h_*:

    h_decode      a slot not yet decoded: decode it, then run it, unless a debugger wants to stop here
    h_cross       the sentinels after a page: go on in the next page
    h_straddle    four bytes that begin at offset 0xffe: fetch the other half, decode, run; every time
    h_illegal     not an instruction
    h_trap        an instruction trapped: take the trap, resume
    h_resume      go on at hart.pc, whatever that takes: attention, translation, traps of the fetch; also how it starts
"""

from __future__ import annotations

from collections.abc import Iterator

from core.cpu import calls
from core.cpu.emitter import HART_SCOPE, LIKELY, METADATA, UNLIKELY, Emitter, IrValue
from core.cpu.handlers import (
    DISCARD,
    DYNAMIC,
    FAR,
    H_CROSS,
    H_DECODE,
    H_ILLEGAL,
    H_RESUME,
    H_STRADDLE,
    H_TRAP,
    SCALE,
    ZERO_SINK,
    handler_number,
    variants,
)
from core.cpu.state import TLB_ENTRIES, FetchTlb, FetchTlbEntry, Hart, Slot
from core.isa.builder import RD
from core.isa.instruction import Flow, Instruction
from core.isa.table import Table, table

CONVENTION = "preserve_nonecc"
PARAMETERS = "ptr %hart, ptr %ip, i64 %budget, i64 %pc_key"


class InterpreterBuilder(Emitter):
    """Builds one handler: operands come from the slot, registers from the hart."""

    def __init__(self, xlen: int, instruction: Instruction | None = None, length: int = 0, variant: int = 0):
        super().__init__(xlen)
        self.instruction = instruction
        self.length = length
        self.variant = variant
        self._left = False  # nothing more to write: the instruction has gone on

    # operands

    def slot(self, name: str, width: int) -> IrValue:
        return self.value(f"load i{width}, ptr {self.field(Slot, '%ip', name)}{HART_SCOPE}", width)

    def _register(self, file: str, operand: str) -> str:
        number = self.zext(self.slot(operand, 8), 64)
        return self.let(f"getelementptr i64, ptr {self.field(Hart, '%hart', file)}, i64 {number.text}")

    def x(self, operand: str) -> IrValue:
        return self.low(self.value(f"load i64, ptr {self._register('x', operand)}{HART_SCOPE}", 64), self.xlen)

    def write(self, value: IrValue) -> None:
        if self.variant & DISCARD:
            return
        self.line(f"store i64 {self.sext(value, 64).text}, ptr {self._register('x', RD)}{HART_SCOPE}")

    def f_register(self, operand: str) -> IrValue:
        if operand == "rs3":
            number = self.zext(self.slot("imm", 32), 64)
            register = self.let(f"getelementptr i64, ptr {self.field(Hart, '%hart', 'f')}, i64 {number.text}")
        else:
            register = self._register("f", operand)
        return self.value(f"load i64, ptr {register}{HART_SCOPE}", 64)

    def write_f(self, value: IrValue) -> None:
        self.line(f"store i64 {self.boxed(value).text}, ptr {self._register('f', RD)}{HART_SCOPE}")

    def imm(self) -> IrValue:
        return self.sext(self.slot("imm", 32), self.xlen)

    def number(self, operand: str) -> IrValue:
        return self.zext(self.slot(operand, 8), self.xlen)

    def is_not_x0(self, operand: str) -> IrValue:
        return self.compare("ne", self.slot(operand, 8), ZERO_SINK if operand == RD else 0)

    def pc(self) -> IrValue:
        address = self.let("ptrtoint ptr %ip to i64")
        scaled = self.value(f"add i64 {address}, %pc_key", 64)
        return self.low(self.binary("ashr", scaled, SCALE.bit_length() - 1), self.xlen)

    def next_pc(self) -> IrValue:
        return self.add(self.pc(), self.length)

    def rounding_mode(self) -> IrValue:
        return self.low(self.read("frm"), 32) if self.variant & DYNAMIC else self.zext(self.slot("aux", 8), 32)

    # leaving

    def leave(self, handler: str, ip: str = "%ip", budget: str = "%budget", pc_key: str = "%pc_key") -> None:
        """Tail-call a handler, and end the block."""
        self.line(f"musttail call {CONVENTION} void {handler}(ptr %hart, ptr {ip}, i64 {budget}, i64 {pc_key})")
        self.line("ret void")
        self._left = True

    def run(self, ip: str, budget: str = "%budget", pc_key: str = "%pc_key") -> None:
        """Run the slot at `ip`."""
        self.leave(self.let(f"load ptr, ptr {ip}{HART_SCOPE}"), ip, budget, pc_key)

    def next_slot(self) -> str:
        return self.let(f"getelementptr i8, ptr %ip, i64 {self.length * SCALE}")

    def spend(self) -> str:
        """The budget after this instruction."""
        return self.let("add nsw i64 %budget, -1")

    def publish(self) -> None:
        self.update("pc", self.sext(self.pc(), 64))
        self.update("budget", IrValue("%budget", 64))

    def leave_trapped(self) -> None:
        self.leave(f"@{H_TRAP}")
        self._left = False  # this was a side path

    def resume(self, pc: IrValue, budget: str) -> None:
        """Go on at pc the long way."""
        self.update("pc", self.sext(pc, 64))
        self.update("budget", IrValue(budget, 64))
        self.leave(f"@{H_RESUME}")

    def unless_due(self, budget: str, due: str) -> None:
        """Go to the block `due` if the budget is spent or somebody asks for attention."""
        paid, free = self.new_label("paid"), self.new_label("free")
        self.fork(self.let(f"icmp sgt i64 {budget}, 0"), paid, due, LIKELY)
        self.label(paid)
        place = self.field(Hart, "%hart", "attention")
        attention = self.let(f"load atomic i64, ptr {place} monotonic, align 8{HART_SCOPE}")
        self.fork(self.let(f"icmp eq i64 {attention}, 0"), free, due, LIKELY)
        self.label(free)

    def run_at(self, pc: IrValue, budget: str, miss: str) -> None:
        """Run the slot at an address, if the fetch TLB knows it; else go to the block `miss`."""
        bank = self.let(f"inttoptr i64 {self.read('fetch_tlb').text} to ptr")
        address = self.sext(pc, 64)
        offset = self.binary("lshr", address, 12 - (FetchTlbEntry.size() - 1).bit_length())
        offset = self.binary("and", offset, (TLB_ENTRIES - 1) * FetchTlbEntry.size())
        entry = self.let(f"getelementptr i8, ptr {self.field(FetchTlb, bank, 'entry')}, i64 {offset.text}")
        tag = self.value(f"load i64, ptr {self.field(FetchTlbEntry, entry, 'tag')}{HART_SCOPE}", 64)
        here = self.new_label("here")
        self.fork(self.compare("eq", self.binary("and", address, -4096), tag).text, here, miss, LIKELY)
        self.label(here)
        slots = self.let(f"load ptr, ptr {self.field(FetchTlbEntry, entry, 'slots')}{HART_SCOPE}")
        pc_key = self.let(f"load i64, ptr {self.field(FetchTlbEntry, entry, 'pc_key')}{HART_SCOPE}")
        index = self.binary("mul", self.binary("and", address, 4095), SCALE)
        self.run(self.let(f"getelementptr i8, ptr {slots}, i64 {index.text}"), budget, pc_key)

    def go_to_slot(self, ip: str, pc: IrValue, budget: str) -> None:
        """Take a jump to a slot of this page."""
        due = self.new_label("due")
        self.unless_due(budget, due)
        self.run(ip, budget)
        self.label(due)
        self.resume(pc, budget)

    def go_to(self, pc: IrValue, budget: str) -> None:
        """Take a jump to any address."""
        due = self.new_label("due")
        self.unless_due(budget, due)
        self.run_at(pc, budget, due)
        self.label(due)
        self.resume(pc, budget)

    # control flow

    def _target_slot(self) -> str:
        """The slot at pc + imm: the decoder has scaled the immediate."""
        return self.let(f"getelementptr i8, ptr %ip, i64 {self.sext(self.slot('imm', 32), 64).text}")

    def _go_to_target(self) -> None:
        if self.variant & FAR:
            self.go_to(self.add(self.pc(), self.imm()), self.spend())
            return
        target = self._target_slot()
        scaled = self.value(f"add i64 {self.let(f'ptrtoint ptr {target} to i64')}, %pc_key", 64)
        self.go_to_slot(target, self.low(self.binary("ashr", scaled, SCALE.bit_length() - 1), self.xlen), self.spend())

    def branch(self, condition: IrValue) -> None:
        taken, onward = self.new_label("taken"), self.new_label("onward")
        self.fork(condition.text, taken, onward)
        self.label(onward)
        self.run(self.next_slot(), self.spend())
        self.label(taken)
        self._go_to_target()

    def jump(self) -> None:
        self._go_to_target()

    def jump_to(self, target: IrValue) -> None:
        self.go_to(target, self.spend())

    # the system

    def csr(self, operation: str, value: IrValue, reads: bool | IrValue, writes: bool | IrValue) -> IrValue:
        arguments = [int(flag) if isinstance(flag, bool) else flag for flag in (writes, reads)]
        number = calls.CSR_OPERATIONS[operation]
        old = self.call_for(calls.CSR_ACCESS, self.slot("imm", 32), number, self.zext(value, 64), *arguments)
        return self.low(old, self.xlen)

    def system(self, name: str, *arguments: IrValue) -> None:
        self.call_out(calls.SYSTEM[name], *arguments)
        if name in calls.CHANGES_PC:
            self.go_to(self.low(self.read("pc"), self.xlen), self.spend())

    # one handler

    def handler(self, name: str) -> str:
        """The whole function."""
        assert self.instruction is not None
        self.instruction.meaning(self)
        if not self._left:
            self._go_on(self.instruction.flow)
        return self.function(name)

    def _go_on(self, flow: Flow) -> None:
        if flow is Flow.SYSTEM:  # what it did may be due now
            self.go_to_slot(self.next_slot(), self.next_pc(), self.spend())
        else:
            self.run(self.next_slot(), self.spend())

    def function(self, name: str) -> str:
        body = "\n".join(self.lines)
        return f'define hidden {CONVENTION} void @{name}({PARAMETERS}) #0 section ".text" {{\n{body}\n}}\n'


def instruction_handlers(isa: Table) -> Iterator[tuple[int, str, str]]:
    """For every instruction, length and variant: the handler's number, name and IR."""
    compressed = {row.expands for row in isa.compressed}
    for index, instruction in enumerate(isa.instructions):
        for length in (2, 4) if instruction.name in compressed else (4,):
            for variant in variants(instruction):
                name = f"h_{instruction.name}_{length}_{variant}"
                text = InterpreterBuilder(isa.xlen, instruction, length, variant).handler(name)
                yield handler_number(index, length, variant), name, text


def special_handlers(xlen: int) -> Iterator[tuple[str, str]]:
    """The handlers that are no instruction: name and IR."""
    for name, write in (
        (H_DECODE, _decode),
        (H_CROSS, _cross),
        (H_STRADDLE, _straddle),
        (H_ILLEGAL, _illegal),
        (H_TRAP, _trap),
        (H_RESUME, _resume),
    ):
        builder = InterpreterBuilder(xlen)
        write(builder)
        yield name, builder.function(name)


def _decode(b: InterpreterBuilder) -> None:
    pc = b.sext(b.pc(), 64)
    stops = b.call(calls.DECODE_SLOT, b.value("ptrtoint ptr %ip to i64", 64), pc)
    assert stops is not None
    b.fork(stops.text, "stop", "decoded", UNLIKELY)
    b.label("stop")
    b.publish()
    b.line("ret void")
    b.label("decoded")
    b.run("%ip")


def _cross(b: InterpreterBuilder) -> None:
    b.go_to(b.pc(), "%budget")


def _straddle(b: InterpreterBuilder) -> None:
    pc = b.sext(b.pc(), 64)
    slot = b.call_for(calls.DECODE_STRADDLING, b.value("ptrtoint ptr %ip to i64", 64), pc)
    pc_key = b.sub(b.mul(pc, SCALE), slot)
    b.run(b.let(f"inttoptr i64 {slot.text} to ptr"), pc_key=pc_key.text)


def _illegal(b: InterpreterBuilder) -> None:
    b.publish()
    b.call(calls.RAISE_ILLEGAL)
    b.leave_trapped()


def _trap(b: InterpreterBuilder) -> None:
    """hart.pc is the instruction that trapped, hart.trap why."""
    b.update("budget", IrValue("%budget", 64))
    b.call(calls.TAKE_TRAP)
    b.leave(f"@{H_RESUME}")


def _resume(b: InterpreterBuilder) -> None:
    """Go on at hart.pc with hart.budget. Returns (from `interpret`) if `attend` says so."""
    b.go("again")
    b.label("again")
    b.unless_due(b.read("budget").text, "due")
    b.go("fetch")
    b.label("due")
    leaves = b.call(calls.ATTEND)
    assert leaves is not None
    b.fork(b.compare("ne", leaves, 0).text, "leave", "fetch", UNLIKELY)
    b.label("leave")
    b.line("ret void")
    b.label("fetch")
    pc, budget = b.low(b.read("pc"), b.xlen), b.read("budget").text
    b.run_at(pc, budget, "missed")
    b.label("missed")
    address = b.sext(pc, 64)
    slots = b.call(calls.FETCH_PAGE, address)
    assert slots is not None
    b.fork(b.compare("eq", slots, 0).text, "faulted", "fetched", UNLIKELY)
    b.label("faulted")
    b.call(calls.TAKE_TRAP)
    b.go("again")
    b.label("fetched")  # perhaps not into the TLB
    pc_key = b.sub(b.mul(b.and_(address, -4096), SCALE), slots)
    ip = b.add(slots, b.mul(b.and_(address, 4095), SCALE))
    b.run(b.let(f"inttoptr i64 {ip.text} to ptr"), budget, pc_key.text)


def interpreter_ir(xlen: int = 64) -> str:
    """The IR of the interpreter: handlers, `interpret(hart)`, and `handler_address(number)` of any handler."""
    parts = []
    names = {}
    for number, (name, text) in enumerate(special_handlers(xlen)):
        names[number] = name
        parts.append(text)
    for number, name, text in instruction_handlers(table(xlen)):
        names[number] = name
        parts.append(text)
    count = max(names) + 1
    offset = "i32 trunc (i64 sub (i64 ptrtoint (ptr @{} to i64), i64 ptrtoint (ptr @{} to i64)) to i32)"
    offsets = ", ".join(offset.format(names.get(number, H_ILLEGAL), H_DECODE) for number in range(count))
    return "".join(
        [
            f"@handler_offsets = internal constant [{count} x i32] [{offsets}]\n",
            *parts,
            _HANDLER_ADDRESS.format(count=count, base=H_DECODE),
            _INTERPRET.format(convention=CONVENTION, resume=H_RESUME),
            ATTRIBUTES,
            METADATA,
        ]
    )


# Offsets rather than addresses: the object needs no relocation for them.
_HANDLER_ADDRESS = """\
define i64 @handler_address(i32 %number) {{
  %place = getelementptr [{count} x i32], ptr @handler_offsets, i64 0, i32 %number
  %offset = load i32, ptr %place
  %wide = sext i32 %offset to i64
  %address = add i64 %wide, ptrtoint (ptr @{base} to i64)
  ret i64 %address
}}
"""
_INTERPRET = """\
define void @interpret(ptr %hart) {{
  call {convention} void @{resume}(ptr %hart, ptr null, i64 0, i64 0)
  ret void
}}
"""
ATTRIBUTES = "attributes #0 = { nounwind }\n"
