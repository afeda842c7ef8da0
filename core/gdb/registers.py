"""What gdb is told of the registers: the target description, and which number means which (gdb manual, G.5.12).

Numbers are gdb's own for RISC-V: x0 to x31, pc, f0 to f31, then every CSR at 65 + its address, then the privilege mode.
A `g` packet has the first 33; gdb asks for the others one by one.
"""

from __future__ import annotations

from core.cpu.csrs import CSRS

__all__ = ["CSR_FIRST", "F_FIRST", "GENERAL", "PC", "PRIVILEGE", "target_description"]

PC = 32
GENERAL = 33  # registers of a g packet
F_FIRST = 33
CSR_FIRST = 65
PRIVILEGE = CSR_FIRST + 4096

X_NAMES = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1"),
    *(f"a{n}" for n in range(8)),
    *(f"s{n}" for n in range(2, 12)),
    *(f"t{n}" for n in range(3, 7)),
)
F_NAMES = (
    *(f"ft{n}" for n in range(8)),
    *("fs0", "fs1"),
    *(f"fa{n}" for n in range(8)),
    *(f"fs{n}" for n in range(2, 12)),
    *(f"ft{n}" for n in range(8, 12)),
)
FP_CSRS = (1, 2, 3)  # fflags, frm, fcsr


def target_description() -> str:
    """The XML document that qXfer:features:read gives."""
    return "".join(
        (
            '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target version="1.0">\n',
            "<architecture>riscv:rv64</architecture>\n",
            _feature("cpu", [_register(name, n, _kind(name)) for n, name in enumerate((*X_NAMES, "pc"))]),
            _feature(
                "fpu",
                [_register(name, F_FIRST + n, "ieee_double") for n, name in enumerate(F_NAMES)]
                + [_register(csr.name, CSR_FIRST + csr.address, "int") for csr in CSRS if csr.address in FP_CSRS],
            ),
            _feature(
                "csr",
                [_register(csr.name, CSR_FIRST + csr.address, "int") for csr in CSRS if csr.address not in FP_CSRS],
            ),
            _feature("virtual", [_register("priv", PRIVILEGE, "int")]),
            "</target>\n",
        )
    )


def _kind(name: str) -> str:
    return {"pc": "code_ptr", "ra": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr"}.get(name, "int")


def _register(name: str, number: int, kind: str) -> str:
    return f'<reg name="{name}" bitsize="64" type="{kind}" regnum="{number}"/>\n'


def _feature(name: str, registers: list[str]) -> str:
    return f'<feature name="org.gnu.gdb.riscv.{name}">\n{"".join(registers)}</feature>\n'
