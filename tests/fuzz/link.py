"""Fuzz targets of what processes say to each other: messages of the link, packets of channels, state that outlives."""

from __future__ import annotations

import os
import socket
import struct

import msgpack

from devproc.fs.journal import SIZE as JOURNAL_SIZE
from devproc.fs.journal import Journal
from devproc.kept import KEPT_SIZE, Kept
from devproc.rng import Entropy
from proto import messages
from proto.channel import MAX_PACKET, Channel
from proto.errors import BackendError, ChannelClosed, DeadlineMissed, ProtocolError
from proto.messages import HEADER_SIZE, MESSAGES, decode, encode, seal
from tests.fuzz.harness import Target, allowed

HALF = JOURNAL_SIZE // 2 - 32


def _example(kind: object) -> object:
    """A value that a field type takes."""
    if isinstance(kind, messages.Integer):
        return min(kind.maximum, 3)
    if isinstance(kind, messages.Boolean):
        return True
    if isinstance(kind, messages.Text):
        return "x"
    if isinstance(kind, messages.Bytes):
        return b"xyz"
    if isinstance(kind, messages.Sequence):
        return [_example(kind.item)]
    assert isinstance(kind, messages.Structure)
    return {field.name: _example(field.type) for field in kind.fields}


def _message_seeds() -> list[bytes]:
    found = []
    for kind in MESSAGES.values():
        found.append(encode(kind.name, _example(kind.request), epoch=1, seq=1))
        if kind.answer is not None:
            found.append(encode(kind.name, _example(kind.answer), epoch=1, seq=1, reply=True))
            found.append(encode(kind.name, _example(messages.ERROR), epoch=1, seq=1, reply=True, error=True))
    return found


def _message(data: bytes) -> None:
    """What decodes also encodes, to the same meaning; its checksum is made right, or nothing behind it is found."""
    with allowed(ProtocolError):
        decode(data)
    with allowed(ProtocolError):
        message = decode(seal(data[: HEADER_SIZE - 4], data[HEADER_SIZE:]))
        again = encode(
            message.name,
            message.body,
            epoch=message.epoch,
            seq=message.seq,
            correlation=message.correlation,
            reply=message.reply,
            error=message.error,
        )
        assert decode(again) == message


def _packet_seeds() -> list[bytes]:
    bodies = [["READY", {"pid": 7}, []], ["START", {"id": "blk0", "list": [1, 2], "bytes": b"x"}, ["ram", "link"]]]
    return [bytes([len(body[2])]) + msgpack.packb(body) for body in bodies]


def _packet(data: bytes) -> None:
    """A packet with some descriptors beside it: whatever becomes of it, none of them stays open."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_PACKET)
    lent = [os.open("/dev/null", os.O_RDONLY) for _ in range(data[0] % 4 if data else 0)]
    with sender, Channel(receiver) as channel:
        socket.send_fds(sender, [data[1 : MAX_PACKET + 8] or b"\xc0"], lent)
        with allowed(ProtocolError, ChannelClosed, DeadlineMissed):
            channel.recv(0).close()
    for fd in lent:
        os.close(fd)


def _kept_seeds() -> list[bytes]:
    fd = os.memfd_create("seed")
    os.truncate(fd, KEPT_SIZE)
    kept = Kept(fd)
    kept.store(b"first")
    kept.store(Entropy("rng0", {}).save())
    data = os.pread(fd, KEPT_SIZE, 0)
    os.close(fd)
    return [data[:64], data[: KEPT_SIZE // 2 + 64]]


def _kept(data: bytes) -> None:
    """A slot that counts is whole; what a device makes of it is an error at most."""
    fd = os.memfd_create("kept")
    os.truncate(fd, KEPT_SIZE)
    os.pwrite(fd, data[:KEPT_SIZE], 0)
    try:
        kept = Kept(fd)
        with allowed(ProtocolError):
            Entropy("rng0", {}).load(1, kept.load())
        kept.store(b"new")
        assert Kept(fd).load() == b"new"
    finally:
        os.close(fd)


def _state(data: bytes) -> None:
    """A device's saved state, as LOAD brings it."""
    from devproc.net.device import NetDevice

    with allowed(ProtocolError):
        NetDevice("net0", {}, backend="user").load(1, data)


def _state_seeds() -> list[bytes]:
    from devproc.net.device import NetDevice

    return [NetDevice("net0", {}, backend="user").save(), msgpack.packb({}), b""]


def _journal_seeds() -> list[bytes]:
    import zlib

    def record(key: object, value: object) -> bytes:
        data: bytes = msgpack.packb((key, value))
        return struct.pack("<II", len(data), zlib.crc32(data)) + data

    run = record(1, [b"path", 3, None]) + record(-1, 4096) + record(1, None) + record(2, {"a": 1})
    return [b"\0" + run, b"\1" + run, b"\0" + record(1, "x") + record([1], 2)]


def _journal(data: bytes) -> None:
    """The half that counts holds anything; checksums are mended, so that what is behind them is reached."""
    fd = os.memfd_create("journal")
    os.truncate(fd, JOURNAL_SIZE)
    half, run = (data[0] & 1 if data else 0), bytearray(data[1 : 1 << 16])
    _mend(run)
    os.pwrite(fd, struct.pack("<I", half), 0)
    os.pwrite(fd, run, 64 + half * HALF)
    try:
        journal = Journal(fd)
        with allowed(BackendError):
            journal.put(5, "kept")
        journal.close()
        journal = Journal(fd)
        assert journal.table[5] == "kept"
        journal.close()
    except BackendError:
        pass
    finally:
        os.close(fd)


def _mend(run: bytearray) -> None:
    import zlib

    at = 0
    while at + 8 <= len(run):
        (length,) = struct.unpack_from("<I", run, at)
        if not 0 < length <= len(run) - at - 8:
            return
        struct.pack_into("<I", run, at + 4, zlib.crc32(run[at + 8 : at + 8 + length]))
        at += 8 + length


TARGETS = (
    Target("messages", "messages between core and device (proto.messages)", _message, _message_seeds),
    Target("channel", "packets between the keeper and its processes (proto.channel)", _packet, _packet_seeds),
    Target("kept", "a device's kept state (devproc.kept)", _kept, _kept_seeds),
    Target("state", "a device's saved state, as LOAD brings it (devproc.device)", _state, _state_seeds),
    Target(
        "journal", "the journal of a shared folder, read by a successor (devproc.fs.journal)", _journal, _journal_seeds
    ),
)
