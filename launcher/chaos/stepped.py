"""A disk whose ring can be made to die at each numbered step of pop, complete and recover.

The steps are not written down anywhere: `proto.ring` is compiled once more, with a call of `step(N)` before every
statement of the functions in STEPPED, so that whatever those functions do is stepped through, in the order in which
they do it. STEPS lists them. The rest of the machine-code path (`devproc.loop`, `devproc.blk.fast`) is compiled with
them, unchanged; the devices that everybody else uses know nothing of this.

A step looks at one word of the file `trap`: (epoch << 32 | N) makes the process of that epoch write to an address that
is not mapped when it comes to step N. Only the process of that epoch dies of it.

A device of the user's own (`bulkhead swap blk0 …/stepped.py:SteppedDisk`), so it imports nothing of the launcher.
"""

from __future__ import annotations

import ast
import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import devproc.blk.fast
import devproc.loop
import proto.ring
from devproc.blk.device import BlockDevice
from devproc.engine import EXPORTS
from devproc.properties import FilePath, Property
from native import Unit, fn, load64, store64, u64
from native.cache import find
from native.function import define
from native.image import Image
from native.loader import load_image
from native.source import source_text
from native.unit import Native
from proto.pages import DeviceToCore

__all__ = ["EXCEPTION", "STEPPED", "Step", "SteppedDisk", "image", "steps"]

STEPPED = {
    "pop": ("ring_pop", "_pop_again", "_take"),
    "complete": ("ring_put", "ring_flush"),
    "recover": ("ring_recover", "_begin_table", "_finish_batch", "_count_table"),
}
TRAP = 0x2000_0000_0000  # where the file is mapped; the next page is the process's own
OWN = TRAP + 4096  # has the address of the device's page
NOWHERE = 16  # an address that is never mapped
MAP_FIXED_NOREPLACE = 0x100000
EXCEPTION = 0xE0000000  # instead of a step: raise in Python


class Step(NamedTuple):
    """One numbered step: it comes before `text` in `function`, which belongs to `phase`."""

    number: int
    phase: str
    function: str
    text: str


@fn
def step(number: u64) -> None:
    """Die here, if that is what the trap says."""
    if load64(TRAP) == (u64(DeviceToCore(load64(OWN)).epoch) << 32) | number:
        store64(NOWHERE, number)


class _Numbering(ast.NodeTransformer):
    """Puts step(N) before each statement of one function."""

    def __init__(self, phase: str, function: str, found: list[Step]) -> None:
        self._phase, self._function, self._found = phase, function, found

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        new: list[ast.stmt] = []
        for statement in body:
            if not self._is_declaration(statement):
                number = len(self._found) + 1
                text = ast.unparse(statement).splitlines()[0]
                self._found.append(Step(number, self._phase, self._function, text))
                new.append(ast.parse(f"step({number})").body[0])
            for field in ("body", "orelse"):
                if inner := getattr(statement, field, None):
                    setattr(statement, field, self.block(inner))
            new.append(statement)
        return new

    @staticmethod
    def _is_declaration(statement: ast.stmt) -> bool:
        return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _functions(module: ModuleType) -> list[ast.FunctionDef]:
    """What a module declares with @fn."""
    assert module.__file__ is not None
    tree = ast.parse(source_text(module.__file__))
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d).split("(")[0] == "fn" for d in node.decorator_list)
    ]


@cache
def _declared() -> tuple[list[Step], dict[str, Any]]:
    """The steps, and the functions by name."""
    found: list[Step] = []
    phases = {function: phase for phase, functions in STEPPED.items() for function in functions}
    ours: dict[str, Any] = {"step": step}
    for module in (proto.ring, devproc.loop, devproc.blk.fast):
        scope = {**vars(module), **ours, "__name__": f"stepped.{module.__name__}"}
        functions = _functions(module)
        if module is proto.ring:
            for node in functions:
                if node.name in phases:
                    node.body = _Numbering(phases[node.name], node.name, found).block(node.body)
        source = "\n\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in functions) + "\n"
        define(source, scope, f"<stepped {module.__name__}>")
        ours.update({node.name: scope[node.name] for node in functions})
    return found, ours


def steps() -> list[Step]:
    """All of them, in order."""
    return _declared()[0]


@cache
def unit() -> Unit:
    """What `engine` loads."""
    functions = _declared()[1]
    return Unit("stepped", exports=[functions[f.name] for f in EXPORTS if f.name in functions])


def image() -> bytes:
    """The machine code, for a file that `load` takes: a device in its sandbox has neither compiler nor cache."""
    unit().load()
    found = find(unit().key())
    return bytes(found) if found is not None else unit()._build()


def load(path: str) -> Any:
    """The functions, from such a file."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack_from("<Q", data)[0]  # after the notes of a debug build
    return Native(unit(), load_image(Image.unpack(memoryview(data)[start:])), [])


class SteppedDisk(BlockDevice):
    """A disk that dies where it is told to."""

    trap = Property(FilePath, "", "the file with the word that says where to die")
    image = Property(FilePath, "", "the file with the machine code")

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int] | None:
        if not self.trap:
            return super().native_loop(engine, queues)
        _map_trap(self.trap, queues.loop.mine)
        queues._engine = load(self.image)
        serve = super().native_loop(queues._engine, queues)
        return serve and (lambda: _may_raise() or serve())


def _may_raise() -> int:
    """An exception, if that is what the trap says."""
    epoch, number = divmod(ctypes.c_uint64.from_address(TRAP).value, 1 << 32)
    page = ctypes.c_uint64.from_address(OWN).value
    if number == EXCEPTION and ctypes.c_uint32.from_address(page + DeviceToCore.offset("epoch")).value == epoch:
        raise RuntimeError("chaos asked for an exception")
    return 0


def _map_trap(path: str, page: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    try:
        places = (
            libc.mmap(TRAP, 4096, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0),
            libc.mmap(OWN, 4096, mmap.PROT_READ | mmap.PROT_WRITE, own, -1, 0),
        )
    finally:
        os.close(fd)
    if places != (TRAP, OWN):
        raise OSError(ctypes.get_errno(), "cannot map the trap")
    ctypes.c_uint64.from_address(OWN).value = page
