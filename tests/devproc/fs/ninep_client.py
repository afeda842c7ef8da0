"""A 9P client for tests: one session in this process, requests as bytes in memory that looks like a guest's."""

from __future__ import annotations

import errno
import os
import struct

from devproc.fs import locks, nameless
from devproc.fs.journal import Journal, make_memory
from devproc.fs.ninep import device
from devproc.fs.ninep.messages import REQUESTS, Type
from devproc.fs.ninep.session import Session
from devproc.fs.share import open_tree
from devproc.fs.shelf import Shelf
from devproc.request import Buffer, Request

assert device.ANSWERS.keys() == REQUESTS.keys()

NUMBERS = {"1": "B", "2": "H", "4": "I", "8": "Q"}


def message(kind, tag=1, *fields, data=b""):
    """A request as a client writes it."""
    body = b""
    for declared, value in zip(REQUESTS[kind].split(), fields, strict=True):
        how = declared.rpartition(":")[2]
        if how in NUMBERS:
            body += struct.pack("<" + NUMBERS[how], value)
        elif how == "s":
            body += struct.pack("<H", len(value)) + value
        else:
            body += struct.pack("<H", len(value)) + b"".join(struct.pack("<H", len(name)) + name for name in value)
    return struct.pack("<IBH", 7 + len(body) + len(data), kind, tag) + body + data


def request(data, room, again=False, pieces=3):
    """A request whose buffers are cut into pieces, and the memory that its response goes to."""
    memory = bytearray(data) + bytearray(b"\xee" * room)
    view = memoryview(memory)

    def buffers(start, size):
        step = max(1, size // pieces)
        return [Buffer(0, start + at, min(step, size - at)) for at in range(0, size, step)]

    made = Request(
        0, 0, buffers(0, len(data)), buffers(len(data), room), lambda _, at, size: view[at : at + size], again=again
    )
    return made, view[len(data) :]


class Supervisor:
    """What holds descriptors for a session, and gives a successor copies."""

    def __init__(self):
        self.kept = {}

    def shelf(self, what):
        mine = {name: os.dup(fd) for name, fd in self.kept.items() if name.startswith(what.PREFIX)}
        return Shelf(mine, self.store, self.unstore, what.LIMIT)

    def store(self, name, fd):
        self.unstore(name)
        self.kept[name] = os.dup(fd)

    def unstore(self, name):
        if name in self.kept:
            os.close(self.kept.pop(name))

    def close(self):
        for name in list(self.kept):
            self.unstore(name)


class Client:
    """Calls that return the response's bytes after its header, or raise the OSError of Rlerror."""

    def __init__(self, directory, read_only=False, attach=True):
        self.tree = open_tree(str(directory), read_only)
        self.memory = make_memory("test")
        self.supervisor = Supervisor()
        self.session = self.make_session()
        if attach:
            self.call(Type.VERSION, 65536, b"9P2000.L")
            self.call(Type.ATTACH, 0, 0xFFFFFFFF, b"", b"", 0)

    def successor(self):
        """The process was killed, and another one goes on."""
        self.session.close()
        self.session = self.make_session()

    def make_session(self):
        gone, locked = self.supervisor.shelf(nameless), self.supervisor.shelf(locks)
        return Session(self.tree, Journal(self.memory), device.ANSWERS, gone, locked)

    def raw(self, data, room=8192, again=False):
        made, answer = request(data, room, again)
        self.session.handle(made)
        return bytes(answer[: made.written])

    def call(self, kind, *fields, data=b"", room=8192, again=False):
        answer = self.raw(message(kind, 7, *fields, data=data), room, again)
        size, got, tag = struct.unpack_from("<IBH", answer)
        assert size == len(answer) and tag == 7
        if got == 7:
            number = struct.unpack_from("<I", answer, 7)[0]
            raise OSError(number, os.strerror(number))
        assert got == kind + 1
        return answer[7:]

    def walk(self, newfid, *names, fid=0):
        answer = self.call(Type.WALK, fid, newfid, list(names))
        if struct.unpack_from("<H", answer)[0] != len(names):
            raise OSError(errno.ENOENT, "walked only a part")
        return answer

    def create(self, fid, name, content=b"", mode=0o644, directory=0):
        self.call(Type.WALK, directory, fid, [])
        self.call(Type.LCREATE, fid, name, os.O_RDWR, mode, 0)
        if content:
            assert self.call(Type.WRITE, fid, 0, len(content), data=content) == struct.pack("<I", len(content))

    def read(self, fid, offset=0, count=4096):
        answer = self.call(Type.READ, fid, offset, count)
        assert struct.unpack_from("<I", answer)[0] == len(answer) - 4
        return answer[4:]

    def stat(self, fid):
        names = (
            "valid qid_kind version path mode uid gid nlink rdev size blksize blocks atime atime_nsec mtime mtime_nsec"
        )
        return dict(
            zip(names.split(), struct.unpack_from("<QBIQIII9Q", self.call(Type.GETATTR, fid, 0x7FF)), strict=True)
        )

    def list(self, fid, count=4096):
        found, offset = {}, 0
        while True:
            data = self.call(Type.READDIR, fid, offset, count)[4:]
            if not data:
                return found
            at = 0
            while at < len(data):
                _, _, path, offset, kind, length = struct.unpack_from("<BIQQBH", data, at)
                found[data[at + 24 : at + 24 + length]] = (path, kind)
                at += 24 + length

    def close(self):
        self.session.close()
        self.supervisor.close()
        self.tree.close()
        os.close(self.memory)
