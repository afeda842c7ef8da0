"""Where IR text and functions meet: both sides must say the same types and calling convention.

LLVM does not compare a call with what it calls (a mismatch is undefined behaviour), so this does, on the text: every
direct call of a function in IR, and every definition in IR of what an `@external` declares. A line with parentheses
inside its arguments (attributes with values, constant expressions) is not understood and not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from native.errors import CompileError
from native.function import Callee
from native.llvmfunction import header

__all__ = ["check_interfaces"]

_USE = re.compile(r"^.*?\b(call|define)\b([^@\n]*)@\"?([-\w.$]+)\"?\(([^()\n]*)\)", re.MULTILINE)
_WORDS = re.compile(r"\bvoid\b|\bptr\b|\bi\d+\b|\b\w+cc\b")


def check_interfaces(ir: str, callees: Mapping[str, Callee[..., Any]]) -> None:
    """CompileError where the IR text calls or defines one of them otherwise than it is declared."""
    for line, kind, symbol, said in _uses(ir):
        callee = callees.get(symbol)
        if callee is None:
            continue
        _, _, wanted = next(_parse(f"call {header(callee, [''] * len(callee.signature.params))}"))
        if said != wanted:
            verb = "calls" if kind == "call" else "defines"
            raise CompileError(f"IR line {line} {verb} {symbol} as {_show(said)}, it is {_show(wanted)}")


def _uses(ir: str) -> Iterator[tuple[int, str, str, list[str]]]:
    line, at = 1, 0
    for match in _USE.finditer(ir):
        line += ir.count("\n", at, match.start(1))
        at = match.start(1)
        for kind, symbol, said in _parse(match[0]):
            yield line, kind, symbol, said


def _parse(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, symbol, and [convention or "ccc", result, parameters…]."""
    match = _USE.match(text)
    if match:
        before = _WORDS.findall(match[2])
        convention = next((word for word in before if word.endswith("cc")), "ccc")
        params = [_WORDS.findall(param)[:1] or ["?"] for param in match[4].split(",") if param.strip()]
        yield match[1], match[3], [convention, before[-1] if before else "?", *(p[0] for p in params)]


def _show(said: list[str]) -> str:
    convention, result, *params = said
    return f"{'' if convention == 'ccc' else convention + ' '}{result} ({', '.join(params)})"
