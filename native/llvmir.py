"""The machine run: functions of a unit, with everything they use, as the text of one LLVM module.

In a release build nothing is checked. A debug build checks everything but the address itself; see `native.failure`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from native.compiler import compile_function
from native.errors import CompileError
from native.failure import FAILURE_IR, Site
from native.function import AnyFunction, Callee, Function, Table
from native.interface import check_interfaces
from native.intrinsics import Intrinsic
from native.llvmfunction import FunctionText, header

__all__ = ["Module"]

_DEFINED = re.compile(r"^define\b[^@\n]*@\"?([-\w.$]+)\"?\s*\(", re.MULTILINE)
_DECLARED = re.compile(r"^declare\b[^@\n]*@\"?([-\w.$]+)\"?\s*\(.*$", re.MULTILINE)


class Module:
    """The IR of a unit, and in a debug build the sites of its checks."""

    def __init__(self, exported: frozenset[str], debug: bool, extra_ir: str) -> None:
        self.exported = exported  # symbols that stay visible
        self.debug = debug
        self.sites: list[Site] = []
        self._extra = extra_ir
        self._defined = set(_DEFINED.findall(extra_ir))
        self._texts: dict[str, str] = {}
        self._declares: dict[str, str] = {}
        self._tables: dict[str, Table] = {}
        self._waiting: list[AnyFunction] = []
        self._functions: dict[str, AnyFunction] = {}
        self._externals: list[Callee[..., Any]] = []

    def add(self, functions: Iterable[AnyFunction]) -> None:
        """Compile functions and everything they call."""
        for function in functions:
            self.use(function)
        while self._waiting:
            function = self._waiting.pop()
            self.write(function)

    def write(self, function: AnyFunction) -> None:
        text = FunctionText(compile_function(function), self.sites if self.debug else None)
        self._texts[function.symbol] = text.build("dso_local" if function.symbol in self.exported else "internal")
        for callee in text.callees:
            self.use(callee)
        for intrinsic in text.intrinsics:
            self.use_intrinsic(intrinsic)
        self._tables.update((table.symbol, table) for table in text.tables)

    def use(self, callee: Callee[..., Any]) -> None:
        """Note that something calls it."""
        if isinstance(callee, Function):
            if callee.symbol not in self._functions:
                self._functions[callee.symbol] = callee
                self._waiting.append(callee)
            elif self._functions[callee.symbol] is not callee:
                raise CompileError(f"two functions are called {callee.symbol}")
        else:
            self._externals.append(callee)

    def use_intrinsic(self, intrinsic: Intrinsic[..., Any]) -> None:
        if intrinsic.declares:
            name = re.search(r"@([-\w.$]+)", intrinsic.declares.rpartition("define")[2])
            assert name
            self._declares.setdefault(name[1], intrinsic.declares)

    def text(self) -> str:
        """The whole module. What one part declares and another defines is declared no more."""
        for external in self._externals:
            self.declare_external(external)
        check_interfaces(self._extra, {**{e.symbol: e for e in self._externals}, **self._functions})
        own = "\n".join([*self._declares.values(), *(FAILURE_IR,) * self.debug])
        mine = {*self._functions, *_DEFINED.findall(own), *_DECLARED.findall(own)}
        extra = _DECLARED.sub(lambda m: "" if m[1] in mine | self._defined else m[0], self._extra)
        tables = (_table_text(t) for t in self._tables.values())
        return "\n".join([own, *tables, *self._texts.values(), extra, ""])

    def declare_external(self, external: Callee[..., Any]) -> None:
        """It is defined in the IR text, or by a function of that symbol, or (the linker will say so) nowhere."""
        function = self._functions.get(external.symbol)
        text = header(external, [""] * len(external.signature.params))
        if function is not None and text != header(function, [""] * len(function.signature.params)):
            raise external.error(f"is not declared as {function.symbol} is defined")
        if function is None and external.symbol not in self._defined:
            self._declares[external.symbol] = f"declare {text}"


def _table_text(table: Table) -> str:
    kind = f"i{table.element.bits}"
    values = ", ".join(f"{kind} {v}" for v in table.values)
    return f"@{table.symbol} = internal constant [{len(table)} x {kind}] [{values}]"
