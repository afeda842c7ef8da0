"""Machines that run an image of random programs: the engine, Unicorn, and the table evaluated in Python."""

from __future__ import annotations

from functools import cache

from random_programs import BASE, FCSR, MSTATUS, Image
from unicorn import UC_ARCH_RISCV, UC_MODE_RISCV64, Uc

from core.bare import BareMachine
from core.board.virt import Machine
from core.cpu import softfloat
from core.cpu.engine import load_engine
from core.cpu.state import Hart
from core.isa.evaluate import Evaluator, GuestTrap
from core.isa.table import Insn, table
from native import Area

MEGABYTE = 1 << 20
FFLAGS, FRM = 0x001, 0x002
NV_TO_NX = 0x1F


def engine(image: Image) -> bytes:
    """Memory after the engine ran the image."""
    size = (image.size + MEGABYTE - 1) // MEGABYTE * MEGABYTE
    with BareMachine(load_engine(), Machine(memory=size)) as machine:
        machine.write(BASE, bytes(image.memory))
        machine.start()
        if not machine.join(60.0):
            raise TimeoutError(f"still running at {machine.harts[0].pc:#x}")
        return machine.read(BASE, image.size)


def unicorn(image: Image) -> bytes:
    """Memory after Unicorn ran the image."""
    machine = Uc(UC_ARCH_RISCV, UC_MODE_RISCV64)
    machine.mem_map(BASE, image.size)
    machine.mem_write(BASE, bytes(image.memory))
    machine.emu_start(BASE, image.end)
    return bytes(machine.mem_read(BASE, image.size))


def evaluator(image: Image) -> bytes:
    """Memory after the table's meanings, evaluated one by one, ran the image. Slow: thousands of instructions."""
    with Area.allocate(Hart.size()) as area:
        state = PythonHart(image, Hart(area.address))
        machine = Evaluator(state, 64)
        while state.pc != image.end:
            insn = decode(int.from_bytes(state.memory[state.pc - BASE : state.pc - BASE + 4], "little"))
            if insn is None:
                raise GuestTrap(2)
            machine.execute(insn)
        return bytes(state.memory)


@cache
def decode(word: int) -> Insn | None:
    return table(64).decode(word)


class PythonHart:
    """The state of an Evaluator: registers, an image for memory, and CSRs that only keep what is written."""

    def __init__(self, image: Image, hart: Hart):
        self.x = [0] * 32
        self.f = [0] * 32
        self.pc = BASE
        self.memory = bytearray(image.memory)
        self.hart = hart  # for the flags of softfloat
        self.frm = 0
        self.others: dict[int, int] = {}
        self.reservation: tuple[int, int, int] | None = None

    def load(self, address: int, size: int) -> int:
        return int.from_bytes(self.memory[address - BASE : address - BASE + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        self.memory[address - BASE : address - BASE + size] = value.to_bytes(size, "little")

    def reserve(self, address: int, size: int) -> None:
        self.reservation = (address, size, self.load(address, size))

    def take_reservation(self, address: int, size: int) -> bool:
        reservation, self.reservation = self.reservation, None
        return reservation == (address, size, self.load(address, size))

    def csr(self, number: int, operation: str, value: int, reads: bool, writes: bool) -> int:
        old = self._read_csr(number)
        if writes:
            self._write_csr(number, {"write": value, "set": old | value, "clear": old & ~value}[operation])
        return old

    def _read_csr(self, number: int) -> int:
        if number in (FFLAGS, FRM, FCSR):
            whole = self.frm << 5 | self.hart.fflags
            return {FFLAGS: whole & NV_TO_NX, FRM: whole >> 5, FCSR: whole}[number]
        return self.others.get(number, 0)

    def _write_csr(self, number: int, value: int) -> None:
        if number in (FFLAGS, FCSR):
            self.hart.fflags = value & NV_TO_NX
        if number in (FRM, FCSR):
            self.frm = (value >> (5 if number == FCSR else 0)) & 7
        self.others[number] = value

    def system(self, name: str, arguments: tuple[int, ...]) -> int | None:
        raise NotImplementedError(f"random programs do not have {name}")

    def require_fp(self, dirty: bool) -> None:
        if not self.others.get(MSTATUS, 0):
            raise GuestTrap(2)

    def fp(self, operation: str, operands: tuple[int, ...], rm: int | None) -> int:
        arguments = operands if rm is None else (*operands, rm)
        return int(getattr(softfloat, operation)(self.hart, *arguments))
