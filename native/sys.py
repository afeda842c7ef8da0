"""System call numbers of this architecture, and the constants native code passes with them.

    syscall(sys.FUTEX, word, sys.FUTEX_WAIT_BITSET, expected, timeout, 0, sys.FUTEX_BITSET_MATCH_ANY)

Numbers: Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

import os
from typing import Final

MACHINE: Final = os.uname().machine

_NUMBERS: dict[str, tuple[int, int]] = {  # name: (x86_64, aarch64)
    "READ": (0, 63),
    "WRITE": (1, 64),
    "CLOSE": (3, 57),
    "PREAD64": (17, 67),
    "PWRITE64": (18, 68),
    "READV": (19, 65),
    "WRITEV": (20, 66),
    "LSEEK": (8, 62),
    "MADVISE": (28, 233),
    "GETPID": (39, 172),
    "SENDTO": (44, 206),
    "RECVFROM": (45, 207),
    "FSYNC": (74, 82),
    "FDATASYNC": (75, 83),
    "GETTID": (186, 178),
    "GETXATTR": (191, 8),
    "FUTEX": (202, 98),
    "GETDENTS64": (217, 61),
    "FALLOCATE": (285, 47),
    "PPOLL": (271, 73),
    "PREADV": (295, 69),
    "PWRITEV": (296, 70),
    "GETRANDOM": (318, 278),
    "PREADV2": (327, 286),
    "PWRITEV2": (328, 287),
    "STATX": (332, 291),
    "OPENAT": (257, 56),
    "MKDIRAT": (258, 34),
    "UNLINKAT": (263, 35),
    "SETXATTR": (188, 5),
    "OPENAT2": (437, 437),
}


def _number(name: str) -> int:
    x86_64, aarch64 = _NUMBERS[name]
    return aarch64 if MACHINE == "aarch64" else x86_64


READ: Final = _number("READ")
WRITE: Final = _number("WRITE")
CLOSE: Final = _number("CLOSE")
PREAD64: Final = _number("PREAD64")
PWRITE64: Final = _number("PWRITE64")
READV: Final = _number("READV")
WRITEV: Final = _number("WRITEV")
LSEEK: Final = _number("LSEEK")
MADVISE: Final = _number("MADVISE")
GETPID: Final = _number("GETPID")
SENDTO: Final = _number("SENDTO")
RECVFROM: Final = _number("RECVFROM")
FSYNC: Final = _number("FSYNC")
FDATASYNC: Final = _number("FDATASYNC")
GETTID: Final = _number("GETTID")
GETXATTR: Final = _number("GETXATTR")
FUTEX: Final = _number("FUTEX")
GETDENTS64: Final = _number("GETDENTS64")
FALLOCATE: Final = _number("FALLOCATE")
PPOLL: Final = _number("PPOLL")
PREADV: Final = _number("PREADV")
PWRITEV: Final = _number("PWRITEV")
GETRANDOM: Final = _number("GETRANDOM")
PREADV2: Final = _number("PREADV2")
PWRITEV2: Final = _number("PWRITEV2")
STATX: Final = _number("STATX")
OPENAT: Final = _number("OPENAT")
MKDIRAT: Final = _number("MKDIRAT")
UNLINKAT: Final = _number("UNLINKAT")
SETXATTR: Final = _number("SETXATTR")
OPENAT2: Final = _number("OPENAT2")

FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1
FUTEX_WAIT_BITSET: Final = 9  # the timeout is absolute, on CLOCK_MONOTONIC
FUTEX_PRIVATE: Final = 128
FUTEX_BITSET_MATCH_ANY: Final = 0xFFFFFFFF

ENOENT: Final = 2
EINTR: Final = 4
EAGAIN: Final = 11
EFAULT: Final = 14
EINVAL: Final = 22
ENODATA: Final = 61
ETIMEDOUT: Final = 110
EOPNOTSUPP: Final = 95
EWOULDBLOCK: Final = EAGAIN

FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16
