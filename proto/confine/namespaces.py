"""Namespaces of a process's own, as far as a process without rights gets them, and capabilities given up.

A process of an ordinary user makes a user namespace first, in which its user and group are what they were and nobody
else is anybody; in that it may make the others. A process of root needs none, and would lose the right to files of
other users in one: it gives up every capability but those to files instead. The kernel refuses a user namespace to a
process with more than one thread.

* net: no interface, no address, no abstract socket of the host's.
* ipc, uts: no System V objects, a host name of its own.
* mount: for shares. The host's files cannot be changed (mode, times, attributes: what Landlock does not restrict),
  except below the directories that are served.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence

__all__ = ["KINDS", "enter", "forget_capabilities", "probe"]

KINDS = ("user", "net", "ipc", "uts", "mount")
_FLAGS = {"mount": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "net": 0x40000000}
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER, _CAP_NET_BIND_SERVICE = 1, 2, 3, 10
_OF_FILES = 1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH | 1 << _CAP_FOWNER
_CAPABILITY_VERSION = 0x20080522
_PR_SET_DUMPABLE = 4
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_FDCWD, _AT_EMPTY_PATH = 1, 0x8000, -100, 0x1000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOUNT_ATTR_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def probe() -> dict[str, str]:
    """Which namespaces this host gives, tried in a child: the empty text for those it does, else why not. For
    processes with one thread."""
    root = os.geteuid() == 0
    if not _tried(KINDS[1:]):
        return dict.fromkeys(KINDS[1:] if root else KINDS, "")
    found = {} if root else {"user": _tried(())}
    for kind in KINDS[1:]:
        found[kind] = _tried((kind,)) if root or not found["user"] else f"without a user namespace: {found['user']}"
    return found


def enter(kinds: Sequence[str], writable: Iterable[str] = (), *, inside: bool = False) -> None:
    """Make namespaces of these kinds, after a user namespace where it needs one (`inside`: it has one already); with
    `mount`, everything is read-only but these directories. Raises OSError; then the process is fit for nothing."""
    uid, gid = os.geteuid(), os.getegid()
    flags = sum(_FLAGS[kind] for kind in kinds if kind != "user")
    anew = uid != 0 and not inside
    if anew:
        flags |= _FLAGS["user"]
    _checked(_libc.unshare(flags), "unshare")
    if anew:
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # its user may still look at it, and debug it
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    if "mount" in kinds:
        _freeze(writable)


def forget_capabilities(*, ports: bool = False) -> bool:
    """Give up every capability but those to files and, with `ports`, to listen below 1024. False when there were
    none to give up."""
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data), "capget")
    effective, permitted, _, high, more, _ = struct.unpack("<6I", data.raw)
    if not (effective | permitted | high | more):
        return False
    kept = permitted & (_OF_FILES | (1 << _CAP_NET_BIND_SERVICE if ports else 0))
    _checked(_libc.capset(header, struct.pack("<6I", kept, kept, 0, 0, 0, 0)), "capset")
    return True


def _freeze(writable: Iterable[str]) -> None:
    """Everything read-only, but for copies of the mounts at `writable`."""
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate")
    copies = []
    try:
        for path in writable:
            where = os.fsencode(path)
            flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
            copies.append((_checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, where, flags), "open_tree"), where))
        attributes = struct.pack("<QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        arguments = (_AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
        _checked(_libc.syscall(_MOUNT_SETATTR, *arguments), "mount_setattr")
        for fd, where in copies:
            arguments = (fd, b"", _AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH)
            _checked(_libc.syscall(_MOVE_MOUNT, *arguments), "move_mount")
    finally:
        for fd, _ in copies:
            os.close(fd)


def _tried(kinds: Sequence[str]) -> str:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        text = "failed"
        try:
            enter(kinds)
            text = ""
        except OSError as error:
            text = str(error.strerror or error)
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    try:
        said = os.read(reading, 1000).decode()
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    return said


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number or errno.EIO)}")
    return result
