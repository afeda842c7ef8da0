"""What a module of restricted Python declares: functions, functions defined elsewhere, and tables.

    @fn
    def add_saturating(a: u32, b: u32) -> u32:
        return a + b if a <= 0xFFFFFFFF - b else u32(0xFFFFFFFF)

    CODES = table(u8, [3, 1, 4, 1, 5])

Declaring is cheap: nothing is read, parsed or checked until a function is first run or compiled. Calling a function is
its *checked Python run* (`native.pyrun`); `native.Unit` makes machine code. What a function may contain is said in
`native.compiler`.
"""

from __future__ import annotations

import hashlib
import itertools
import linecache
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload

from native.errors import CompileError
from native.memory import Area
from native.records import Record
from native.types import IntType

__all__ = ["Callee", "External", "Function", "Table", "define", "external", "fn", "local", "table"]

P = ParamSpec("P")
R = TypeVar("R")
RecordType = TypeVar("RecordType", bound=Record)
AnyFunction: TypeAlias = "Function[..., Any]"

_CONVENTIONS = ("ccc", "fastcc", "preserve_most", "preserve_all", "preserve_none")
_symbols: dict[str, int] = {}
_generated = itertools.count(1)


@dataclass(frozen=True)
class Parameter:
    """One parameter: `type` is an IntType, `bool` or a Record class."""

    name: str
    type: Any


@dataclass(frozen=True)
class Signature:
    """Parameters and result; the result may also be None."""

    params: tuple[Parameter, ...]
    result: Any

    def describe(self) -> str:
        """Stable text, for cache keys."""
        return f"({', '.join(f'{p.name}: {type_text(p.type)}' for p in self.params)}) -> {type_text(self.result)}"


def type_text(kind: Any) -> str:
    """A type as it is written in source, and in error messages."""
    if kind is None:
        return "None"
    return kind.name if isinstance(kind, IntType) else str(kind.__name__)


