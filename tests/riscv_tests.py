"""Run the riscv-tests: `python tests/riscv_tests.py DIRECTORY [NAME...]`.

DIRECTORY holds the built tests of riscv-software-src/riscv-tests (its `isa`); each ELF named like rv64ui-p-add
is started in M-mode and ends by writing `tohost` (HTIF): 1 is a pass, anything else odd says which case failed. Prints
a line for each failure and a count for each suite. docs/testing.md says how to build them.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.bare import BareMachine
from core.board.boot import BootFiles
from core.board.virt import RAM_BASE, Machine
from core.cpu.engine import load_engine

TEST = re.compile(r"rv64(ui|um|ua|uf|ud|uc|mi|si)-[pv]-[\w-]+$")
MEMORY = 16 << 20
SECTION_SYMBOLS = 2  # SHT_SYMTAB


def symbol(elf: bytes, name: str) -> int:
    """The value of a symbol of a 64-bit ELF. Raises KeyError."""
    at, size, count = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, at + index * size) for index in range(count)]
    for section in sections:
        if section[1] == SECTION_SYMBOLS:
            names = sections[section[6]][4]
            for entry in range(section[4], section[4] + section[5], 24):
                label, value = struct.unpack_from("<I", elf, entry)[0], struct.unpack_from("<Q", elf, entry + 8)[0]
                if elf[names + label : elf.index(b"\0", names + label)].decode() == name:
                    return int(value)
    raise KeyError(name)


def run_test(engine: object, path: Path, timeout: float) -> str:
    """Run one test: "" if it passed, else what happened."""
    tohost = symbol(path.read_bytes(), "tohost") - RAM_BASE
    with BareMachine(engine, Machine(memory=MEMORY)) as machine:
        machine.load(BootFiles(kernel=str(path), bios="none"))
        machine.start()
        word = machine.ram.view()[tohost : tohost + 8].cast("Q")
        deadline = time.monotonic() + timeout
        while not word[0] & 1:
            word[0] = 0  # a character to print: acknowledged, not shown
            if time.monotonic() > deadline:
                return f"still running after {timeout} s, at {machine.harts[0].pc:#x}"
            machine.join(0.0005)
        result = word[0]
        word.release()
    return "" if result == 1 else f"case {result >> 1} failed"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run riscv-tests that have been built.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds a test may run")
    parser.add_argument("--debug", action="store_true", help="with the checks of a debug build")
    options = parser.parse_args()
    tests = sorted(path for path in options.directory.iterdir() if TEST.match(path.name))
    if options.names:
        tests = [path for path in tests if path.name in options.names]
    engine = load_engine(debug=options.debug)
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for path in tests:
        suite = "-".join(path.name.split("-")[:2])
        total[suite] += 1
        failure = run_test(engine, path, options.timeout)
        passed[suite] += not failure
        if failure:
            print(f"{path.name}: {failure}", flush=True)
    for suite, count in total.items():
        print(f"{suite}: {passed[suite]} of {count}")
    print(f"all: {sum(passed.values())} of {sum(total.values())}")
    return 0 if passed == total and total else 1


if __name__ == "__main__":
    sys.exit(main())
