"""A shared directory from inside the sandbox: its table of system calls has all that the tree's operations need."""

from __future__ import annotations

import errno
import fcntl
import inspect
import os
import stat
import traceback
from collections.abc import Callable

import pytest

from devproc.fs.host import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, RENAME_EXCHANGE, HostFile, HostTree
from devproc.fs.tree import NOW, Changes, Owner
from proto.confine import limits, seccomp
from proto.confine.syscalls import PROFILES

ROOT = Owner(0, 0)
FILE: dict[str, Callable[[HostFile], object]] = {
    "write": lambda file: file.write([memoryview(b"hello")], 0),
    "read": lambda file: file.read([memoryview(bytearray(5))], 0),
    "attributes": lambda file: file.attributes(),
    "change": lambda file: file.change(Changes(size=9000, mode=0o640, uid=5, gid=6, atime=NOW, mtime=10)),
    "sync": lambda file: (file.sync(True), file.sync(False)),
    "allocate": lambda file: [file.allocate(how, 0, 4096) for how in (0, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE)],
    "seek": lambda file: file.seek(0, os.SEEK_HOLE),
    "descriptor": lambda file: fcntl.flock(file.descriptor(), fcntl.LOCK_EX),
    "born": lambda file: file.born(),
}
TREE: dict[str, Callable[[HostTree], object]] = {
    "create": lambda tree: tree.create(b"new", os.O_RDWR, 0o4755, Owner(7, 8)).close(),
    "open": lambda tree: tree.open(b"new", os.O_WRONLY | os.O_TRUNC).close(),
    "mkdir": lambda tree: tree.mkdir(b"d", 0o1777, ROOT),
    "mknod": lambda tree: tree.mknod(b"d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3), ROOT),
    "settle": lambda tree: tree.settle(b"d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3), ROOT),
    "symlink": lambda tree: tree.symlink(b"l", b"d", ROOT),
    "readlink": lambda tree: tree.readlink(b"l"),
    "link": lambda tree: tree.link(b"new", b"d/other"),
    "temporary": lambda tree: tree.temporary(b"d", os.O_RDWR, 0o600, ROOT).close(),
    "stat": lambda tree: tree.stat(b"new"),
    "identity": lambda tree: tree.identity(b"new"),
    "entries": lambda tree: tree.entries(b""),
    "hold": lambda tree: os.close(tree.hold(b"new")),
    "adopt": lambda tree: tree.adopt(tree.hold(b"new")).close(),
    "held": lambda tree: _again(tree, os.O_RDONLY),
    "link_held": lambda tree: _under_another_name(tree),
    "change": lambda tree: tree.change(b"new", Changes(size=1, mode=0o600, uid=1, gid=2, mtime=NOW)),
    "set_xattr": lambda tree: tree.set_xattr(b"new", b"user.x", b"1", 0),
    "get_xattr": lambda tree: tree.get_xattr(b"new", b"user.x"),
    "list_xattrs": lambda tree: tree.list_xattrs(b"new"),
    "remove_xattr": lambda tree: tree.remove_xattr(b"new", b"user.x"),
    "space": lambda tree: tree.space(),
    "sync": lambda tree: tree.sync(),
    "rename": lambda tree: (tree.rename(b"new", b"old"), tree.rename(b"old", b"l", RENAME_EXCHANGE)),
    "unlink": lambda tree: [tree.unlink(name) for name in (b"old", b"l", b"d/other", b"d/null", b"d/third")],
    "rmdir": lambda tree: tree.rmdir(b"d"),
}


def _again(tree: HostTree, flags: int) -> None:
    descriptor = tree.hold(b"new")
    tree.held(descriptor, flags).close()
    os.close(descriptor)


def _under_another_name(tree: HostTree) -> None:
    descriptor = tree.hold(b"new")
    tree.link_held(descriptor, b"d/third")
    os.close(descriptor)


def test_the_operations_are_all_that_there_are() -> None:
    for kind, tried in ((HostFile, FILE), (HostTree, TREE)):
        there = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        assert there == tried.keys() | {"close"}


@pytest.mark.parametrize("profile", ["share", "served share"])
def test_every_operation_goes_inside_the_sandbox(share, profile) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = _try_all(str(share), profile)
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read().decode() == ""
    os.waitpid(child, 0)


def _try_all(directory: str, profile: str) -> str:
    """What is refused inside a sandbox from which this process does not come back."""
    tree = HostTree(directory)
    limits.no_new_privileges()
    seccomp.install(seccomp.allowlist(PROFILES[profile], os.getpid(), os.uname().machine))
    file = tree.create(b"file", os.O_RDWR, 0o644, ROOT)
    steps = [*((name, lambda act=act: act(file)) for name, act in FILE.items())]
    steps += [*((name, lambda act=act: act(tree)) for name, act in TREE.items())]
    refused = []
    for name, step in steps:
        try:
            step()
        except OSError as error:
            refused.append(f"{name}: {errno.errorcode.get(error.errno or 0)}")
    return ", ".join(refused)
