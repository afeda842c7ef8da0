"""A FUSE client for tests: one session in this process, requests as bytes in memory that looks like a guest's."""

from __future__ import annotations

import os
import struct

from ninep_client import Supervisor, request

from devproc.fs import locks, nameless
from devproc.fs.fuse import device
from devproc.fs.fuse.counts import COUNTS_SIZE, Counts
from devproc.fs.fuse.messages import IN_HEADER, REQUESTS, Opcode
from devproc.fs.fuse.session import Session
from devproc.fs.journal import Journal, make_memory
from devproc.fs.share import open_tree

assert device.ANSWERS.keys() == REQUESTS.keys()
ROOT = 1


def message(opcode, nodeid, *fields, names=(), data=b"", unique=7):
    """A request as Linux writes it; fields that are not given are 0."""
    layout = REQUESTS[opcode][0]
    count = len(layout.unpack(bytes(layout.size)))
    body = layout.pack(*fields, *[0] * (count - len(fields))) + b"".join(name + b"\0" for name in names) + data
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, nodeid, 0, 0, 1, 0, 0) + body


class Client:
    """Calls that return the answer's bytes after its header, or raise the OSError."""

    def __init__(self, directory, read_only=False, cache=0):
        self.cache = cache
        self.tree = open_tree(str(directory), read_only)
        self.memory = make_memory("test")
        self.counts = make_memory("counts", COUNTS_SIZE)
        self.supervisor = Supervisor()
        self.session = self.make_session()
        self.call(Opcode.INIT, 0, 7, 41, 65536, 0xFFFFFFFF)

    def successor(self):
        """The process was killed, and another one goes on."""
        self.session.close()
        self.session = self.make_session()

    def make_session(self):
        gone, locked = self.supervisor.shelf(nameless), self.supervisor.shelf(locks)
        counts = Counts(self.counts)
        return Session(self.tree, Journal(self.memory), counts, device.ANSWERS, gone, locked, self.cache)

    def raw(self, data, room=8192):
        made, answer = request(data, room)
        self.session.handle(made)
        return bytes(answer[: made.written])

    def call(self, opcode, nodeid, *fields, room=8192, **rest):
        answer = self.raw(message(opcode, nodeid, *fields, **rest), room)
        size, error, unique = struct.unpack_from("<IiQ", answer)
        assert size == len(answer) and unique == 7
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[16:]

    def lookup(self, name, parent=ROOT):
        return struct.unpack_from("<Q", self.call(Opcode.LOOKUP, parent, names=[name]))[0]

    def create(self, name, content=b"", mode=0o100644, parent=ROOT):
        """(node, handle) of a new file."""
        answer = self.call(Opcode.CREATE, parent, os.O_RDWR, mode, names=[name])
        node, handle = struct.unpack_from("<Q", answer)[0], struct.unpack_from("<Q", answer, 128)[0]
        if content:
            written = self.call(Opcode.WRITE, node, handle, 0, len(content), data=content)
            assert written == struct.pack("<II", len(content), 0)
        return node, handle

    def open(self, node, flags=os.O_RDONLY, opcode=Opcode.OPEN):
        return struct.unpack_from("<Q", self.call(opcode, node, flags))[0]

    def read(self, handle, offset=0, size=4096):
        return self.call(Opcode.READ, 0, handle, offset, size)

    def stat(self, node):
        """struct fuse_attr as a map."""
        names = "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags"
        answer = self.call(Opcode.GETATTR, node)
        assert len(answer) == 104
        return dict(zip(names.split(), struct.unpack_from("<6Q10I", answer, 16), strict=True))

    def close(self):
        self.session.close()
        self.supervisor.close()
        self.tree.close()
        os.close(self.memory)
        os.close(self.counts)
