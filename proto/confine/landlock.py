"""Landlock: which files a process may open, and that it connects to nothing, whatever rights its user has.

Rules are for directories and files that are there when the ruleset is made, and for what is below them. Everything the
kernel's version of Landlock knows is refused unless a rule allows it; what later versions know (the right to move files
between directories is of version 2, to truncate of 3, TCP of 4, device ioctls of 5, abstract sockets and signals of 6)
is reported as missing on older kernels.

Landlock does not restrict looking at a file's attributes, changing its mode, owner, times and extended attributes, nor
connecting to a Unix socket in the file system: those are refused by seccomp.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag
from typing import Final

__all__ = ["ACCESS", "FEATURES", "Right", "abi", "missing", "restrict"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT, _SCOPE_SIGNAL = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Right(IntFlag):
    """LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_BY_ABI = {1: (1 << 13) - 1, 2: Right.REFER, 3: Right.TRUNCATE, 5: Right.IOCTL_DEV}
_OF_A_FILE = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
_NAMES = Right.REMOVE_DIR | Right.REMOVE_FILE | Right.MAKE_DIR | Right.MAKE_REG | Right.MAKE_SYM | Right.REFER

ACCESS: Final[dict[str, int]] = {  # what a rule allows, by the word that rules use
    "list": Right.READ_DIR,
    "read": Right.READ_FILE | Right.READ_DIR,
    "write": Right.READ_FILE | Right.WRITE_FILE | Right.READ_DIR | Right.TRUNCATE | Right.IOCTL_DEV,
    "tree": Right.READ_FILE | Right.WRITE_FILE | Right.READ_DIR | Right.TRUNCATE | _NAMES,
    "socket": Right.MAKE_SOCK | Right.REMOVE_FILE,
}
FEATURES: Final = (  # the version of Landlock that brought it, and what it is
    (1, "files"),
    (2, "files: moving between directories"),
    (3, "files: truncating"),
    (4, "TCP"),
    (5, "files: device ioctls"),
    (6, "abstract sockets and signals"),
)


def abi() -> int:
    """The kernel's version of Landlock; 0 when it has none, or it is switched off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def missing(version: int) -> list[str]:
    """What a later version would have given."""
    return [what for since, what in FEATURES if since > version]


def restrict(rules: Iterable[tuple[str, str]], version: int, *, network: bool = False) -> int:
    """Bind this thread, and all that it starts, to the rules: (path, word of ACCESS). A path that does not exist has
    no rule. `network`: TCP and abstract sockets stay as they are. Returns how many rules there are. Needs no_new_privs.
    Raises OSError."""
    handled = sum(bits for since, bits in _BY_ABI.items() if since <= version)
    tcp = (_BIND_TCP | _CONNECT_TCP) if version >= 4 and not network else 0
    scope = 0
    if version >= 6:
        scope = _SCOPE_SIGNAL if network else _SCOPE_ABSTRACT | _SCOPE_SIGNAL
    attributes = struct.pack("<QQQ", handled, tcp, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        count = sum(_add(ruleset, path, ACCESS[word] & handled) for path, word in rules)
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return count


def _add(ruleset: int, path: str, access: int) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                access &= _OF_A_FILE
            _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", access, fd), 0))
        finally:
            os.close(fd)
        return True
    return False


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
