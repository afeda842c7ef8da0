"""A v86fs client for tests: one device in this process, requests as bytes in memory that looks like a guest's."""

from __future__ import annotations

import os
import struct

from ninep_client import request

from devproc.fs.v86fs.device import V86fsDevice
from devproc.fs.v86fs.messages import HEADER, Type, decode, encode

ROOT = 1
LAYOUTS = {  # of the fields of responses, after the status
    Type.MOUNT: "<QI",
    Type.LOOKUP: "<QIQ",
    Type.GETATTR: "<IQQI",
    Type.OPEN: "<Q",
    Type.CREATE: "<QI",
    Type.WRITE: "<I",
    Type.MKDIR: "<QI",
    Type.SYMLINK: "<QI",
    Type.STATFS: "<5QI",
}


class Keeper:
    """What the supervisor holds for a device."""

    def __init__(self):
        self.held = {}

    def store(self, name, fd):
        self.unstore(name)
        self.held[name] = os.dup(fd)

    def unstore(self, name):
        if name in self.held:
            os.close(self.held.pop(name))

    def close(self):
        for name in list(self.held):
            self.unstore(name)


class Client:
    """Calls that return the response's fields, or raise the OSError of its status."""

    def __init__(self, backend, device=V86fsDevice, **properties):
        self.backend, self.kind, self.properties = str(backend), device, properties
        self.keeper = Keeper()
        self.posted = 0  # buffers on the notify queue
        self.wanted = False
        self.lines = []
        self.begin()

    def begin(self):
        self.device = device = self.kind("fs0", self.properties, backend=self.backend)
        device.descriptors = {name: os.dup(fd) for name, fd in self.keeper.held.items()}
        device.store, device.unstore = self.keeper.store, self.keeper.unstore
        device.log = lambda text, level=20: self.lines.append(text)
        umask = os.umask(0)
        device.start()
        os.umask(umask)
        device.want = lambda queue, wanted: setattr(self, "wanted", wanted)
        device.posted = lambda queue: self.posted > 0
        device.negotiated()

    def successor(self):
        """The process was killed, and another one goes on."""
        self.device.store = self.device.unstore = lambda *_: None
        self.device.stop()
        self.begin()

    def raw(self, data, room=8192, again=False):
        made, answer = request(data, room, again)
        self.device.handle(made)
        return bytes(answer[: made.written])

    def response(self, kind, *fields, data=b"", room=8192, again=False):
        """(status, what follows it)."""
        answer = self.raw(encode(kind, 7, fields, len(data)) + data, room, again)
        size, got, tag, status = struct.unpack_from("<IBHI", answer)
        assert (size, got, tag) == (len(answer), kind | 0x80, 7)
        return status, answer[11:]

    def call(self, kind, *fields, **rest):
        status, body = self.response(kind, *fields, **rest)
        if status:
            raise OSError(status, os.strerror(status))
        if kind not in LAYOUTS:
            return body
        found = struct.unpack(LAYOUTS[kind], body)
        return found[0] if len(found) == 1 else found

    def lookup(self, name, parent=ROOT):
        return self.call(Type.LOOKUP, parent, name)[0]

    def create(self, name, content=b"", mode=0o644, parent=ROOT):
        inode, _ = self.call(Type.CREATE, parent, name, mode)
        if content:
            assert self.write(inode, content) == len(content)
        return inode

    def write(self, inode, data, offset=0):
        return self.call(Type.WRITE, inode, offset, len(data), data=data)

    def read(self, handle, offset=0, size=4096):
        body = self.call(Type.READ, handle, offset, size)
        assert struct.unpack_from("<I", body)[0] == len(body) - 4
        return body[4:]

    def list(self, inode=ROOT, **rest):
        """name → (inode, kind)."""
        body = self.call(Type.READDIR, inode, **rest)
        found, at = {}, 4
        while at < len(body):
            number, kind, length = struct.unpack_from("<QBH", body, at)
            found[body[at + 11 : at + 11 + length]] = (number, kind)
            at += 11 + length
        assert struct.unpack_from("<I", body)[0] == len(found)
        return found

    def heard(self):
        """What the device says, as (type, fields) each, until it has no more to say."""
        found = []
        while self.wanted:
            made, answer = request(b"", 600)
            made.queue = 2
            self.device.handle(made)
            message = bytes(answer[: made.written])
            size, kind, tag = HEADER.unpack_from(message)
            assert size == len(message) and tag == 0
            found.append((Type(kind), *decode(kind, message[HEADER.size :])))
        return found

    def close(self):
        self.device.stop()
        self.keeper.close()
