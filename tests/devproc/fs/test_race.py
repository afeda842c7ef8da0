"""A guest that works in a directory which another process swaps with a link to the outside, as fast as it can: whatever
the guest asks for, in each protocol, nothing outside is read or changed. And what else could lead out: hard links to
symbolic links, and devices, pipes and sockets that lie in the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import stat
import subprocess
import sys
import time

import fuse_client
import fuse_fast_client
import ninep_client
import pytest
import v86fs_client

from devproc.fs.fuse.messages import Opcode
from devproc.fs.ninep.messages import Type as Ninep
from devproc.fs.v86fs.messages import Type as V86fs

SECRET = b"not for the guest"
ROUNDS, SUCCESSES = 1500, 20  # at least so many attempts, and so many of them in time
SWAP = """
import os, random, sys, time
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.getppid() == int(sys.argv[2]):
    for old, new in (("real", "d"), ("d", "real"), ("link", "d"), ("d", "link")):
        os.rename(old, new)
        time.sleep(random.choice([0, 0, 0.0001, 0.001]))
"""


class Fuse:
    """What a guest does in the directory `d`, by FUSE; each returns what it has read, if anything."""

    kind = fuse_client.Client

    def __init__(self, share):
        self.client = self.kind(share)

    def inside(self):
        return self.client.lookup(b"d")

    def opened(self, flags):
        node = self.client.lookup(b"f", self.inside())
        return node, self.client.open(node, flags)

    def read(self):
        node, handle = self.opened(os.O_RDONLY)
        found = self.client.read(handle)
        self.client.call(Opcode.RELEASE, node, handle)
        return found

    def write(self):
        node, handle = self.opened(os.O_RDWR | os.O_TRUNC)
        self.client.call(Opcode.WRITE, node, handle, 0, 6, data=b"inside")
        self.client.call(Opcode.RELEASE, node, handle)

    def create(self):
        node, handle = self.client.create(b"new", b"inside", parent=self.inside())
        self.client.call(Opcode.RELEASE, node, handle)

    def unlink(self):
        self.client.call(Opcode.UNLINK, self.inside(), names=[b"new"])

    def mkdir(self):
        self.client.call(Opcode.MKDIR, self.inside(), 0o755, names=[b"sub"])

    def rmdir(self):
        self.client.call(Opcode.RMDIR, self.inside(), names=[b"sub"])

    def rename(self):
        self.client.call(Opcode.RENAME, self.inside(), self.inside(), names=[b"f", b"g"])

    def rename_back(self):
        self.client.call(Opcode.RENAME, self.inside(), self.inside(), names=[b"g", b"f"])

    def move_out(self):
        self.client.call(Opcode.RENAME, self.inside(), fuse_client.ROOT, names=[b"f", b"mine"])

    def move_in(self):
        self.client.call(Opcode.RENAME, fuse_client.ROOT, self.inside(), names=[b"mine", b"f"])

    def link(self):
        node = self.client.lookup(b"f", self.inside())
        self.client.call(Opcode.LINK, fuse_client.ROOT, node, names=[b"linked"])

    def unlink_it(self):
        self.client.call(Opcode.UNLINK, fuse_client.ROOT, names=[b"linked"])

    def symlink(self):
        self.client.call(Opcode.SYMLINK, self.inside(), names=[b"s", b"/etc"])

    def node(self):
        self.client.call(Opcode.MKNOD, self.inside(), 0o020666, 0x103, names=[b"null"])

    def change(self):
        node = self.client.lookup(b"f", self.inside())
        self.client.call(Opcode.SETATTR, node, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o640)

    def attribute(self):
        node = self.client.lookup(b"f", self.inside())
        self.client.call(Opcode.SETXATTR, node, 1, 0, names=[b"user.x"], data=b"v")

    def close(self):
        self.client.close()


class FastFuse(Fuse):
    """The same, by machine code where that serves."""

    kind = fuse_fast_client.FastClient


class NineP:
    """The same by 9P: a walk at once to the file, and one to the directory."""

    def __init__(self, share):
        self.client = ninep_client.Client(share)

    @contextlib.contextmanager
    def at(self, *names, fid=1):
        self.client.walk(fid, *names)
        try:
            yield fid
        finally:
            with contextlib.suppress(OSError):
                self.client.call(Ninep.CLUNK, fid)

    def read(self):
        with self.at(b"d", b"f") as file:
            self.client.call(Ninep.LOPEN, file, os.O_RDONLY)
            return self.client.read(file)

    def write(self):
        with self.at(b"d", b"f") as file:
            self.client.call(Ninep.LOPEN, file, os.O_RDWR | os.O_TRUNC)
            self.client.call(Ninep.WRITE, file, 0, 6, data=b"inside")

    def create(self):
        with self.at(b"d") as file:
            self.client.call(Ninep.LCREATE, file, b"new", os.O_RDWR, 0o644, 0)

    def unlink(self):
        with self.at(b"d", b"new") as file:
            self.client.call(Ninep.REMOVE, file)

    def mkdir(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.MKDIR, directory, b"sub", 0o755, 0)

    def rmdir(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.UNLINKAT, directory, b"sub", 0x200)

    def rename(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.RENAMEAT, directory, b"f", directory, b"g")

    def rename_back(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.RENAMEAT, directory, b"g", directory, b"f")

    def move_out(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.RENAMEAT, directory, b"f", 0, b"mine")

    def move_in(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.RENAMEAT, 0, b"mine", directory, b"f")

    def link(self):
        with self.at(b"d", b"f") as file:
            self.client.call(Ninep.LINK, 0, file, b"linked")

    def unlink_it(self):
        self.client.call(Ninep.UNLINKAT, 0, b"linked", 0)

    def symlink(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.SYMLINK, directory, b"s", b"/etc", 0)

    def node(self):
        with self.at(b"d") as directory:
            self.client.call(Ninep.MKNOD, directory, b"null", 0o020666, 1, 3, 0)

    def change(self):
        with self.at(b"d", b"f") as file:
            self.client.call(Ninep.SETATTR, file, 1, 0o640, 0, 0, 0, 0, 0, 0, 0)

    def attribute(self):
        with self.at(b"d", b"f") as file:
            self.client.call(Ninep.XATTRCREATE, file, b"user.x", 1, 0)
            self.client.call(Ninep.WRITE, file, 0, 1, data=b"v")

    def close(self):
        self.client.close()


class V86:
    """The same by v86fs, which has fewer words."""

    def __init__(self, share):
        self.client = v86fs_client.Client(share)

    def inside(self):
        return self.client.lookup(b"d")

    def file(self):
        return self.client.lookup(b"f", self.inside())

    def read(self):
        handle = self.client.call(V86fs.OPEN, self.file(), os.O_RDONLY)
        found = self.client.read(handle)
        self.client.call(V86fs.CLOSE, handle)
        return found

    def write(self):
        self.client.write(self.file(), b"inside")

    def create(self):
        self.client.create(b"new", b"inside", parent=self.inside())

    def unlink(self):
        self.client.call(V86fs.UNLINK, self.inside(), b"new")

    def mkdir(self):
        self.client.call(V86fs.MKDIR, self.inside(), b"sub", 0o755)

    def rmdir(self):
        self.client.call(V86fs.UNLINK, self.inside(), b"sub")

    def rename(self):
        self.client.call(V86fs.RENAME, self.inside(), b"f", self.inside(), b"g")

    def rename_back(self):
        self.client.call(V86fs.RENAME, self.inside(), b"g", self.inside(), b"f")

    def move_out(self):
        self.client.call(V86fs.RENAME, self.inside(), b"f", 1, b"mine")

    def move_in(self):
        self.client.call(V86fs.RENAME, 1, b"mine", self.inside(), b"f")

    def symlink(self):
        self.client.call(V86fs.SYMLINK, self.inside(), b"s", b"/etc")

    def change(self):
        self.client.call(V86fs.SETATTR, self.file(), 9, 0o640, 6)

    def close(self):
        self.client.close()


PROTOCOLS = {"9p": NineP, "fuse": Fuse, "fuse by machine code": FastFuse, "v86fs": V86}
WORK = (
    *("read", "write", "create", "unlink", "mkdir", "rmdir", "rename", "rename_back", "move_out", "move_in", "link"),
    *("unlink_it", "symlink", "node", "change", "attribute"),
)


def seen(directory):
    """All that anybody could have changed there; reading may change the times of access."""
    found = {}
    for place in [directory, *sorted(directory.iterdir())]:
        status = os.lstat(place)
        content = place.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[place.name] = (*status[:7], status.st_mtime_ns, status.st_ctime_ns, content, os.listxattr(place))
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_race_of_directory_and_link_lets_nothing_out(protocol, share, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("f", "g", "new"):
        (outside / name).write_bytes(SECRET)
    (share / "real").mkdir()
    (share / "real" / "f").write_bytes(b"inside")
    os.symlink(outside, share / "link")
    before = seen(outside)
    rng = random.Random(protocol)
    guest = PROTOCOLS[protocol](share)
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, str(share), str(os.getpid())], stdout=subprocess.PIPE)
    done, read, rounds, deadline = dict.fromkeys(WORK, 0), set(), 0, time.monotonic() + 60
    try:
        swapper.stdout.readline()
        while (rounds < ROUNDS or sum(done.values()) < SUCCESSES) and time.monotonic() < deadline:
            rounds += 1
            work = rng.choice([name for name in WORK if hasattr(guest, name)])
            with contextlib.suppress(OSError):
                read.add(getattr(guest, work)())
                done[work] += 1
    finally:
        swapper.kill()
        swapper.communicate()
        guest.close()
    assert SECRET not in read
    assert seen(outside) == before
    assert sum(done.values()) >= SUCCESSES, "the guest hardly ever found the directory in its place"


@pytest.mark.parametrize("protocol", ["9p", "fuse", "fuse by machine code"])
def test_a_hard_link_to_a_symbolic_link_leads_nowhere(protocol, share, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    guest = PROTOCOLS[protocol](share)
    client = guest.client
    try:
        for name, target in ((b"s", b"../secret"), (b"t", os.fsencode(tmp_path / "secret"))):
            if protocol == "9p":
                client.call(Ninep.SYMLINK, 0, name, target, 0)
                client.walk(1, name)
                client.call(Ninep.LINK, 0, 1, b"hard" + name)
                client.call(Ninep.CLUNK, 1)
                client.walk(1, b"hard" + name)
                with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
                    client.call(Ninep.LOPEN, 1, os.O_RDWR)
                client.call(Ninep.CLUNK, 1)
            else:
                client.call(Opcode.SYMLINK, fuse_client.ROOT, names=[name, target])
                client.call(Opcode.LINK, fuse_client.ROOT, client.lookup(name), names=[b"hard" + name])
                with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
                    client.open(client.lookup(b"hard" + name), os.O_RDWR)
            made = share / os.fsdecode(b"hard" + name)
            assert made.is_symlink() and made.lstat().st_nlink == 2
        assert (tmp_path / "secret").stat().st_nlink == 1
    finally:
        guest.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_no_file_on_the_host_is_not_opened(protocol, share):
    """A pipe would block the device, a device of the host's be the host's."""
    os.mkfifo(share / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(share / "socket"))
    names = [b"pipe", b"socket"]
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # a container's root may not
            os.mknod(share / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            names.append(b"zero")
    guest = PROTOCOLS[protocol](share)
    client = guest.client
    try:
        for name in names:
            for flags in (os.O_RDONLY, os.O_RDWR):
                with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
                    if protocol == "9p":
                        with guest.at(name) as file:
                            client.call(Ninep.LOPEN, file, flags)
                    elif protocol == "v86fs":
                        client.call(V86fs.OPEN, client.lookup(name), flags)
                    else:
                        client.open(client.lookup(name), flags)
    finally:
        guest.close()
        listener.close()
