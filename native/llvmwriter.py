"""Writing the body of one LLVM function: values, labels, stack slots, and the checks of a debug build."""

from __future__ import annotations

import ast

from native import tree
from native.failure import Site
from native.tree import Expr, Type
from native.types import IntType

__all__ = ["Writer", "llvm_type"]


def llvm_type(kind: Type) -> str:
    if isinstance(kind, IntType):
        return f"i{kind.bits}"
    if kind is bool:
        return "i1"
    return "void" if kind is None else "ptr"


class Writer:
    """The text of one function, line by line. `label` is the block being written, `open` whether it has no end yet."""

    def __init__(self, typed: tree.TypedFunction, sites: list[Site] | None) -> None:
        self.filename = typed.filename
        self.result = llvm_type(typed.signature.result)
        self.line = typed.source.lineno
        self.debug = sites is not None
        self._sites = sites if sites is not None else []
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.count = 0
        self.label = "entry"
        self.open = True

    def emit(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def temp(self, text: str) -> str:
        self.count += 1
        self.emit(f"%t{self.count} = {text}")
        return f"%t{self.count}"

    def new_label(self, name: str) -> str:
        self.count += 1
        return f"{name}{self.count}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label, self.open = label, True

    def jump(self, label: str) -> None:
        if self.open:
            self.emit(f"br label %{label}")
            self.open = False

    def branch(self, test: str, yes: str, no: str) -> None:
        self.emit(f"br i1 {test}, label %{yes}, label %{no}")
        self.open = False

    def slot(self, kind: str) -> str:
        """Stack memory of an LLVM type, for the whole call."""
        self.count += 1
        self.slots.append(f"  %s{self.count} = alloca {kind}")
        return f"%s{self.count}"

    def choose(self, kind: Type, arms: list[tuple[str, str]]) -> str:
        return self.temp(f"phi {llvm_type(kind)} " + ", ".join(f"[ {value}, %{label} ]" for value, label in arms))

    def resize(self, value: str, bits: int, signed: bool, to: int) -> str:
        """Extend by the sign, or cut."""
        if bits == to:
            return value
        return self.temp(f"{'trunc' if to < bits else 'sext' if signed else 'zext'} i{bits} {value} to i{to}")

    # --- checks of a debug build ------------------------------------------------------------------------------------

    def check(self, ok: str, kind: str, node: Expr, problem: str) -> None:
        """Leave the function unless the i1 holds."""
        self.check_text(ok, kind, f"{ast.unparse(node.at)} {problem}")

    def check_text(self, ok: str, kind: str, text: str) -> None:
        self._sites.append(Site(kind, text, self.filename, self.line))
        good, bad = self.new_label("ok"), self.new_label("fail")
        self.branch(ok, good, bad)
        self.start(bad)
        self.emit(f"call void @native.fail(i64 {len(self._sites) - 1})")
        self.leave()
        self.start(good)

    def check_callee(self) -> None:
        """Leave the function when the one just called has failed."""
        failed, good, bad = self.temp("call i1 @native.pending()"), self.new_label("ok"), self.new_label("failed")
        self.branch(failed, bad, good)
        self.start(bad)
        self.leave()
        self.start(good)

    def leave(self) -> None:
        zero = {"void": "", "ptr": " null", "i1": " false"}.get(self.result, " 0")
        self.emit(f"ret {self.result}{zero}")
