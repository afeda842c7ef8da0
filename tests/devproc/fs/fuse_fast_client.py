"""A FUSE client whose session is served as in a device process: by machine code, and by Python what that leaves."""

from __future__ import annotations

import os
import struct
from functools import cache

from fuse_client import Client
from laid_chain import Fast

from devproc.engine import load_engine
from devproc.fs.fuse.fast import serve
from devproc.fs.fuse.known import NativeTables
from devproc.fs.fuse.messages import Opcode
from devproc.fs.intents import INTENT_KEYS
from devproc.fs.journal import Journal
from native import Unit


@cache
def machine_code():
    """`serve`, compiled."""
    return Unit("fuse-test", exports=[serve]).load().serve


class FastClient(Fast, Client):
    """One session's."""

    def __init__(self, directory, read_only=False, cache=0, run=None, pieces=3):
        Fast.__init__(self, run or machine_code(), pieces)
        Client.__init__(self, directory, read_only, cache)

    @property
    def table(self):
        return self.session.nodes

    def make_session(self):
        session = super().make_session()
        self.native = NativeTables(load_engine(), self.chain.address, self.tree, self.cache)
        session.nodes.use(self.native)
        return session

    def close(self):
        super().close()
        self.close_fast()


LOOKED_AT = (Opcode.LOOKUP, Opcode.CREATE, Opcode.MKDIR, Opcode.LINK)  # answers with struct fuse_entry_out


def plain(answer, opcode):
    """An answer without what is another's on another directory: inodes, blocks and times."""
    data = bytearray(answer)
    at = 16 + 40 if opcode in LOOKED_AT else 32 if opcode in (Opcode.GETATTR, Opcode.SETATTR) else 0
    if at and len(data) > 16:
        data[at : at + 8] = bytes(8)
        data[at + 16 : at + 60] = bytes(44)
    if opcode == Opcode.READDIR:
        at = 16
        while at < len(data):
            data[at : at + 8] = bytes(8)
            at += 24 + struct.unpack_from("<I", data, at + 16)[0] + 7 & ~7
    return bytes(data)


def tree(directory):
    """All that is below a directory, with what the guest made of it."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(place, name)
            seen = os.lstat(path)
            owner = os.getxattr(path, "user.bulkhead.owner") if "user.bulkhead.owner" in os.listxattr(path) else None
            found[os.path.relpath(path, directory)] = (seen.st_mode, seen.st_size, owner)
    return found


def kept(client):
    """What a successor would find, without what is another's on another directory."""
    table = Journal(client.memory).table
    plain_values = {}
    for key, value in table.items():
        if key > 0:
            plain_values[key] = value[1]
        elif key > INTENT_KEYS:
            plain_values[key] = value
    return plain_values


def state(client):
    """What Python knows."""
    client.session.nodes.catch_up()
    nodes = client.session.nodes
    assert {node.number for node in nodes._by_path.values()} <= set(nodes._nodes)
    assert {node.number for node in nodes._by_identity.values()} == {
        number for number, node in nodes._nodes.items() if not node.given_up
    }
    held = {
        number: (node.paths, node.given_up, nodes._counts._words[node.place]) for number, node in nodes._nodes.items()
    }
    handles = {number: (handle.node, handle.flags) for number, handle in nodes.handles.items()}
    return held, handles, dict(nodes._open), (nodes._next_node, nodes._next_handle)
