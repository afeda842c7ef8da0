"""The system calls of a confined process, as a table: number on each architecture, group, reason, and which arguments.

A *profile* is a set of groups. What is in none of them is refused with EPERM. The reasons become the table in
docs/sandbox.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proto.confine.numbers import NUMBERS

__all__ = [
    "ABSENT",
    "ALLOWED",
    "ARGUMENTS",
    "NETWORKED",
    "NEVER",
    "NEWEST",
    "OWN_PID",
    "PROFILES",
    "Argument",
    "Row",
    "number",
]

OWN_PID: Final = -1  # stands for the process's own pid in a condition
NEWEST: Final = 472  # numbers from here on are later than this table: ENOSYS, so that callers fall back


@dataclass(frozen=True)
class Row:
    """Calls that are allowed for one reason."""

    group: str
    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Argument:
    """A condition: the bits `mask` of argument `index` equal `value`. The kernel looks at 32 bits of an int, and so
    does this; `wide` compares all 64."""

    index: int
    value: int
    mask: int = 0xFFFFFFFF
    wide: bool = False


ALLOWED: Final = (
    Row(
        "io",
        (
            "read",
            "write",
            "readv",
            "writev",
            "pread64",
            "pwrite64",
            "preadv",
            "pwritev",
            "preadv2",
            "pwritev2",
            "lseek",
        ),
        "what it has open is read and written",
    ),
    Row("io", ("close", "close_range", "dup", "dup2", "dup3"), "closes and duplicates what it has open"),
    Row(
        "io",
        ("fsync", "fdatasync", "fallocate", "ftruncate", "fadvise64"),
        "makes what was written last, and space for it",
    ),
    Row("io", ("copy_file_range", "sendfile"), "copies between files that are open"),
    Row("io", ("flock",), "locks files that are open"),
    Row("io", ("fcntl",), "flags and locks of a descriptor; not its owner, to whom the kernel would send signals"),
    Row("io", ("ioctl",), "non-blocking mode, what is waiting, is it a terminal, offloads of a tap; nothing else"),
    Row(
        "wait",
        (
            "poll",
            "ppoll",
            "select",
            "pselect6",
            "epoll_create1",
            "epoll_ctl",
            "epoll_wait",
            "epoll_pwait",
            "epoll_pwait2",
        ),
        "waits for descriptors",
    ),
    Row("wait", ("eventfd2", "pipe", "pipe2", "futex"), "wakes its own threads"),
    Row(
        "wait",
        (
            "timerfd_create",
            "timerfd_settime",
            "timerfd_gettime",
            "nanosleep",
            "clock_nanosleep",
            "clock_gettime",
            "clock_getres",
            "gettimeofday",
            "time",
            "setitimer",
            "getitimer",
            "alarm",
        ),
        "time",
    ),
    Row("wait", ("restart_syscall", "sched_yield"), "goes on after a stop"),
    Row(
        "memory",
        ("brk", "munmap", "mremap", "mprotect", "madvise", "msync", "membarrier"),
        "memory of its own, which RLIMIT_DATA bounds",
    ),
    Row("memory", ("mmap",), "the same, and files; not anonymous memory that is shared, which no limit counts"),
    Row("thread", ("clone",), "threads of its own, never processes"),
    Row(
        "thread",
        ("set_robust_list", "rseq", "set_tid_address", "exit", "exit_group"),
        "the C library's business with each thread",
    ),
    Row(
        "thread",
        (
            "rt_sigaction",
            "rt_sigprocmask",
            "rt_sigreturn",
            "rt_sigtimedwait",
            "rt_sigpending",
            "rt_sigsuspend",
            "sigaltstack",
        ),
        "signals within the process: handlers and masks",
    ),
    Row("thread", ("kill", "tgkill"), "a signal to itself (abort); to nobody else"),
    Row("thread", ("prctl",), "names its threads"),
    Row("thread", ("sched_setscheduler",), "ZeroMQ sets what is the default already, or aborts; nothing but that"),
    Row(
        "self",
        (
            "gettid",
            "getpid",
            "getppid",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "getresuid",
            "getresgid",
            "getgroups",
            "getpgrp",
            "getpgid",
            "getsid",
            "uname",
            "getcpu",
            "getcwd",
            "umask",
        ),
        "who and where it is",
    ),
    Row(
        "self",
        ("getrusage", "times", "sysinfo", "getrlimit", "sched_getaffinity", "sched_getparam", "sched_getscheduler"),
        "what it has used, and how much there is",
    ),
    Row("self", ("prlimit64",), "reads its own limits; does not set them"),
    Row("self", ("getrandom",), "random numbers"),
    Row("socket", ("sendto",), "sockets that it was given: nothing is sent to an address"),
    Row(
        "socket",
        ("recvfrom", "sendmsg", "recvmsg", "shutdown", "getsockopt", "setsockopt", "getsockname", "getpeername"),
        "sockets that it was given",
    ),
    Row(
        "socket",
        ("socketpair",),
        "a pair of its own, of streams or packets: a datagram socket could be sent to any address",
    ),
    Row("file", ("open", "openat", "openat2"), "opens files, where Landlock lets it"),
    Row(
        "file",
        (
            "stat",
            "lstat",
            "fstat",
            "newfstatat",
            "statx",
            "access",
            "faccessat",
            "faccessat2",
            "readlink",
            "readlinkat",
            "statfs",
            "fstatfs",
            "getdents64",
        ),
        "looks at files; no rule keeps it from seeing that a path exists",
    ),
    Row(
        "tree",
        (
            "mkdir",
            "mkdirat",
            "rmdir",
            "unlink",
            "unlinkat",
            "rename",
            "renameat",
            "renameat2",
            "link",
            "linkat",
            "symlink",
            "symlinkat",
            "truncate",
        ),
        "changes names in a directory that it serves, where Landlock lets it",
    ),
    Row(
        "attribute",
        (
            "chmod",
            "fchmod",
            "fchmodat",
            "fchmodat2",
            "utimensat",
            "getxattr",
            "lgetxattr",
            "fgetxattr",
            "listxattr",
            "llistxattr",
            "flistxattr",
            "setxattr",
            "lsetxattr",
            "fsetxattr",
            "removexattr",
            "lremovexattr",
            "fremovexattr",
        ),
        "modes, times and attributes of what it serves",
    ),
    Row("attribute", ("syncfs",), "writes out what it serves when the guest's `sync` asks for that"),
    Row("watch", ("inotify_init1", "inotify_add_watch", "inotify_rm_watch"), "sees what the host changes in its share"),
    Row("memfd", ("memfd_create",), "the journal that its successor inherits"),
    Row(
        "network",
        ("socket", "connect", "bind", "listen", "sendmmsg", "recvmmsg"),
        "sockets of its own",
    ),
    Row("accept", ("accept", "accept4"), "takes a client of a listening socket that it was given"),
)

NEVER: Final = (  # what the core must not do either: it may do the rest
    (
        (
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "pidfd_open",
            "pidfd_getfd",
            "pidfd_send_signal",
            "kcmp",
            "tkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "migrate_pages",
            "move_pages",
            "setpriority",
            "ioprio_set",
        ),
        "other processes",
    ),
    (("execve", "execveat"), "another program"),
    (
        (
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "move_mount",
            "open_tree",
            "fsopen",
            "mount_setattr",
        ),
        "other namespaces and mounts",
    ),
    (
        (
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "swapon",
            "swapoff",
            "syslog",
            "iopl",
            "ioperm",
            "modify_ldt",
            "acct",
            "quotactl",
            "settimeofday",
            "clock_settime",
            "adjtimex",
        ),
        "the kernel itself",
    ),
    (("keyctl", "add_key", "request_key", "open_by_handle_at", "name_to_handle_at"), "keys, and files without a path"),
    (("shmget", "shmat", "msgget", "semget", "mq_open"), "memory that outlives its process"),
    (("setuid", "setgid", "capset", "personality", "chown", "lchown", "fchownat"), "other users"),
)
ABSENT: Final = (  # refused with ENOSYS: whoever calls them has another way
    (("clone3",), "clone shows a filter its flags"),
)
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020080  # and every namespace, time's among them
_NULL, _SCHED_OTHER = 0, 0
_F = {
    "F_DUPFD": 0,
    "F_GETFD": 1,
    "F_SETFD": 2,
    "F_GETFL": 3,
    "F_SETFL": 4,
    "F_GETLK": 5,
    "F_SETLK": 6,
    "F_SETLKW": 7,
    "F_OFD_GETLK": 36,
    "F_OFD_SETLK": 37,
    "F_OFD_SETLKW": 38,
    "F_DUPFD_CLOEXEC": 1030,
    "F_GET_SEALS": 1034,
}
_IOCTL = {
    "TCGETS": 0x5401,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    "TUNSETOFFLOAD": 0x400454D0,
}
_PRCTL = {"PR_SET_NAME": 15, "PR_GET_NAME": 16, "PR_SET_VMA": 0x53564D41}
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 1, 5, 0xF
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_ANONYMOUS_SHARED = _MAP_SHARED | _MAP_ANONYMOUS

Alternatives = tuple[tuple[Argument, ...], ...]  # any of them, each with all of its conditions


def _one_of(index: int, values: Mapping[str, int]) -> Alternatives:
    return tuple((Argument(index, value),) for value in values.values())


ARGUMENTS: Final[dict[str, Alternatives]] = {
    "clone": ((Argument(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_NEW),),),
    "kill": ((Argument(0, OWN_PID),),),
    "tgkill": ((Argument(0, OWN_PID),),),
    "fcntl": _one_of(1, _F),
    "ioctl": _one_of(1, _IOCTL),
    "sched_setscheduler": ((Argument(1, _SCHED_OTHER),),),
    "prctl": _one_of(0, _PRCTL),
    "prlimit64": (
        (Argument(0, 0), Argument(2, _NULL, wide=True)),
        (Argument(0, OWN_PID), Argument(2, _NULL, wide=True)),
    ),
    "sendto": ((Argument(4, _NULL, wide=True),),),
    "socketpair": (
        (Argument(0, _AF_UNIX), Argument(1, _SOCK_STREAM, _SOCK_TYPE)),
        (Argument(0, _AF_UNIX), Argument(1, _SOCK_SEQPACKET, _SOCK_TYPE)),
    ),
    "mmap": tuple((Argument(3, value, _ANONYMOUS_SHARED),) for value in (0, _MAP_SHARED, _MAP_ANONYMOUS)),
}

_BASE = frozenset({"io", "wait", "memory", "thread", "self", "socket", "file"})
PROFILES: Final[dict[str, frozenset[str]]] = {
    "device": _BASE,
    "directory": _BASE | {"tree"},  # a device of the user's own with a directory to write
    "share": _BASE | {"tree", "attribute", "memfd", "watch"},
    "console": _BASE | {"accept"},
    "peer": _BASE | {"network", "accept", "tree"},
    "relay": _BASE | {"network", "memfd"},  # also a device behind one that connects to its disk by itself
    "served": _BASE | {"accept", "memfd"},  # a device behind a relay, which calls at a socket that it was given
    "served directory": _BASE | {"accept", "memfd", "tree"},
    "served share": _BASE | {"accept", "memfd", "tree", "attribute", "watch"},
}
NETWORKED: Final = frozenset({"peer", "relay"})  # profiles of processes that stay in the host's network


def number(name: str, machine: str) -> int | None:
    """The call's number on "x86_64" or "aarch64"; None where there is no such call."""
    return NUMBERS[name][0 if machine == "x86_64" else 1]
