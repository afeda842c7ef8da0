"""The checked operators in LLVM.

In a release build what would raise in the Python run gives an unspecified result, but nothing undefined: no wrap flags,
shift counts masked, divisors guarded.
"""

from __future__ import annotations

from native import tree
from native.llvmwriter import Writer, llvm_type
from native.tree import Expr, Type

__all__ = ["ARITHMETIC", "binary", "compare", "negate"]

ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
_PREDICATES = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_DIVISIONS = {"//": "udiv", "%": "urem", "tdiv": "sdiv", "trem": "srem"}


def compare(w: Writer, op: str, kind: Type, left: str, right: str) -> str:
    n = llvm_type(kind)
    if op in ("==", "!="):
        return w.temp(f"icmp {'eq' if op == '==' else 'ne'} {n} {left}, {right}")
    return w.temp(f"icmp {'s' if kind.signed else 'u'}{_PREDICATES[op]} {n} {left}, {right}")


def binary(w: Writer, node: tree.Binary, left: str, right: str) -> str:
    n = llvm_type(node.type)
    if node.op in ("+", "-", "*"):
        return _arithmetic(w, node.op, node, left, right)
    if node.op in ARITHMETIC:
        return w.temp(f"{ARITHMETIC[node.op]} {n} {left}, {right}")
    if node.op in ("<<", ">>"):
        return _shift(w, node, left, right)
    if node.op in ("min", "max"):
        test = compare(w, "<" if node.op == "min" else ">", node.type, left, right)
        return w.temp(f"select i1 {test}, {n} {left}, {n} {right}")
    return _divide(w, node, left, right)


def negate(w: Writer, node: tree.Unary, value: str) -> str:
    return _arithmetic(w, "-", node, "0", value)


def _arithmetic(w: Writer, op: str, node: Expr, left: str, right: str) -> str:
    """`+ - *`, in a debug build in twice the width to see whether the result fits."""
    kind, word = node.type, ARITHMETIC[op]
    if not w.debug:
        return w.temp(f"{word} i{kind.bits} {left}, {right}")
    wide, extend = f"i{2 * kind.bits}", "sext" if kind.signed else "zext"
    a, b = (w.temp(f"{extend} i{kind.bits} {v} to {wide}") for v in (left, right))
    full = w.temp(f"{word} {wide} {a}, {b}")
    cut = w.temp(f"trunc {wide} {full} to i{kind.bits}")
    back = w.temp(f"{extend} i{kind.bits} {cut} to {wide}")
    w.check(w.temp(f"icmp eq {wide} {full}, {back}"), "overflow", node, f"overflows {kind}")
    return cut


def _shift(w: Writer, node: tree.Binary, left: str, right: str) -> str:
    kind, n, count_type = node.type, llvm_type(node.type), node.right.type
    count = right
    if not isinstance(node.right, tree.Const):
        if w.debug and count_type.maximum >= kind.bits:
            small = w.temp(f"icmp ult i{count_type.bits} {right}, {kind.bits}")
            w.check(small, "shift", node, f"shifts {kind} by its width or more")
        count = w.temp(f"and {n} {w.resize(right, count_type.bits, False, kind.bits)}, {kind.bits - 1}")
    down = "ashr" if kind.signed else "lshr"
    if node.op == ">>":
        return w.temp(f"{down} {n} {left}, {count}")
    result = w.temp(f"shl {n} {left}, {count}")
    if w.debug:
        back = w.temp(f"{down} {n} {result}, {count}")
        w.check(w.temp(f"icmp eq {n} {back}, {left}"), "overflow", node, f"loses bits of {kind}")
    return result


def _divide(w: Writer, node: tree.Binary, left: str, right: str) -> str:
    kind, n, word = node.type, llvm_type(node.type), _DIVISIONS[node.op]
    if isinstance(node.right, tree.Const) and node.right.value > 0:
        return w.temp(f"{word} {n} {left}, {right}")
    bad = w.temp(f"icmp eq {n} {right}, 0")
    if w.debug:
        w.check(w.temp(f"xor i1 {bad}, true"), "zero", node, "divides by zero")
    if kind.signed:
        lowest = w.temp(f"icmp eq {n} {left}, {kind.minimum}")
        over = w.temp(f"and i1 {lowest}, {w.temp(f'icmp eq {n} {right}, -1')}")
        if w.debug and node.op == "tdiv":
            w.check(w.temp(f"xor i1 {over}, true"), "overflow", node, f"overflows {kind}")
        bad = w.temp(f"or i1 {bad}, {over}")
    return w.temp(f"{word} {n} {left}, {w.temp(f'select i1 {bad}, {n} 1, {n} {right}')}")
