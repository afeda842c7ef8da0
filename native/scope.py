"""What names mean inside a function: its locals with their types, and the constants outside of it."""

from __future__ import annotations

import ast
import enum
from types import ModuleType
from typing import Any, TypeAlias

from native.errors import CompileError
from native.function import AnyFunction
from native.source import syntax
from native.tree import Type

__all__ = ["Assigned", "Scope"]

Assigned: TypeAlias = set[str] | None  # the locals that have a value; None where control does not come


class Scope:
    """One function while it is compiled."""

    def __init__(self, function: AnyFunction) -> None:
        self.function = function
        self.source = syntax(function)
        self.locals: dict[str, Type] = {p.name: p.type for p in function.signature.params}
        self.names = set(function.code.co_varnames) | {
            n.id for n in ast.walk(self.source) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        self.assigned: Assigned = set(self.locals)

    def error(self, at: ast.AST, message: str) -> CompileError:
        """An error that shows the construct and where it stands."""
        line = getattr(at, "lineno", self.source.lineno)
        text = ast.unparse(at).partition("\n")[0] if isinstance(at, ast.expr | ast.stmt) else ""
        if isinstance(at, ast.FunctionDef):
            text = ""
        shown = f"{message}: {text}" if text else message
        return CompileError(shown, self.function.code.co_filename, line)

    def static(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a module or a class, is outside the function."""
        if isinstance(node, ast.Name):
            if node.id in self.names:
                raise self.error(node, f"the local {node.id} is no constant")
            try:
                return self.function.lookup(node.id)
            except (KeyError, ValueError):
                raise self.error(node, f"unknown name {node.id}") from None
        if isinstance(node, ast.Attribute):
            owner = self.static(node.value)
            if isinstance(owner, ModuleType | type | enum.Enum) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
        raise self.error(node, "unknown name" if isinstance(node, ast.Attribute) else "this is not a constant")

    def is_static(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id not in self.names

    def type_from(self, node: ast.expr) -> Type:
        annotation = node.value if isinstance(node, ast.Constant) else self.static(node)
        try:
            kind = self.function.resolve_type(annotation)
        except CompileError as error:
            raise self.error(node, error.message.partition(": ")[2]) from None
        if kind is None:
            raise self.error(node, "a local cannot be None")
        return kind
