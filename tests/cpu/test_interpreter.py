"""What the interpreter does between and around instructions: pages, traps, counting, floating-point state."""

import time

import pytest
from harness import program
from random_programs import STOP

from core.board.virt import RAM_BASE
from core.cpu import calls
from core.cpu.engine import EXPORTS
from core.cpu.handlers import H_CROSS, H_DECODE
from core.cpu.interpreter import interpreter_ir
from core.cpu.state import PAGE_SIZE
from core.isa.text import assemble
from native import Unit

END = b"".join(word.to_bytes(4, "little") for word in STOP)
HANDLER = RAM_BASE + 0x8000
FS_OFF, FS_INITIAL, FS_CLEAN, FS_DIRTY = (state << 13 for state in range(4))
MCYCLE, MINSTRET, FRM = 0xB00, 0xB02, 0x002
NOP = assemble("addi").to_bytes(4, "little")
C_NOP = assemble("c.addi").to_bytes(2, "little")


@pytest.fixture
def run(machine_native):
    """Run code at an address until it ends the machine; a trap ends it too. The hart, for looking at."""
    machine, hart = machine_native

    def execute(code, at=RAM_BASE, end=END):
        machine.write(HANDLER, END)
        hart.mtvec = HANDLER
        hart.mcause = hart.mepc = hart.mtval = 0xDEAD
        machine.write(at, code + end)
        hart.pc = at
        machine.start()
        assert machine.join(60)
        return hart

    return execute


def trap(hart):
    return hart.mcause, hart.mepc, hart.mtval


NO_TRAP = (0xDEAD, 0xDEAD, 0xDEAD)


@pytest.mark.parametrize("filler", [NOP, C_NOP])
def test_execution_goes_on_in_the_next_page(run, filler):
    count = PAGE_SIZE // len(filler) + 10
    hart = run(filler * count + program(("addi", {"rd": 10, "imm": 7})))
    assert hart.x[10] == 7
    assert trap(hart) == NO_TRAP


@pytest.mark.parametrize(
    ("name", "operands", "result"),
    [
        ("addi", {"imm": -5}, -5 % (1 << 64)),
        ("auipc", {}, RAM_BASE + 0xFFE),
        ("jal", {"imm": 4}, RAM_BASE + 0x1002),
        ("csrrs", {"csr": 0x305}, HANDLER),
        ("ld", {"rs1": 11}, int.from_bytes(END[:8], "little")),
    ],
)
def test_an_instruction_that_straddles_two_pages(run, machine_native, name, operands, result):
    machine_native[1].x[11] = HANDLER
    hart = run(program((name, {"rd": 10, **operands})), RAM_BASE + 0xFFE)
    assert hart.x[10] == result
    assert trap(hart) == NO_TRAP


def test_a_straddling_branch_goes_where_it_says(run):
    hart = run(program(("beq", {"imm": 8}), ("addi", {"rd": 10, "imm": 1})), RAM_BASE + 0xFFE)
    assert hart.x[10] == 0
    assert trap(hart) == NO_TRAP


def test_the_second_half_of_a_straddling_instruction_is_fetched_each_time(run, machine_native):
    run(program(("addi", {"rd": 10, "imm": 1})), RAM_BASE + 0xFFE)
    machine_native[0].board.stopping = 0
    machine_native[0].board.finisher.posted = 0
    hart = run(program(("addi", {"rd": 10, "imm": 2})), RAM_BASE + 0xFFE)
    assert hart.x[10] == 2


def test_a_fault_in_the_second_half_shows_the_address_of_that_half(run, machine_native):
    last = RAM_BASE + machine_native[0].machine.memory - 2
    hart = run(b"\x13\x05", last, end=b"")
    assert trap(hart) == (1, last, last + 2)


def test_running_off_the_end_of_ram_is_a_fetch_fault(run, machine_native):
    end = RAM_BASE + machine_native[0].machine.memory
    assert trap(run(NOP, end - 4, end=b"")) == (1, end, end)


@pytest.mark.parametrize("bits", [0, 0x8000, 0xFFFF_FFFF, 0x0000_705B])
def test_an_illegal_instruction_traps_with_its_bits(run, bits):
    size = 4 if bits & 3 == 3 else 2
    assert trap(run(bits.to_bytes(size, "little"))) == (2, RAM_BASE, bits)


def test_a_load_from_nowhere_changes_nothing(run, machine_native):
    machine_native[1].x[10] = 42
    hart = run(program(("ld", {"rd": 10, "rs1": 0, "imm": 8})))
    assert trap(hart) == (5, RAM_BASE, 8)
    assert hart.x[10] == 42


def test_jalr_ignores_the_lowest_bit_of_its_target(run):
    hart = run(program(("auipc", {"rd": 5}), ("jalr", {"rd": 1, "rs1": 5, "imm": 13}), ("addi", {"rd": 10, "imm": 1})))
    assert hart.x[10] == 0
    assert hart.x[1] == RAM_BASE + 8


