"""Fuzz targets of shared folders: whole conversations in 9P, FUSE and v86fs, over a directory of the host.

An input is a run of messages, so that later ones meet what earlier ones made.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path

from devproc.device import VirtioDevice
from devproc.fs.fuse.device import VirtioFsDevice
from devproc.fs.fuse.messages import IN_HEADER, Opcode
from devproc.fs.fuse.messages import REQUESTS as FUSE_REQUESTS
from devproc.fs.ninep.device import NinePDevice
from devproc.fs.ninep.messages import REQUESTS as NINEP_REQUESTS
from devproc.fs.ninep.messages import Type
from devproc.fs.v86fs import messages as v86fs
from devproc.fs.v86fs.device import V86fsDevice
from devproc.request import Buffer, Request
from tests.fuzz.harness import Source, Target, block, workshop
from tests.fuzz.native_shares import MEMORY, NativeShare, native_share

MESSAGES = 24  # of a conversation
ROOM = 4096
SECRET = b"untouched"
GUARD = b"\xa5" * 16


@cache
def _device(cls: type[VirtioDevice]) -> VirtioDevice:
    """A device over a directory whose neighbour nobody may touch; it is reset between inputs."""
    home = workshop() / cls.__name__
    (home / "share").mkdir(parents=True)
    (home / "secret").write_bytes(SECRET)
    device = cls("fs0", {"tag": "x"}, backend=str(home / "share"))
    umask = os.umask(0)
    device.start()
    os.umask(umask)
    return device


def _fill(cls: type[VirtioDevice]) -> None:
    """The directory as every input finds it."""
    share = workshop() / cls.__name__ / "share"
    _empty(share)
    (share / "d").mkdir()
    (share / "d" / "f").write_bytes(b"contents")
    (share / "l").symlink_to("../secret")


def _empty(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            _empty(Path(entry.path))
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def _ask(device: VirtioDevice, data: bytes, room: int, again: bool, native: NativeShare | None) -> None:
    """One message in two buffers each way; nothing is written but to the second two. With `native`, machine code is
    asked first."""
    half = len(data) // 2
    before = GUARD + data[:half] + GUARD + data[half:] + GUARD
    start, into = len(GUARD), len(before)
    end = into + room + len(GUARD)
    if end > MEMORY:
        return
    memory = native.memory[:end] if native is not None else memoryview(bytearray(end))
    memory[:] = before + bytes(room) + GUARD
    pieces = [Buffer(0, start, half), Buffer(0, start + half + len(GUARD), len(data) - half)]
    answer = [Buffer(0, into, room // 2), Buffer(0, into + room // 2, room - room // 2)]
    readable, writable = ([buffer for buffer in part if buffer.length] for part in (pieces, answer))
    written = None
    if native is not None:
        written = native.answer(*([(buffer.offset, buffer.length) for buffer in part] for part in (readable, writable)))
    if written is None:
        made = Request(0, 1, readable, writable, lambda _, at, size: memory[at : at + size], again=again)
        device.handle(made)
        written = made.written
    assert written <= room
    assert memory[:into] == before and memory[into + room :] == GUARD, "a write outside the given buffers"


def _converse(cls: type[VirtioDevice], data: bytes) -> None:
    source, device = Source(data), _device(cls)
    _fill(cls)
    for _ in range(MESSAGES):
        if not source.left:
            break
        flags = source.number(1)
        again = bool(flags & 128)
        native = native_share(device) if flags & 64 and not again else None
        _ask(device, source.block(), ROOM if flags & 3 else flags, again, native)
    device.reset()
    home = workshop() / cls.__name__
    assert sorted(os.listdir(home)) == ["secret", "share"] and (home / "secret").read_bytes() == SECRET, "an escape"


# -- 9P ----------------------------------------------------------------------------------------------------------------

_NUMBERS = {"1": "B", "2": "H", "4": "I", "8": "Q"}
_WORDS = (b"d", b"f", b"new")


def _ninep_message(kind: int, *given: object, data: bytes = b"") -> bytes:
    """A request; fields that are not given are 0, or a name."""
    values, body = list(given), b""
    for field in NINEP_REQUESTS[Type(kind)].split():
        how = field.rpartition(":")[2]
        value = values.pop(0) if values else (0 if how in _NUMBERS else _WORDS[len(body) % 3] if how == "s" else [b"d"])
        if how in _NUMBERS:
            body += struct.pack("<" + _NUMBERS[how], value)
        elif how == "s":
            body += struct.pack("<H", len(value)) + value  # type: ignore[arg-type, operator]
        else:
            body += struct.pack("<H", len(value)) + b"".join(struct.pack("<H", len(n)) + n for n in value)  # type: ignore
    return struct.pack("<IBH", 7 + len(body) + len(data), kind, 1) + body + data


def _talk(*messages: bytes, native: bool = False) -> bytes:
    """A conversation; `native`: as far as it goes, with machine code."""
    return b"".join((b"\x41" if native else b"\1") + block(message) for message in messages)


def _ninep_seeds() -> list[bytes]:
    native_share(_device(NinePDevice))  # before anybody counts descriptors
    begin = (_ninep_message(Type.VERSION, 8192, b"9P2000.L"), _ninep_message(Type.ATTACH, 0, 0xFFFFFFFF, b"", b"", 0))
    walk = _ninep_message(Type.WALK, 0, 1, [b"d", b"f"])
    talks = [_talk(*begin, walk, _ninep_message(kind, 1)) for kind in NINEP_REQUESTS if kind not in (100, 104)]
    work = (
        *begin,
        walk,
        _ninep_message(Type.LOPEN, 1, 2),
        _ninep_message(Type.WRITE, 1, 0, 5, data=b"hello"),
        _ninep_message(Type.READ, 1, 0, 100),
        _ninep_message(Type.WALK, 0, 2, []),
        _ninep_message(Type.LCREATE, 2, b"new", 0o102, 0o644, 0),
        _ninep_message(Type.MKDIR, 0, b"e", 0o755, 0),
        _ninep_message(Type.RENAMEAT, 0, b"new", 0, b"newer"),
        _ninep_message(Type.WALK, 0, 3, []),
        _ninep_message(Type.LOPEN, 3, 0),
        _ninep_message(Type.READDIR, 3, 0, 1000),
        _ninep_message(Type.XATTRWALK, 1, 4, b"user.x"),
        _ninep_message(Type.UNLINKAT, 0, b"newer", 0),
        _ninep_message(Type.CLUNK, 1),
    )
    return [*talks, _talk(*work), _talk(*work, native=True)]


def _ninep(data: bytes) -> None:
    _converse(NinePDevice, data)


# -- FUSE --------------------------------------------------------------------------------------------------------------


def _fuse_message(
    opcode: int, nodeid: int = 1, *fields: int, names: int | tuple[bytes, ...] = (), data: bytes = b""
) -> bytes:
    layout, count = FUSE_REQUESTS[Opcode(opcode)]
    words = names if isinstance(names, tuple) and names else _WORDS[:count]
    missing = len(layout.unpack(bytes(layout.size))) - len(fields)
    body = layout.pack(*fields, *[0] * missing) + b"".join(word + b"\0" for word in words) + data
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, 7, nodeid, 0, 0, 1, 0, 0) + body


def _fuse_seeds() -> list[bytes]:
    _device(VirtioFsDevice)
    begin = _fuse_message(Opcode.INIT, 0, 7, 41, 65536, 0xFFFFFFFF)
    look = _fuse_message(Opcode.LOOKUP)
    talks = [_talk(begin, look, _fuse_message(opcode, 1), _fuse_message(opcode, 2)) for opcode in FUSE_REQUESTS]
    work = (
        begin,
        look,
        _fuse_message(Opcode.CREATE, 2, os.O_RDWR, 0o100644, names=(b"new",)),
        _fuse_message(Opcode.WRITE, 3, 1, 0, 5, data=b"hello"),
        _fuse_message(Opcode.READ, 3, 1, 0, 100),
        _fuse_message(Opcode.SETXATTR, 3, 1, names=(b"user.x",), data=b"v"),
        _fuse_message(Opcode.GETXATTR, 3, 100, names=(b"user.x",)),
        _fuse_message(Opcode.OPENDIR, 2),
        _fuse_message(Opcode.READDIR, 2, 2, 0, 1000),
        _fuse_message(Opcode.RENAME2, 2, 2, 0, names=(b"new", b"newer")),
        _fuse_message(Opcode.UNLINK, 2, names=(b"newer",)),
        _fuse_message(Opcode.RELEASE, 3, 1),
        _fuse_message(Opcode.BATCH_FORGET, 0, 1, data=struct.pack("<QQ", 3, 1)),
    )
    return [*talks, _talk(*work)]


def _fuse(data: bytes) -> None:
    _converse(VirtioFsDevice, data)


# -- v86fs -------------------------------------------------------------------------------------------------------------


def _v86fs_message(kind: int, *given: object, data: bytes = b"") -> bytes:
    values = list(given)
    for field in v86fs.REQUESTS[v86fs.Type(kind)].split()[len(values) :]:
        values.append(b"d" if field.endswith(":s") else 1)
    return v86fs.encode(kind, 1, values, len(data)) + data


def _v86fs_seeds() -> list[bytes]:
    _device(V86fsDevice)
    begin = (_v86fs_message(v86fs.Type.MOUNT, b""), _v86fs_message(v86fs.Type.LOOKUP, 1, b"d"))
    talks = [_talk(*begin, _v86fs_message(kind), _v86fs_message(kind)) for kind in v86fs.REQUESTS]
    work = (
        *begin,
        _v86fs_message(v86fs.Type.READDIR, 100),
        _v86fs_message(v86fs.Type.CREATE, 100, b"new", 0o644),
        _v86fs_message(v86fs.Type.WRITE, 102, 0, 5, data=b"hello"),
        _v86fs_message(v86fs.Type.OPEN, 102, 2),
        _v86fs_message(v86fs.Type.READ, 1, 0, 100),
        _v86fs_message(v86fs.Type.SETATTR, 102, 9, 0o600, 3),
        _v86fs_message(v86fs.Type.RENAME, 100, b"new", 1, b"newer"),
        _v86fs_message(v86fs.Type.UNLINK, 1, b"newer"),
        _v86fs_message(v86fs.Type.READ, 1, 0, 100),
        _v86fs_message(v86fs.Type.CLOSE, 1),
        _v86fs_message(v86fs.Type.SYMLINK, 1, b"s", b".."),
        _v86fs_message(v86fs.Type.READLINK, 103),
        _v86fs_message(v86fs.Type.STATFS),
    )
    return [*talks, _talk(*work)]


def _v86fs(data: bytes) -> None:
    _converse(V86fsDevice, data)


TARGETS = (
    Target("9p", "conversations in 9P2000.L (devproc.fs.ninep)", _ninep, _ninep_seeds),
    Target("fuse", "conversations in FUSE (devproc.fs.fuse)", _fuse, _fuse_seeds),
    Target("v86fs", "conversations in v86fs (devproc.fs.v86fs)", _v86fs, _v86fs_seeds),
)
