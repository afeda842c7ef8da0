"""Fuzz targets of disks: requests of a guest, images, and what servers answer."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from devproc.blk import web
from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.device import BlockDevice
from devproc.blk.http import Http, parse_split
from devproc.blk.nbd import Nbd
from devproc.blk.qcow2 import Qcow2
from devproc.blk.qcow2_tools import check, create
from devproc.blk.uri import parse_uri
from devproc.properties import properties_of
from devproc.request import Buffer, Request
from proto.errors import BackendError, ConfigError
from proto.virtio import BlkFeature, BlkType, bit
from tests.fuzz.harness import Source, Target, allowed, block, workshop

# -- requests ----------------------------------------------------------------------------------------------------------

SECTORS = 64
GUARD = 0xA5


class Memory:
    """A disk in memory that insists on what backends are promised."""

    def __init__(self, read_only: bool) -> None:
        self.size, self.read_only, self.block_size, self.identity = SECTORS * 512, read_only, 512, "memory"
        self.descriptor, self.workers, self.stamp = None, 1, ""
        self.data = bytearray(self.size)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            self._check(offset, len(buffer))
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        assert not self.read_only
        for buffer in buffers:
            self._check(offset, len(buffer))
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        pass

    def discard(self, offset: int, length: int) -> None:
        self.write_zeroes(offset, length, True)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        assert not self.read_only and length
        self._check(offset, length)
        self.data[offset : offset + length] = bytes(length)

    def close(self) -> None:
        pass

    def _check(self, offset: int, length: int) -> None:
        assert offset >= 0 and offset + length <= self.size


@cache
def _device(read_only: bool) -> BlockDevice:
    device = BlockDevice("blk0", {})
    device.disk = Memory(read_only)  # type: ignore[assignment]
    device._sectors = SECTORS
    device.driver_features = sum(map(bit, (BlkFeature.FLUSH, BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES)))
    return device


def chain(source: Source) -> tuple[Request, bytearray, list[tuple[int, int]]]:
    """A request as a guest built it: buffers of any length with guards between them; what it may write, as ranges."""
    cuts, data, room = source.bytes(4), source.block(), source.number(2) % 0x3000
    memory, readable, writable = bytearray(), [], []
    for length, step, buffers in ((len(data), cuts[:2], readable), (room, cuts[2:], writable)):
        at, step_size = 0, max(1, int.from_bytes(step, "little"))
        while at < length:
            size = min(step_size, length - at) if len(buffers) < 60 else length - at
            memory += bytes([GUARD] * 8)
            buffers.append(Buffer(0, len(memory), size))
            memory += data[at : at + size] if buffers is readable else bytes([GUARD] * size)
            at += size
    memory += bytes([GUARD] * 8)
    view = memoryview(memory)
    made = Request(0, 0, readable, writable, lambda _, at, size: view[at : at + size])
    return made, memory, [(buffer.offset, buffer.length) for buffer in writable]


def unchanged_outside(before: bytes, memory: bytearray, ranges: list[tuple[int, int]]) -> None:
    """Nothing was written but what may be."""
    after = bytearray(memory)
    for at, size in ranges:
        after[at : at + size] = before[at : at + size]
    assert bytes(after) == before, "a write outside the given buffers"


def request_seed(data: bytes, room: int, cuts: tuple[int, int] = (16, 512), flags: int = 0) -> bytes:
    return bytes([flags]) + struct.pack("<HH", *cuts) + block(data) + struct.pack("<H", room)


def _request_seeds() -> list[bytes]:
    def head(kind: int, sector: int = 0) -> bytes:
        return struct.pack("<IIQ", kind, 0, sector)

    span = struct.pack("<QII", 8, 8, 0)
    return [
        request_seed(head(BlkType.IN), 4097),
        request_seed(head(BlkType.IN, SECTORS - 1), 513, (7, 100)),
        request_seed(head(BlkType.OUT, 3) + bytes(1024), 1),
        request_seed(head(BlkType.OUT, 3) + bytes(1024), 1, flags=1),
        request_seed(head(BlkType.FLUSH), 1),
        request_seed(head(BlkType.GET_ID), 21),
        request_seed(head(BlkType.DISCARD) + span, 1),
        request_seed(head(BlkType.WRITE_ZEROES) + span * 3, 1, (3, 1)),
        request_seed(head(99), 1),
    ]


def _request(data: bytes) -> None:
    source = Source(data)
    device = _device(bool(source.number(1) & 1))
    made, memory, ranges = chain(source)
    before = bytes(memory)
    with allowed(BackendError, OSError):
        device.handle(made)
    unchanged_outside(before, memory, ranges)
    assert made.written in (0, made.writable)


# -- qcow2 -------------------------------------------------------------------------------------------------------------


def _image(fill: bool, **options: Any) -> bytes:
    path = workshop() / "seed.qcow2"
    create(str(path), 1 << 16, cluster=512, **options)
    if fill:
        image = open_backend(f"qcow2:backing=off:{path}")
        image.pwritev([memoryview(b"x" * 700)], 512, False)
        image.write_zeroes(8192, 2048, True)
        image.pwritev([memoryview(b"y" * 512)], 40960, False)
        image.close()
    found = path.read_bytes()
    path.unlink()
    return found


def _qcow2_seeds() -> list[bytes]:
    plain = _image(True)
    compressed = bytearray(plain)
    compressed += b"\x4b\x4c\x1c\x05\xa3\x60\x14\x8c\x82\x51\x30\x0a" + bytes(500)
    return [
        plain,
        _image(False),
        _image(True, version=2),
        _image(True, refcount_bits=1),
        _image(True, refcount_bits=64),
        _image(False, backing="base.raw", backing_format="raw"),
        bytes(compressed),
    ]


def _qcow2(data: bytes) -> None:
    """Read, write, check: errors of the image or of a request, and nothing else."""
    path = workshop() / "image.qcow2"
    path.write_bytes(data)
    for read_only in (True, False):
        image = None
        with allowed(ConfigError, BackendError):
            image = open_backend(f"qcow2:backing=off:{path}", read_only=read_only)
        if image is None:
            continue
        assert isinstance(image, Qcow2) and image.size % 512 == 0
        try:
            _use(image)
            if read_only:
                with allowed(BackendError, ConfigError, OSError):
                    check(image, lambda done, total: None)
        finally:
            with allowed(BackendError, OSError):
                image.close()


def _use(image: BlockBackend) -> None:
    size = min(image.size, 8192)
    for offset in {0, (image.size // 2) & ~511, image.size - size} - {-1}:
        if offset + size > image.size:
            continue
        with allowed(BackendError, OSError):
            image.preadv([memoryview(bytearray(size))], offset)
        if not image.read_only:
            with allowed(BackendError, OSError):
                image.pwritev([memoryview(bytes(1024))[: min(1024, size)]], offset, False)
                image.write_zeroes(offset, min(1536, size), True)
                image.discard(offset, size)
                image.flush()


# -- snapshot ----------------------------------------------------------------------------------------------------------


@cache
def _base() -> Path:
    """What is below the overlay, and stays as it is."""
    path = workshop() / "base.img"
    path.write_bytes(b"base" * (1 << 14))
    return path


def _overlay_seeds() -> list[bytes]:
    path, seeds = workshop() / "seed.overlay", []
    for options in ("", "cluster=64k:"):
        overlay = open_backend(f"snapshot:{options}overlay={path}:{_base()}")
        seeds.append(path.read_bytes())
        overlay.pwritev([memoryview(b"x" * 700)], 512, True)
        overlay.write_zeroes(8192, 2048, True)
        overlay.close()
        seeds.append(path.read_bytes())
        path.unlink()
    return seeds


def _overlay(data: bytes) -> None:
    """What is below is not written, whatever the overlay says."""
    path = workshop() / "image.overlay"
    for read_only in (True, False):
        path.write_bytes(data)
        overlay = None
        with allowed(ConfigError, BackendError):
            overlay = open_backend(f"snapshot:overlay={path}:{_base()}", read_only=read_only)
        if overlay is not None:
            assert overlay.size == 1 << 16
            try:
                _use(overlay)
            finally:
                overlay.close()
    assert _base().read_bytes() == b"base" * (1 << 14)


# -- http --------------------------------------------------------------------------------------------------------------


def _split_seeds() -> list[bytes]:
    return [
        b"{\n  block_size: 256,\n  n_block: 8,\n}\n",
        b'{ "block_size": 64, "n_block": 100, /* a comment */ "prefetch": [0, 1, 5], "prefetch_group_len": 2 }',
        b"// nothing\nblock_size: 1, n_block: 1",
    ]


def _split(data: bytes) -> None:
    with allowed(ConfigError):
        split = parse_split(data.decode("utf-8", "replace"), "http://x/blk.txt")
        assert split.block_size >= 1024 and split.blocks > 0
        assert all(0 <= number < split.blocks for group in split.groups for number in group)


def _responses(*answers: bytes) -> bytes:
    return b"".join(map(block, answers))


def _http_seeds() -> list[bytes]:
    probe = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/8192\r\nContent-Length: 1\r\n"
        b'ETag: "a"\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\nx'
    )
    piece = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4095/8192\r\nContent-Length: 4096\r\n"
        b'ETag: "a"\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n' + b"d" * 4096
    )
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    moved = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    return [_responses(probe, piece), _responses(moved, probe, piece), _responses(chunked), _responses(probe, chunked)]


class _Server:
    """Whoever connects is sent the next answer, whatever it asks."""

    def __init__(self, data: bytes) -> None:
        self._source = Source(data)
        self._ends: list[socket.socket] = []

    def connect(self, host: str, port: int, timeout: float, *_: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._ends.append(theirs)
        ours.settimeout(timeout)
        theirs.setblocking(False)
        with allowed(BlockingIOError):
            theirs.send(self._source.block()[: 1 << 16])
        theirs.shutdown(socket.SHUT_WR)
        return ours

    def close(self) -> None:
        for end in self._ends:
            end.close()


def _http(data: bytes) -> None:
    values = {name: declared.default for name, declared in properties_of(Http).items()}
    values |= {"chunk": 4096, "ahead": 0, "retries": 0, "timeout": 1}
    server = _Server(data)
    web.connect_tcp = web.connect_tls = server.connect  # type: ignore[assignment]
    disk = None
    with allowed(ConfigError, BackendError):
        disk = Http("http://server/blk.txt" if data[-1:] == b"s" else "http://server/disk.img", values)
        assert disk.size > 0 and disk.size % 512 == 0
        disk.preadv([memoryview(bytearray(512))], 0)
    if disk is not None:
        disk.close()
    server.close()


# -- nbd ---------------------------------------------------------------------------------------------------------------

_HELLO = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def _option_reply(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, 7, kind, len(data)) + data


def _go(size: int = 1 << 16, flags: int = 0x6D) -> bytes:
    return _HELLO + _option_reply(3, struct.pack(">HQH", 0, size, flags)) + _option_reply(1)


def _piece(kind: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, 1, len(data)) + data


def _nbd_seeds() -> list[bytes]:
    agreed, refusing = _HELLO + _option_reply(1), _HELLO + _option_reply(0x80000001)
    whole = _piece(1, struct.pack(">Q", 0) + bytes(512), 1)
    pieces = _piece(1, struct.pack(">Q", 256) + bytes(256)) + _piece(2, struct.pack(">QI", 0, 256)) + _piece(0, b"", 1)
    failed = _piece(0x8002, struct.pack(">IH3sQ", 5, 3, b"bad", 0), 1)
    reply = struct.pack(">IIQ", 0x67446698, 0, 1) + bytes(512)
    refused = struct.pack(">IIQ", 0x67446698, 5, 1)
    old = refusing + _option_reply(0x80000001) + struct.pack(">QH", 1 << 16, 1)
    return [
        *(block(agreed + _go()[len(_HELLO) :]) + pieces_ for pieces_ in (whole, pieces, failed)),
        block(refusing + _go()[len(_HELLO) :]) + reply,
        block(refusing + _go()[len(_HELLO) :]) + refused + struct.pack(">IIQ", 0x67446698, 0, 2),
        block(old) + reply,
        block(refusing + _option_reply(0x80000006, b"no such export")),
        block(refusing + _go(512)[len(_HELLO) :]) + reply + reply,
    ]


class _Script:
    """A socket that reads as a script says: negotiation first, then replies, each after something was asked."""

    def __init__(self, data: bytes) -> None:
        source = Source(data)
        self._hello, self._replies = source.block(), source.rest()
        self._asked = threading.Event()
        self._negotiated = False

    def recv_into(self, view: memoryview, size: int = 0) -> int:
        if not self._hello and self._negotiated:
            self._asked.wait(1)
            self._hello, self._replies = self._replies, b""
        part = self._hello[: len(view)]
        self._hello = self._hello[len(part) :]
        view[: len(part)] = part
        return len(part)

    def sendall(self, data: bytes) -> None:
        if int.from_bytes(data[:4], "big") == 0x25609513:
            self._asked.set()

    def settimeout(self, timeout: float | None) -> None:
        self._negotiated = timeout is None

    def shutdown(self, how: int) -> None:
        self._asked.set()

    def close(self) -> None:
        self._asked.set()


def _nbd(data: bytes) -> None:
    threads = threading.active_count()
    script = _Script(data)
    with allowed(ConfigError, BackendError):
        disk = Nbd(lambda timeout: script, "x", "nbd://x/x", {"timeout": 1, "patience": 0})  # type: ignore[arg-type]
        try:
            disk.preadv([memoryview(bytearray(512))], 0)
            disk.pwritev([memoryview(bytes(512))], 0, True)
        finally:
            disk.close()
    script.close()
    for thread in threading.enumerate():
        if thread.name == "nbd":
            thread.join(60)
    assert threading.active_count() <= threads, "a thread of the connection lives on"


# -- the language ------------------------------------------------------------------------------------------------------


def _uri_seeds() -> list[bytes]:
    texts = (
        "disk.img",
        "delay:ms=5:op=read+write:file:disk.img",
        "snapshot:overlay=a%3Ab:qcow2:disk.qcow2",
        "http:cache=16M:chunk=4k://example.org/disk.img",
        "nbd+unix:patience=3:///x?socket=/run/nbd.sock",
        "rate:bytes=1G:requests=5:pause:when=x:log:copy-on-read:overlay=y:z",
        "nbd://[::1]:10809/x",
        "error:percent=1:start=0:end=4k:x",
    )
    return [text.encode() for text in texts]


def _uri(data: bytes) -> None:
    """What is understood is written down again as the same."""
    with allowed(ConfigError):
        text = data.decode("utf-8", "surrogateescape")
        uri = parse_uri(text)
        uri.values()
        again = parse_uri(str(uri))
        assert (again.scheme, again.given) == (uri.scheme, uri.given) and str(again) == str(uri)
        assert again.target in (uri.target, f"./{uri.target}")


TARGETS = (
    Target("blk", "requests to a disk (devproc.blk.device)", _request, _request_seeds),
    Target("qcow2", "qcow2 images: header, tables, counts, extensions (devproc.blk.qcow2*)", _qcow2, _qcow2_seeds),
    Target("overlay", "overlays of snapshots (devproc.blk.snapshot)", _overlay, _overlay_seeds),
    Target("split", "blk.txt of a split disk (devproc.blk.http)", _split, _split_seeds),
    Target("http", "answers of a web server (devproc.blk.web, http)", _http, _http_seeds),
    Target("nbd", "replies of an NBD server (devproc.blk.nbd)", _nbd, _nbd_seeds),
    Target("uri", "URIs of disks (devproc.blk.uri)", _uri, _uri_seeds),
)
assert os.path.isdir("/dev/shm")