def test_jalr_reads_its_base_before_it_links(run):
    hart = run(program(("auipc", {"rd": 1}), ("jalr", {"rd": 1, "rs1": 1, "imm": 12}), ("addi", {"rd": 10, "imm": 1})))
    assert hart.x[10] == 0


@pytest.mark.parametrize("distance", [0xFF0, 0x1000, 0x7FE00, -0x1000])
def test_jumps_to_other_pages(run, machine_native, distance):
    at = RAM_BASE + 0x4000
    machine_native[0].write(at + distance, program(("addi", {"rd": 10, "imm": 9})) + END)
    hart = run(program(("jal", {"rd": 0, "imm": distance}), ("addi", {"rd": 11, "imm": 1})), at)
    assert (hart.x[10], hart.x[11]) == (9, 0)


def test_every_instruction_is_counted(run):
    loops = 5000
    hart = run(
        program(
            ("csrrs", {"rd": 20, "csr": MINSTRET}),
            ("addi", {"rd": 5, "imm": loops // 5}),
            ("addi", {"rd": 5, "rs1": 5, "imm": -1}),
            ("bne", {"rs1": 5, "rs2": 0, "imm": -4}),
            ("csrrs", {"rd": 21, "csr": MINSTRET}),
            ("csrrs", {"rd": 22, "csr": MCYCLE}),
        )
    )
    assert hart.x[21] - hart.x[20] == 2 + 2 * (loops // 5)
    assert hart.x[22] == hart.x[21] + 1


def test_an_instruction_that_traps_is_not_counted(run, machine_native):
    machine, hart = machine_native
    back = program(
        ("csrrs", {"rd": 6, "csr": 0x341}),
        ("addi", {"rd": 6, "rs1": 6, "imm": 4}),
        ("csrrw", {"csr": 0x341, "rs1": 6}),
        ("mret", {}),
    )
    code = program(
        ("auipc", {"rd": 5}),
        ("addi", {"rd": 5, "rs1": 5, "imm": 0x100}),
        ("csrrw", {"csr": 0x305, "rs1": 5}),
        ("csrrs", {"rd": 20, "csr": MINSTRET}),
        ("ecall", {}),
        ("csrrs", {"rd": 21, "csr": MINSTRET}),
    )
    machine.write(RAM_BASE + 0x100, back)
    run(code)
    assert hart.x[21] - hart.x[20] == 1 + 4


def test_an_endless_loop_can_be_ended(machine_native):
    machine, hart = machine_native
    machine.write(RAM_BASE, program(("jal", {"rd": 0, "imm": 0})))
    hart.pc = RAM_BASE
    machine.start()
    before = hart.instret
    deadline = time.monotonic() + 60
    while hart.instret == before and time.monotonic() < deadline:
        pass
    machine.stop()
    assert hart.instret > before
    assert hart.pc == RAM_BASE


@pytest.mark.parametrize(("before", "after"), [(FS_INITIAL, FS_DIRTY), (FS_CLEAN, FS_DIRTY), (FS_DIRTY, FS_DIRTY)])
def test_an_instruction_that_writes_a_floating_point_register_makes_fs_dirty(run, machine_native, before, after):
    machine_native[1].mstatus |= before
    assert run(program(("fadd.d", {"rd": 1}))).mstatus & FS_DIRTY == after


def test_a_floating_point_store_leaves_fs_clean(run, machine_native):
    machine_native[1].mstatus |= FS_CLEAN
    machine_native[1].x[5] = RAM_BASE + 0x1000
    assert run(program(("fsd", {"rs2": 1, "rs1": 5}))).mstatus & FS_DIRTY == FS_CLEAN


@pytest.mark.parametrize("name", ["fadd.s", "fld", "fsd", "c.fsdsp", "fmv.x.d", "feq.d", "fcvt.d.w", "fsgnj.s"])
def test_floating_point_is_illegal_while_fs_is_off(run, name):
    word = assemble(name)
    size = 2 if name.startswith("c.") else 4
    assert trap(run(word.to_bytes(size, "little"))) == (2, RAM_BASE, word)


@pytest.mark.parametrize("mode", [5, 6, 7])
def test_a_reserved_dynamic_rounding_mode_is_illegal(run, machine_native, mode):
    machine_native[1].mstatus |= FS_DIRTY
    machine_native[1].frm = mode
    word = assemble("fmul.d", rm=7)
    assert trap(run(word.to_bytes(4, "little"))) == (2, RAM_BASE, word)


def test_a_reserved_dynamic_rounding_mode_does_not_matter_to_who_does_not_round(run, machine_native):
    machine_native[1].mstatus |= FS_DIRTY
    machine_native[1].frm = 5
    assert trap(run(program(("fadd.d", {"rd": 1, "rm": 0}), ("fmin.d", {"rd": 2}), ("feq.s", {"rd": 3})))) == NO_TRAP


def test_the_handlers_of_rv32_compile():
    unit = Unit(
        "interpreter-rv32",
        exports=EXPORTS,
        functions=calls.all_calls(),
        ir=interpreter_ir(32),
        symbols=[H_DECODE, H_CROSS],
        opt="sroa",
        codegen=0,
    )
    assert unit.load().symbol_address(H_DECODE)
