"""Guests that need no device: from ten instructions to U-Boot, with and without firmware."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from core.board.boot import BootFiles
from core.board.virt import RAM_BASE, Machine
from core.events import PowerReason
from tests.board.rig import Rig

MEGABYTE = 1 << 20
SMALL = Machine(memory=16 * MEGABYTE)
OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
U_BOOT = Path("/usr/lib/u-boot")

# Registers and the few encodings that the programs below are made of.
ZERO, T0, T1, A0, A1, A2, A6, A7 = 0, 5, 6, 10, 11, 12, 16, 17
ECALL = 0x00000073
WFI = 0x10500073
CSRS_SIE_T0 = 0x1042A073
LOOP = 0x0000006F  # j .


def lui(rd: int, value: int) -> int:
    return value & 0xFFFFF000 | rd << 7 | 0x37


def addi(rd: int, rs1: int, value: int) -> int:
    return (value & 0xFFF) << 20 | rs1 << 15 | rd << 7 | 0x13


def sw(rs2: int, rs1: int) -> int:
    return rs2 << 20 | rs1 << 15 | 2 << 12 | 0x23


def sb(rs2: int, rs1: int) -> int:
    return rs2 << 20 | rs1 << 15 | 0x23


def li(rd: int, value: int) -> list[int]:
    """A constant of 31 bits."""
    return [lui(rd, value + 0x800), addi(rd, rd, value)]


def call(extension: int, function: int, **arguments: int) -> list[int]:
    """An SBI call."""
    names = {"a0": A0, "a1": A1, "a2": A2}
    code = [word for name, value in arguments.items() for word in li(names[name], value)]
    return [*code, *li(A6, function), *li(A7, extension), ECALL]


@pytest.fixture
def program(tmp_path):
    def write(code: list[int]) -> str:
        path = tmp_path / "program"
        path.write_bytes(struct.pack(f"<{len(code)}I", *code))
        return str(path)

    return write


def needs(path: Path, package: str) -> str:
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing: CI installs {package}")
        pytest.skip(f"needs {path} (apt-get install {package})")
    return str(path)


def test_a_bare_metal_program_prints_and_ends_with_its_code(program):
    code = li(T0, 0x10000000)
    for byte in b"bare\n":
        code += [addi(T1, ZERO, byte), sb(T1, T0)]
    code += [*li(T0, 0x100000), *li(T1, 42 << 16 | 0x3333), sw(T1, T0), LOOP]
    with Rig(SMALL, BootFiles(kernel=program(code), bios="none")) as rig:
        assert rig.run(10) == (PowerReason.FINISHER, 42)
        assert rig.output == b"bare\n"


def test_a_supervisor_prints_through_the_sbi_and_shuts_down(program):
    code = [word for byte in b"sbi\n" for word in call(0x4442434E, 2, a0=byte)]
    code += [*call(0x53525354, 0, a0=0, a1=0), LOOP]
    with Rig(SMALL, BootFiles(kernel=program(code))) as rig:
        assert rig.run(10) == (PowerReason.POWEROFF, 0)
        assert rig.output == b"sbi\n"


def test_a_hart_is_started_by_another(program):
    """Hart 0 starts hart 1 at an address where hart 1 ends the machine with its id, which it finds in a0."""
    second = RAM_BASE + 0x200000 + 0x400
    code = call(0x48534D, 0, a0=1)  # a1 needs 32 bits: set below
    at_a1 = [addi(A1, ZERO, 0x401), second_shift(A1), addi(A1, A1, second & 0xFFF)]
    code = [*at_a1, *code, LOOP]
    code += [0x13] * (0x100 - len(code))
    code += [*li(T0, 0x100000), *li(T1, 0x3333), slli(A0, A0, 16), add(T1, T1, A0), sw(T1, T0), LOOP]
    with Rig(Machine(memory=16 * MEGABYTE, harts=2), BootFiles(kernel=program(code))) as rig:
        assert rig.run(10) == (PowerReason.FINISHER, 1)


def slli(rd: int, rs1: int, shift: int) -> int:
    return shift << 20 | rs1 << 15 | 1 << 12 | rd << 7 | 0x13


def second_shift(rd: int) -> int:
    """0x401 << 21 is 0x80200000."""
    return slli(rd, rd, 21)


def add(rd: int, rs1: int, rs2: int) -> int:
    return rs2 << 20 | rs1 << 15 | rd << 7 | 0x33


def test_in_lockstep_two_runs_execute_the_same_instructions(program):
    """A hundred waits for the timer: with the host's clock no two runs would count alike."""
    wait = [*call(0x54494D45, 0, a0=0), WFI]  # set_timer(0), wfi
    code = [*li(T0, 1 << 5), CSRS_SIE_T0, *(word for _ in range(100) for word in wait)]
    code += [*call(0x53525354, 0, a0=0, a1=0), LOOP]
    counts = []
    for _ in range(2):
        with Rig(Machine(memory=16 * MEGABYTE, lockstep=True), BootFiles(kernel=program(code))) as rig:
            rig.run(10)
        counts.append(rig.last_instret)
    assert counts[0] == counts[1] > 100


@pytest.mark.slow
def test_u_boot_reaches_its_prompt_in_s_mode():
    files = BootFiles(kernel=needs(U_BOOT / "qemu-riscv64_smode/u-boot.bin", "u-boot-qemu"))
    with Rig(Machine(memory=128 * MEGABYTE), files) as rig:
        rig.expect(b"\n=> ")
        rig.send(b"poweroff\n")
        assert rig.run() == (PowerReason.POWEROFF, 0)


@pytest.mark.slow
def test_u_boot_reaches_its_prompt_in_m_mode():
    files = BootFiles(bios=needs(U_BOOT / "qemu-riscv64/u-boot.bin", "u-boot-qemu"))
    with Rig(Machine(memory=128 * MEGABYTE), files) as rig:
        rig.expect(b"\n=> ")
        rig.send(b"poweroff\n")
        assert rig.run() == (PowerReason.POWEROFF, 0)


@pytest.mark.slow
@pytest.mark.parametrize("firmware", ["fw_jump.elf", "fw_jump.bin", "fw_dynamic.bin"])
def test_opensbi_starts_u_boot(firmware):
    files = BootFiles(
        bios=needs(OPENSBI / firmware, "opensbi"),
        kernel=needs(U_BOOT / "qemu-riscv64_smode/u-boot.bin", "u-boot-qemu"),
    )
    with Rig(Machine(memory=128 * MEGABYTE, harts=2), files) as rig:
        assert b"Platform HART Count       : 2" in rig.expect(b"\n=> ")
