"""A unit: functions, and IR text that goes with them, compiled together, cached together, loaded together.

    RINGS = Unit("rings", exports=[pop, complete])
    rings = RINGS.load()
    rings.pop(queue, 1)

Everything the exports call comes along. `functions` are compiled too, for the IR text to call by their `symbol`, but
are not visible outside. `symbols` names definitions of the IR text whose addresses are wanted. The IR may be given as a
function that makes it: then it is not even made when the unit is cached, and `sources` must name the modules (or other
text) it depends on.

A call of a native function releases the GIL. Arguments are checked for their range, and records may be given as such.
A release build checks nothing inside; a debug build raises what the Python run raises.
"""

from __future__ import annotations

import ctypes
import functools
import json
import struct
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from native.cache import cached, find
from native.errors import CompileError
from native.failure import TAKE_FAILURE, Site, failure
from native.function import AnyFunction, type_text
from native.image import Image
from native.key import unit_key
from native.loader import Loaded, load_image
from native.memory import CTYPES
from native.records import Record
from native.source import source_text
from native.types import IntType

__all__ = ["Native", "Unit"]

_SETTINGS = ("O2", "sroa")
_CALLABLE = ("ccc", "preserve_most")


class Unit:
    """What is compiled together. Making one does nothing yet."""

    def __init__(
        self,
        name: str,
        exports: Iterable[AnyFunction] = (),
        *,
        functions: Iterable[AnyFunction] = (),
        ir: str | Callable[[], str] = "",
        sources: Iterable[ModuleType | str] = (),
        symbols: Iterable[str] = (),
        debug: bool = False,
        opt: str = "O2",
        codegen: int = 2,
    ) -> None:
        if opt not in _SETTINGS:
            raise ValueError(f"opt is one of {', '.join(_SETTINGS)}, not {opt!r}")
        self.name = name
        self.exports = {f.name: f for f in exports}
        self.functions = list(functions)
        self.symbols = list(symbols)
        self.debug = debug
        self.opt = opt
        self.codegen = codegen
        self._extra = ir
        self._sources = list(sources)
        self._loaded: Native | None = None
        self._lock = threading.Lock()

    def is_cached(self) -> bool:
        """Whether `load` will find it in the cache and take milliseconds."""
        return self._loaded is not None or find(self.key()) is not None

    def key(self) -> str:
        """The name of the unit's image in the cache."""
        exports = sorted(f.symbol for f in self.exports.values())
        texts = [self._extra] if isinstance(self._extra, str) else [_source(s) for s in self._sources]
        settings = f"{exports} {sorted(self.symbols)} {self.debug} {self.opt} {self.codegen}"
        return f"{self.name}-{unit_key([*self.exports.values(), *self.functions], settings, *texts)}"

    def ir(self) -> str:
        """The IR text, before LLVM sees it."""
        return self._generate()[0]

    def _generate(self) -> tuple[str, list[Site]]:
        from native.llvmir import Module  # only a unit that is not cached needs the compiler

        extra = self._extra if isinstance(self._extra, str) else self._extra()
        module = Module(self._visible(), self.debug, extra)
        module.add([*self.exports.values(), *self.functions])
        return module.text(), module.sites

    def _visible(self) -> frozenset[str]:
        return frozenset([*(f.symbol for f in self.exports.values()), *self.symbols])

    def _build(self) -> bytes:
        from native.codegen import compile_object
        from native.linker import link

        text, sites = self._generate()
        wanted = self._visible() | ({TAKE_FAILURE} if self.debug else frozenset())
        image = link(compile_object(text, self.opt, self.codegen), wanted).pack()
        notes = json.dumps([(s.kind, s.text, s.filename, s.line) for s in sites]).encode()
        return struct.pack("<Q", len(notes)) + notes + image

    def load(self) -> Native:
        """Compile, or take from the cache, and map. The second call gives the same."""
        with self._lock:
            if self._loaded is None:
                data = cached(self.key(), self._build)
                length = struct.unpack_from("<Q", data)[0]
                sites = [Site(*entry) for entry in json.loads(bytes(data[8 : 8 + length]))]
                self._loaded = Native(self, load_image(Image.unpack(data[8 + length :])), sites)
            return self._loaded


