"""What a unit's machine code depends on, as a hash: computed without parsing, compiling or importing llvmlite.

For each function reachable by name: the text of its file, and what the globals it names stand for (constants, tables,
layouts, other functions). Besides: the text of this package, llvmlite's version, the CPU, and the unit's settings.
More than needed may be reachable; then a change somewhere builds a unit again that need not have been.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from native.function import AnyFunction, Callee, Function, Table
from native.records import Record
from native.source import source_text
from native.types import IntType

__all__ = ["unit_key"]


def unit_key(functions: Iterable[AnyFunction], *settings: str) -> str:
    """A name for the unit's image in the cache."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (_generator(), _llvm(), _cpu(), *settings, *_Reachable(functions).parts):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


class _Reachable:
    """Everything that functions name, once each, as text."""

    def __init__(self, functions: Iterable[AnyFunction]) -> None:
        self.parts: list[str] = []
        self._files: set[str] = set()
        self._seen: set[int] = set()
        self._waiting: list[AnyFunction] = []
        for function in functions:
            self.thing("root", function)
        while self._waiting:
            self.function(self._waiting.pop())

    def function(self, function: AnyFunction) -> None:
        code = function.code
        filename = code.co_filename
        if filename not in self._files:
            self._files.add(filename)
            self.parts.append(source_text(filename))
            self.aliases(function.python.__globals__)
        self.parts.append(f"{function.symbol} {function.cc} {function.inline} {function.cold}")
        for name in (*code.co_names, *code.co_freevars):
            try:
                value = function.lookup(name)
            except (KeyError, ValueError):
                continue  # an attribute of that name, most likely
            self.thing(name, value)
            if _has_constants(value):
                self.members(value, code.co_names)

    def aliases(self, scope: dict[str, Any]) -> None:
        """Types under other names: declarations of locals leave no trace in bytecode."""
        self.parts.extend(f"{name}={value}" for name, value in scope.items() if isinstance(value, IntType))

    def members(self, owner: Any, names: Iterable[str], depth: int = 2) -> None:
        for name in names:
            value = getattr(owner, name, None)
            if value is None:
                continue
            self.thing(f"{owner.__name__}.{name}", value)
            if depth and _has_constants(value):
                self.members(value, names, depth - 1)

    def thing(self, name: str, value: Any) -> None:
        if isinstance(value, int):
            self.parts.append(f"{name}={int(value)}")
        elif isinstance(value, enum.Enum):
            self.parts.append(f"{name}={value.value!r}")
        elif isinstance(value, Callee | Table | type) and id(value) not in self._seen:
            self._seen.add(id(value))
            self.parts.extend(self.describe(value))

    def describe(self, value: Any) -> Iterator[str]:
        if isinstance(value, Callee):
            yield f"{value.symbol} {value.cc} {value.signature.describe()}"
            for kind in (*(p.type for p in value.signature.params), value.signature.result):
                self.thing("type", kind)
            if isinstance(value, Function):
                self._waiting.append(value)
        elif isinstance(value, Table):
            yield f"{value.symbol} {len(value)}"
        elif issubclass(value, Record):
            yield value.layout()


def _has_constants(value: Any) -> bool:
    """Whether functions may name constants as `value.NAME`."""
    return isinstance(value, ModuleType) or (isinstance(value, type) and not issubclass(value, Record))


@lru_cache(maxsize=1)
def _generator() -> str:
    """The text of this package."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return "".join(file.read_text("utf-8") for file in files)


@lru_cache(maxsize=1)
def _llvm() -> str:
    """llvmlite's version, read without importing it."""
    spec = importlib.util.find_spec("llvmlite")
    if spec is None or not spec.origin:
        return "no llvmlite"
    version = Path(spec.origin).with_name("_version.py")
    return version.read_text("utf-8") if version.exists() else spec.origin


@lru_cache(maxsize=1)
def _cpu() -> str:
    """Architecture, model and features of the first processor."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    with open("/proc/cpuinfo", "rb") as file:
        text = file.read(8192).decode("ascii", "replace")
    lines = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith(wanted)]
    return "\n".join([os.uname().machine, *lines])
