"""Machine code that a test kills before any statement that it comes to.

A function is compiled once more, with a countdown before each statement of what changes something; where it comes to
nothing, the process, a child of the test's, kills itself.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import os
import signal
from typing import Any

from launcher.chaos.stepped import _functions, _Numbering
from native import Unit, fn, load64, store64, syscall, u64
from native import sys as numbers
from native.function import define

COUNTDOWN = 0x2100_0000_0000  # where the word is mapped
KILL = 62 if numbers.MACHINE != "aarch64" else 129


@fn
def step(number: u64) -> None:
    """Die here, if the countdown is over."""
    left: u64 = load64(COUNTDOWN)
    if left == 1:
        syscall(KILL, syscall(numbers.GETPID, 0, 0, 0, 0, 0, 0), 9, 0, 0, 0, 0)
    if left != 0:
        store64(COUNTDOWN, left - 1)


def compiled(name, modules, stepped):
    """`serve` of the last of these modules, with steps in the functions that `stepped` names by module."""
    ours: dict[str, Any] = {"step": step}
    for module in modules:
        scope = {**vars(module), **ours, "__name__": f"killed.{module.__name__}"}
        functions = _functions(module)
        for node in functions:
            if node.name in stepped.get(module, ()):
                node.body = _Numbering("change", node.name, []).block(node.body)
        source = "\n\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in functions) + "\n"
        define(source, scope, f"<killed {module.__name__}>")
        ours.update({node.name: scope[node.name] for node in functions})
    return Unit(name, exports=[ours["serve"]]).load().serve


@contextlib.contextmanager
def countdown():
    """Gives what sets the word: so many steps are made; 0: all."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    private, anonymous, fixed = 2, 0x20, 0x100000
    assert libc.mmap(COUNTDOWN, 4096, 3, private | anonymous | fixed, -1, 0) == COUNTDOWN

    def count(steps):
        ctypes.c_uint64.from_address(COUNTDOWN).value = steps

    yield count
    libc.munmap(ctypes.c_void_p(COUNTDOWN), 4096)


def killed_in(serve, count, steps):
    """Have a child do this, and kill it at a step; was it?"""
    count(steps)
    child = os.fork()
    if child == 0:
        os._exit(0 if serve() else 1)
    count(0)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert end in (0, -signal.SIGKILL), "machine code should have served this"
    return end != 0
