"""What is committed as machine code is what its source makes, bit for bit, with the compiler it names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conversation import missing

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "riscv64-unknown-elf-gcc"
LARGEST = 200_000  # bytes of the guest's ELF


def compiler_of(elf: Path) -> str:
    """The compiler's own line in the ELF's .comment section."""
    found = re.search(rb"GCC: \(([^)]*)\) [0-9.]+", elf.read_bytes())
    return found[0].decode() if found else ""


def installed_compiler() -> str:
    if shutil.which(COMPILER) is None:
        missing("gcc-riscv64-unknown-elf")
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    words = version.splitlines()[0].split(" ", 1)[1]
    return f"GCC: {words}"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["guest", "bench/guest"])
def test_the_committed_machine_code_comes_from_the_committed_source(place: str, tmp_path: Path) -> None:
    committed = sorted((ROOT / place).glob("*.elf"))
    made_by = {compiler_of(elf) for elf in committed} - {""}
    if made_by and made_by != {installed_compiler()}:
        pytest.skip(f"made by {made_by}, but installed is {installed_compiler()}")
    copy = tmp_path / "source"
    shutil.copytree(ROOT / place, copy, ignore=shutil.ignore_patterns("build", "__pycache__"))
    subprocess.run(["make", "-s", "-C", str(copy), "check"], check=True, capture_output=True, timeout=120)


def test_the_guest_is_small() -> None:
    assert (ROOT / "guest" / "bulkhead-guest.elf").stat().st_size < LARGEST
    assert (ROOT / "guest" / "bootsector.bin").stat().st_size == 512
