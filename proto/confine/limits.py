"""Limits of a process: rlimits that only ever go down, and that no new program brings back rights.

Memory is bounded by RLIMIT_DATA: what is private and writable. Guest RAM and control pages are shared, and do not
count; anonymous memory that is shared would not either, and seccomp refuses it.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["DATA", "FILES", "THREADS", "no_new_privileges", "set_limits"]

DATA = 1 << 30  # bytes that a process may have beyond what it has now
FILES = 4096  # open descriptors
THREADS = 512
_PR_SET_NO_NEW_PRIVS = 38
_PER_NAMESPACE = (5, 14)  # the Linux that counts a user's processes in each user namespace

_libc = ctypes.CDLL(None, use_errno=True)


def no_new_privileges() -> None:
    """No program that this process executes gains rights (setuid, file capabilities). Raises OSError."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_limits(data: int, *, own_users: bool, file_size: int | None = None) -> dict[str, int]:
    """Lower what is higher. `data`: bytes of memory beyond the present; `own_users`: a user namespace counts this
    process's threads alone; `file_size`: the longest file. Returns what is in force, by name."""
    wanted = {
        "core": (resource.RLIMIT_CORE, 0),
        "data": (resource.RLIMIT_DATA, _data_now() + data),
        "files": (resource.RLIMIT_NOFILE, FILES),
        "locked": (resource.RLIMIT_MEMLOCK, 0),
        "queues": (resource.RLIMIT_MSGQUEUE, 0),
    }
    if file_size is not None:
        wanted["file size"] = (resource.RLIMIT_FSIZE, file_size)
    if own_users and _release() >= _PER_NAMESPACE:
        wanted["threads"] = (resource.RLIMIT_NPROC, THREADS)
    return {name: _lower(which, value) for name, (which, value) in wanted.items()}


def _lower(which: int, value: int) -> int:
    soft, hard = resource.getrlimit(which)
    for present in (soft, hard):
        if present != resource.RLIM_INFINITY:
            value = min(value, present)
    resource.setrlimit(which, (value, value))
    return value


def _data_now() -> int:
    """Bytes that count as data."""
    with open("/proc/self/status", "rb") as lines:
        for line in lines:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) << 10
    return 0


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
