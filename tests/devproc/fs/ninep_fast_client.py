"""A 9P client whose session is served as in a device process: by machine code, and by Python what that leaves."""

from __future__ import annotations

import os
import struct
from functools import cache

from laid_chain import Fast
from ninep_client import Client

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


class FastClient(Fast, Client):
    """One session's."""

    def __init__(self, directory, read_only=False, attach=True, run=None, pieces=3):
        Fast.__init__(self, run or machine_code(), pieces)
        Client.__init__(self, directory, read_only, attach)

    @property
    def table(self):
        return self.session.fids

    def make_session(self):
        session = super().make_session()
        self.native = NativeFids(self.chain.address, self.tree)
        session.use(self.native)
        return session

    def close(self):
        super().close()
        self.close_fast()


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
