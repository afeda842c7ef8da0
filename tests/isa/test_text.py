"""The disassembler writes what GNU objdump writes; the assembler gives it back."""

import random
import re
import shutil
import subprocess

import pytest

from core.isa.encoding import EncodingError
from core.isa.table import table
from core.isa.text import assemble, disassemble

OBJDUMP = shutil.which("riscv64-linux-gnu-objdump") or shutil.which("riscv64-unknown-elf-objdump")
LINE = re.compile(r"\s*([0-9a-f]+):\s+([0-9a-f]{4}|[0-9a-f]{8})\s+(.*)")
# objdump has names for the CSRs, and its own for shifts by zero; it does not know fields that are to be ignored, nor
# rounding modes where there is nothing to round
DIFFERENT = ("csr", "c.srli64", "c.srai64", "c.slli64", "fence", "fcvt.d.w", "fcvt.d.s", "sfence")


def words(count):
    rng = random.Random(7)
    for row in table(64).rows():
        for _ in range(count):
            word = rng.getrandbits(8 * row.encoding.length) & ~row.encoding.mask | row.encoding.match
            if row.encoding.matches(word) and not row.name.startswith(DIFFERENT):
                yield word.to_bytes(row.encoding.length, "little")


@pytest.mark.skipif(OBJDUMP is None, reason="needs objdump for RISC-V: package binutils-riscv64-linux-gnu")
def test_instructions_are_written_as_objdump_writes_them(tmp_path):
    file = tmp_path / "words"
    file.write_bytes(b"".join(words(40)))
    command = [OBJDUMP, "-D", "-b", "binary", "-m", "riscv:rv64", "-M", "no-aliases", file]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    compared = 0
    for found in filter(None, map(LINE.match, listing.splitlines())):
        theirs = re.sub(r"\s*[<#].*", "", found[3]).replace("\t", " ").replace(",dyn", "").strip()
        if not theirs.startswith(DIFFERENT):
            assert disassemble(int(found[2], 16), int(found[1], 16)) == theirs
            compared += 1
    assert compared > 5000


def test_an_illegal_instruction_is_shown_as_bits():
    assert disassemble(0) == ".insn 0x0"
    assert disassemble(0xFFFF_FFFF) == ".insn 0xffffffff"


def test_csrs_are_named_if_names_are_given():
    assert disassemble(0x30002573) == "csrrs a0,0x300,zero"
    assert disassemble(0x30002573, csrs={0x300: "mstatus"}) == "csrrs a0,mstatus,zero"


def test_assembled_words():
    assert assemble("addi", rd=10, rs1=0, imm=-1) == 0xFFF00513
    assert assemble("beq", rs1=1, rs2=2, imm=-8) == 0xFE208CE3
    assert assemble("lui", rd=5, imm=0x12345000) == 0x123452B7
    assert assemble("csrrw", rd=1, csr=0x300, rs1=2) == 0x300110F3
    assert assemble("fmadd.d", rd=1, rs1=2, rs2=3, rs3=4) == 0x223100C3
    assert assemble("c.addi", rd=8, imm=-1) == 0x147D
    assert assemble("fence", imm=0xFF) == 0x0FF0000F


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(EncodingError):
        assemble("lui", rd=5, imm=0x123)
    with pytest.raises(EncodingError):
        assemble("c.lw", rd=8, rs1=3, imm=0)