class Callee(Generic[P, R]):
    """Something compiled code can call: it has a symbol, a signature and a calling convention."""

    def __init__(self, python: Callable[P, R], symbol: str, cc: str) -> None:
        if cc not in _CONVENTIONS:
            raise ValueError(f"unknown calling convention {cc!r}: one of {', '.join(_CONVENTIONS)}")
        self.python = cast(FunctionType, python)
        self.name = self.python.__name__
        self.symbol = symbol
        self.cc = cc
        self.__doc__ = python.__doc__
        self.__wrapped__ = python
        self._enclosing = _enclosing_scope(self.python)
        self._signature: Signature | None = None

    @property
    def code(self) -> CodeType:
        return self.python.__code__

    @property
    def signature(self) -> Signature:
        """From the annotations; CompileError when one of them is not a type of this language."""
        if self._signature is None:
            self._signature = self._read_signature()
        return self._signature

    def lookup(self, name: str) -> Any:
        """What a global name means to the function; KeyError when nothing."""
        if name in self.code.co_freevars and self.python.__closure__:
            cell = self.python.__closure__[self.code.co_freevars.index(name)]
            return cell.cell_contents
        for scope in (self.python.__globals__, self._enclosing):
            if name in scope:
                return scope[name]
        builtins = self.python.__globals__["__builtins__"]
        return (vars(builtins) if isinstance(builtins, ModuleType) else builtins)[name]

    def error(self, message: str) -> CompileError:
        return CompileError(f"{self.name}: {message}", self.code.co_filename, self.code.co_firstlineno)

    def resolve_type(self, annotation: Any) -> Any:
        """An annotation, possibly a string, as an IntType, bool, Record class or None."""
        if isinstance(annotation, str):
            try:
                annotation = self.lookup(annotation) if annotation.isidentifier() else self._evaluate(annotation)
            except (KeyError, NameError, AttributeError):
                raise self.error(f"unknown type {annotation}") from None
        if annotation in (None, bool) or isinstance(annotation, IntType):
            return annotation
        if isinstance(annotation, type) and issubclass(annotation, Record):
            return annotation
        raise self.error(f"{annotation!r} is not a type: use an integer type, bool or a Record")

    def _evaluate(self, annotation: str) -> Any:
        return eval(annotation, self.python.__globals__, self._enclosing)

    def _read_signature(self) -> Signature:
        code, annotations = self.code, self.python.__annotations__
        if code.co_flags & 0x0C or code.co_kwonlyargcount or self.python.__defaults__:
            raise self.error("only plain parameters without defaults")
        names = code.co_varnames[: code.co_argcount]
        for name in (*names, "return"):
            if name not in annotations:
                raise self.error(f"no type for {name!r}")
        params = tuple(Parameter(name, self.resolve_type(annotations[name])) for name in names)
        if any(p.type is None for p in params):
            raise self.error("a parameter cannot be None")
        return Signature(params, self.resolve_type(annotations["return"]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.symbol}>"


class Function(Callee[P, R]):
    """An `@fn`. Calling it is the checked Python run."""

    def __init__(self, python: Callable[P, R], cc: str, inline: bool, cold: bool) -> None:
        if inline and cold:
            raise ValueError(f"{python.__name__} cannot be both inline and cold")
        super().__init__(python, _unique_symbol(python), cc)
        self.inline = inline
        self.cold = cold
        self._run: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._run is None:
            from native.pyrun import checked  # the compiler is only needed from here on

            self._run = cast("Callable[P, R]", checked(self))
        return self._run(*args, **kwargs)


class External(Callee[P, R]):
    """An `@external`: declared here, defined in the IR text of a unit. Its Python run is a stand-in, if given one."""

    def __init__(self, python: Callable[P, R], symbol: str | None, cc: str) -> None:
        super().__init__(python, symbol or python.__name__, cc)
        self._stand_in: Callable[P, R] | None = None

    def stand_in(self, python: Callable[P, R]) -> Callable[P, R]:
        """Use this Python function in Python runs."""
        self._stand_in = python
        return python

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._stand_in is None:
            raise NotImplementedError(f"{self.symbol} exists only as machine code")
        return self._stand_in(*args, **kwargs)


@overload
def fn(python: Callable[P, R], /) -> Function[P, R]: ...
@overload
def fn(*, cc: str = "ccc", inline: bool = False, cold: bool = False) -> Callable[[Callable[P, R]], Function[P, R]]: ...
def fn(python: Any = None, /, *, cc: str = "ccc", inline: bool = False, cold: bool = False) -> Any:
    """Declare a function of restricted Python. `cc`: LLVM's calling convention; `cold`: out of line and rarely run."""
    if python is None:
        return lambda python: Function(python, cc, inline, cold)
    return Function(python, cc, inline, cold)


@overload
def external(python: Callable[P, R], /) -> External[P, R]: ...
@overload
def external(*, symbol: str | None = None, cc: str = "ccc") -> Callable[[Callable[P, R]], External[P, R]]: ...
def external(python: Any = None, /, *, symbol: str | None = None, cc: str = "ccc") -> Any:
    """Declare a function that IR text defines, or an `@fn` elsewhere that has this symbol; its own body is ignored."""
    if python is None:
        return lambda python: External(python, symbol, cc)
    return External(python, symbol, cc)


class Table:
    """Read-only data: `TABLE[i]` in compiled code is one load."""

    def __init__(self, element: IntType, values: Iterable[int]) -> None:
        if element.bits > 64:
            raise TypeError(f"a table of {element}")
        self.element = element
        self.values = tuple(element(v) for v in values)
        code = {8: "b", 16: "h", 32: "i", 64: "q"}[element.bits]
        code = code if element.signed else code.upper()
        self.data = struct.pack(f"<{len(self.values)}{code}", *self.values)
        self.symbol = f"table.{element}.{hashlib.blake2b(self.data, digest_size=8).hexdigest()}"

    def __getitem__(self, index: int) -> int:
        if index < 0:
            raise IndexError(f"table index {index}")
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"<table of {len(self.values)} {self.element}>"


def table(element: Any, values: Iterable[int]) -> Table:
    """Module-level read-only data: `table(u8, [1, 2, 3])`."""
    if not isinstance(element, IntType):
        raise TypeError(f"a table of {element!r}: its elements are integers of a declared type")
    return Table(element, values)


class _Stack:
    """The memory of one `local` record of a Python run; gone with the last pointer to it."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size + 16)
        import ctypes

        start = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self.area = Area.adopt(-(-start // 16) * 16, size)

    def __del__(self) -> None:
        self.area.close()


def local(record: type[RecordType]) -> RecordType:
    """A zeroed record that lives as long as the call of the function that asks for it."""
    stack = _Stack(record.size())
    return record(stack.area.address, stack)


def define(source: str, scope: dict[str, Any], filename: str = "<generated>") -> dict[str, Any]:
    """Run generated source that declares functions, keeping its text for the compiler; `scope` is its module."""
    filename = f"{filename}#{next(_generated)}"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    return scope


def _enclosing_scope(python: FunctionType) -> dict[str, Any]:
    """The locals of the function that declares this one: its annotations may name them. Empty at module level."""
    if "<locals>" not in python.__qualname__:
        return {}
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return dict(frame.f_locals)


def _unique_symbol(python: Callable[..., Any]) -> str:
    """`package.module.name`, numbered when a factory declares it several times."""
    name = f"{python.__module__}.{python.__qualname__}".replace(".<locals>", "")
    symbol = "".join(c if c.isascii() and (c.isalnum() or c in "._$") else "_" for c in name)
    count = _symbols[symbol] = _symbols.get(symbol, 0) + 1
    return symbol if count == 1 else f"{symbol}.{count}"
