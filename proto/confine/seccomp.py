"""seccomp: which system calls a process still has. A filter is a program for the kernel's classic BPF, made from the
table in `proto.confine.syscalls`.

    arch   another architecture's call, or one of the x32 kind      the process is killed
    nr     allowed                                                  carried out
           allowed with arguments                                   carried out if they match, else EPERM
           absent to it (clone3), or later than the table           ENOSYS: callers fall back
           anything else                                            EPERM

Calls whose arguments do not matter cost nothing: kernels from 5.11 on keep them in a bitmap. The filter is installed
for all threads at once and can never be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Final

from proto.confine.syscalls import ABSENT, ALLOWED, ARGUMENTS, NEVER, NEWEST, OWN_PID, Argument, number

__all__ = [
    "ALLOW",
    "KILL",
    "allowlist",
    "arguments_of",
    "count_allowed",
    "denylist",
    "errno_action",
    "install",
    "simulate",
]

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000  # the process
_ERRNO = 0x00050000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LD, _AND, _RET, _JEQ, _JGE = 0x20, 0x54, 0x06, 0x15, 0x35
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
_TSYNC, _SPEC_ALLOW = 1, 4

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def errno_action(number: int) -> int:
    """The filter's answer that makes a call fail with this errno."""
    return _ERRNO | number


@cache
def allowlist(wanted: frozenset[str], pid: int, machine: str) -> list[Instruction]:
    """A filter that allows what these groups have, of the process `pid`. Calls with conditions come first: the others
    do not wait for them in kernels with the bitmap."""
    names = [name for row in ALLOWED if row.group in wanted for name in row.names]
    if "network" in wanted:  # a process with sockets of its own may as well name addresses
        plain = [name for name in names if name not in ARGUMENTS or name == "sendto"]
    else:
        plain = [name for name in names if name not in ARGUMENTS]
    program = _prologue(machine)
    for name in (name for name in names if name not in plain):
        program += _conditional(name, pid, machine)
    program += _each(plain, ALLOW, machine)
    program += _each((name for names, _ in ABSENT for name in names), errno_action(errno.ENOSYS), machine)
    program += [(_JGE, 0, 1, NEWEST), (_RET, 0, 0, errno_action(errno.ENOSYS))]
    return [*program, (_RET, 0, 0, errno_action(errno.EPERM))]


@cache
def count_allowed(groups: Iterable[str], machine: str) -> int:
    """How many calls these groups have on this architecture."""
    wanted = frozenset(groups)
    names = [name for row in ALLOWED if row.group in wanted for name in row.names]
    return sum(number(name, machine) is not None for name in names)


def denylist(pid: int, machine: str) -> list[Instruction]:
    """A filter that refuses what nothing in a machine needs, and signals to others; the rest is allowed."""
    program = _prologue(machine)
    for name in ("kill", "tgkill"):
        program += _conditional(name, pid, machine)
    program += _each((name for names, _ in NEVER for name in names), errno_action(errno.EPERM), machine)
    return [*program, (_RET, 0, 0, ALLOW)]


def install(program: Sequence[Instruction]) -> None:
    """Bind every thread of this process to the filter, for good. Needs no_new_privs. Raises OSError."""
    code = struct.pack("<" + "HBBI" * len(program), *(word for instruction in program for word in instruction))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(buffer))
    seccomp = _SYS_SECCOMP[os.uname().machine]
    for flags in (_TSYNC | _SPEC_ALLOW, _TSYNC):  # SPEC_ALLOW is of 4.17
        result = _libc.syscall(seccomp, _SET_MODE_FILTER, flags, header)
        if result == 0:
            return
        if result > 0:
            raise OSError(errno.EBUSY, f"thread {result} has another filter")
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def arguments_of(name: str) -> bool:
    """Is the call allowed for some arguments only?"""
    return name in ARGUMENTS


def simulate(program: Sequence[Instruction], nr: int, arguments: Sequence[int] = (), *, arch: str = "x86_64") -> int:
    """What the kernel answers for one call: the filter's meaning, for tests and for `docs`."""
    data = struct.pack("<iIQ6Q", nr, _ARCHITECTURES[arch], 0, *(tuple(arguments) + (0,) * 6)[:6])
    accumulator, at = 0, 0
    operations: dict[int, Callable[[int, int], bool]] = {_JEQ: lambda a, k: a == k, _JGE: lambda a, k: a >= k}
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == _RET:
            return constant
        if code == _LD:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == _AND:
            accumulator &= constant
        else:
            at += yes if operations[code](accumulator, constant) else no


# -- the assembler -----------------------------------------------------------------------------------------------------


def _prologue(machine: str) -> list[Instruction]:
    program: list[Instruction] = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _ARCHITECTURES[machine]),
        (_RET, 0, 0, KILL),
        (_LD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        program += [(_JGE, 0, 1, _X32), (_RET, 0, 0, KILL)]
    return program


def _each(names: Iterable[str], action: int, machine: str) -> list[Instruction]:
    program: list[Instruction] = []
    for name in names:
        nr = number(name, machine)
        if nr is not None:
            program += [(_JEQ, 0, 1, nr), (_RET, 0, 0, action)]
    return program


def _conditional(name: str, pid: int, machine: str) -> list[Instruction]:
    """One call with its alternatives: the first that holds allows it, and none refuses it."""
    nr = number(name, machine)
    if nr is None:
        return []
    body: list[Instruction] = []
    for alternative in ARGUMENTS[name]:
        tests = [test for condition in alternative for test in _tests(condition, pid)]
        left = sum(len(test) for test in tests)
        for test in tests:
            left -= len(test)
            *load, (code, _, _, constant) = test
            body += [*load, (code, 0, left + 1, constant)]  # past the rest, and past RET ALLOW
        body.append((_RET, 0, 0, ALLOW))
    body.append((_RET, 0, 0, errno_action(errno.EPERM)))
    return [(_JEQ, 0, len(body), nr), *body]


def _tests(condition: Argument, pid: int) -> list[list[Instruction]]:
    value = pid if condition.value == OWN_PID else condition.value
    at = _ARGS + 8 * condition.index
    masked: list[Instruction] = [(_AND, 0, 0, condition.mask)] if condition.mask != 0xFFFFFFFF else []
    low: list[Instruction] = [(_LD, 0, 0, at), *masked, (_JEQ, 0, 0, value & 0xFFFFFFFF)]
    high: list[Instruction] = [(_LD, 0, 0, at + 4), (_JEQ, 0, 0, value >> 32)]
    return [low, high] if condition.wide else [low]