def _source(source: ModuleType | str) -> str:
    if isinstance(source, str):
        return source
    if source.__file__ is None:
        raise ValueError(f"{source.__name__} has no source text")
    return source_text(source.__file__)


class Native:
    """A loaded unit: its exports as attributes."""

    def __init__(self, unit: Unit, loaded: Loaded, sites: list[Site]) -> None:
        self._unit = unit
        self._loaded = loaded
        take = ctypes.CFUNCTYPE(ctypes.c_int64)(loaded.address(TAKE_FAILURE)) if unit.debug else None
        self._raise = functools.partial(_raise_failure, take, sites) if take else None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self._unit.exports.get(name)
        if function is None:
            raise AttributeError(f"unit {self._unit.name} does not export {name}")
        call = _callable(function, self._loaded.address(function.symbol), self._raise)
        setattr(self, name, call)
        return call

    def address(self, name: str) -> int:
        """Where an export begins, by its name in Python."""
        return self._loaded.address(self._unit.exports[name].symbol)

    def symbol_address(self, symbol: str) -> int:
        """Where one of the unit's `symbols` is."""
        return self._loaded.address(symbol)

    def code(self) -> list[tuple[str, int, int]]:
        """Name, address and size of every function in the unit: for perf maps and debuggers."""
        return self._loaded.functions()


def _raise_failure(take: Callable[[], int], sites: list[Site]) -> None:
    site = take()
    if site >= 0:
        raise failure(sites[site])


def _ctype(function: AnyFunction, kind: Any) -> Any:
    if kind is None or kind is bool:
        return None if kind is None else ctypes.c_bool
    if not isinstance(kind, IntType):
        return ctypes.c_void_p
    if kind.bits > 64:
        raise CompileError(f"{function.name}: {kind} cannot cross from Python to machine code: use two u64")
    return CTYPES[kind.bits, kind.signed]


def _callable(function: AnyFunction, address: int, after: Callable[[], None] | None) -> Callable[..., Any]:
    """A Python callable: checks the arguments, calls, and in a debug build looks for a failed check."""
    if function.cc not in _CALLABLE:
        raise CompileError(f"{function.name} has the calling convention {function.cc}: Python cannot call it")
    signature = function.signature
    types = [_ctype(function, p.type) for p in signature.params]
    raw = ctypes.CFUNCTYPE(_ctype(function, signature.result), *types)(address)
    checks = [(p.name, p.type, *_bounds(p.type)) for p in signature.params]
    record = signature.result if isinstance(signature.result, type) and issubclass(signature.result, Record) else None

    def call(*args: Any) -> Any:
        if len(args) != len(checks):
            raise TypeError(f"{function.name} takes {len(checks)} arguments, not {len(args)}")
        for value, (name, kind, low, high) in zip(args, checks, strict=True):
            if value.__class__ is not kind and not _suits(value, kind, low, high):
                _refuse(function, name, kind, value)
        result = raw(*args)
        if after is not None:
            after()
        return record(result or 0) if record is not None else result

    functools.update_wrapper(call, function.python)
    return call


def _bounds(kind: Any) -> tuple[int, int]:
    return (kind.minimum, kind.maximum) if isinstance(kind, IntType) else (0, (1 << 64) - 1)


def _suits(value: Any, kind: Any, low: int, high: int) -> bool:
    return kind is not bool and isinstance(value, int) and low <= value <= high


def _refuse(function: AnyFunction, name: str, kind: Any, value: Any) -> None:
    if isinstance(kind, IntType) and isinstance(value, int):
        raise OverflowError(f"{function.name}: {name} = {value} does not fit {kind}")
    raise TypeError(f"{function.name}: {name} is {type_text(kind)}, not {type(value).__name__}")
