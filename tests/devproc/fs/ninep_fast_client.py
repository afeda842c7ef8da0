"""A 9P client whose session is served as in a device process: by machine code, and by Python what that leaves."""

from __future__ import annotations

import os
import struct
from functools import cache

from laid_chain import LaidChain
from ninep_client import Client, request

from devproc.fs.intents import INTENT_KEYS
from devproc.fs.journal import Journal
from devproc.fs.ninep.fast import serve
from devproc.fs.ninep.known import NativeFids
from devproc.fs.ninep.messages import Type
from native import Unit


@cache
def machine_code():
    """`serve`, compiled."""
    return Unit("ninep-test", exports=[serve]).load().serve


class FastClient(LaidChain, Client):
    """`served` counts what machine code answered, `left` what it left to Python."""

    def __init__(self, directory, read_only=False, attach=True, run=None, pieces=3):
        LaidChain.__init__(self, pieces)
        self.run = run or machine_code()
        self.served, self.left = 0, 0
        Client.__init__(self, directory, read_only, attach)

    def make_session(self):
        session = super().make_session()
        self.native = NativeFids(self.chain.address, self.tree)
        session.use(self.native)
        return session

    def successor(self):
        self.session.close()
        self.native.close()
        self.session = self.make_session()

    def killed(self):
        """A child of this process was killed in its place: what it has changed meanwhile is no news for us."""
        for part in (self.session.fids, self.session.nameless, self.session.locks):
            part.close_files() if part is self.session.fids else part.close()
        self.native.close()
        self.session = self.make_session()

    def raw(self, data, room=8192, again=False, head=0, number=0):
        self.lay_out(data, room, again, head, number)
        if self.run(self.native.known, self.chain, 0):
            self.served += 1
            return self.answer(self.native.share.written)
        self.left += 1
        made, answer = request(data, room, bool(self.chain.again))
        made.head, made.number = head, number
        self.session.handle(made)
        return bytes(answer[: made.written])

    def close(self):
        super().close()
        self.native.close()
        self.free()


def plain(answer, kind):
    """An answer without what is another's on another directory: inodes, versions, blocks and times."""
    data = bytearray(answer)
    if len(data) < 12 or data[4] != kind + 1:
        return bytes(data)
    if kind in (Type.ATTACH, Type.LOPEN, Type.LCREATE, Type.MKDIR, Type.MKNOD, Type.SYMLINK):
        data[8:20] = bytes(12)
    elif kind == Type.WALK:
        for at in range(9, len(data), 13):
            data[at + 1 : at + 13] = bytes(12)
    elif kind == Type.GETATTR:
        data[16:28] = bytes(12)
        data[72:128] = bytes(56)  # blocks and times
    elif kind == Type.READDIR:
        at = 11
        while at < len(data):
            data[at + 5 : at + 13] = bytes(8)
            at += 24 + struct.unpack_from("<H", data, at + 22)[0]
    return bytes(data)


def state(client):
    """All fids, as Python knows them, without inodes."""
    client.session.fids.catch_up()
    return {
        number: (fid.path, fid.uid, fid.flags, fid.identity is not None, fid.gone, fid.file is not None)
        for number, fid in client.session.fids._fids.items()
    }


def kept(client):
    """What a successor would find, without inodes."""
    found = {}
    for key, value in Journal(client.memory).table.items():
        if key >= 0:
            path, uid, flags, identity, gone = value
            found[key] = (path, uid, flags, identity is not None, gone)
        elif key > INTENT_KEYS:
            found[key] = value
        else:
            digest, before, response = value
            kind = response[4] - 1 if response else 0
            found[key] = (digest, before and [each is None for each in before], response and plain(response, kind))
    return found


def fds():
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
