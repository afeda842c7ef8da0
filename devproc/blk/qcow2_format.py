"""qcow2 on disk: the header, the entries of its tables, and compressed clusters. Versions 2 and 3, big-endian.

Names are those of QEMU's docs/interop/qcow2.txt. What is read here was written by others: every number is checked
before it is used, and what does not add up is a ConfigError.
"""

from __future__ import annotations

import ctypes
import struct
import zlib
from dataclasses import dataclass, field
from functools import cache

from devproc.blk.store import Store
from proto.errors import BackendError, ConfigError

__all__ = ["COMPRESSED", "COPIED", "MAGIC", "OFFSET", "ZERO", "Header", "decompress", "read_header"]

MAGIC = b"QFI\xfb"
COPIED = 1 << 63  # of an L1 or L2 entry: what it points to has a reference count of one
COMPRESSED = 1 << 62
ZERO = 1  # of an L2 entry, version 3: the cluster reads as zeroes, whatever it points to
OFFSET = 0x00FF_FFFF_FFFF_FE00
L1_MAX = 32 << 20  # bytes
REFCOUNT_TABLE_MAX = 8 << 20
SNAPSHOTS_MAX = 65536
BACKING_NAME_MAX = 1023
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_BITMAPS = 0x23852875  # persistent bitmaps

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # version 2: 72 bytes
_HEADER_3 = struct.Struct(">QQQII")  # what version 3 adds: 32 bytes
_LONGEST_HEADER = 112  # what is known of it; a shorter file reads as zeroes behind its end
_DIRTY, _CORRUPT, _EXTERNAL, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_REFUSED = {
    _EXTERNAL: "keeps its data in another file",
    _EXTENDED_L2: "has subclusters",
}


@dataclass
class Header:
    """The header, and what follows from it."""

    version: int = 3
    backing_offset: int = 0
    backing_size: int = 0
    cluster_bits: int = 16
    size: int = 0
    crypt_method: int = 0
    l1_size: int = 0  # entries
    l1_offset: int = 0
    refcount_offset: int = 0
    refcount_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = 104
    zstd: bool = False
    backing: str = ""
    backing_format: str = ""
    extensions: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table, which is one cluster."""
        return 1 << (self.cluster_bits - 3)

    @property
    def l1_needed(self) -> int:
        """Entries that the L1 table must have for the disk's size."""
        return -(-self.size // (self.cluster * self.l2_entries))

    @property
    def block_entries(self) -> int:
        """Clusters that one refcount block counts."""
        return self.cluster * 8 >> self.refcount_order

    def pack(self) -> bytes:
        """The header with its extensions and the backing file's name, for a new image."""
        extensions = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in self.extensions
        )
        name = self.backing.encode()
        self.length = 104 if self.version == 3 else 72
        self.backing_size = len(name)
        self.backing_offset = self.length + len(extensions) + 8 if name else 0
        words = _HEADER.pack(
            MAGIC,
            self.version,
            self.backing_offset,
            self.backing_size,
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_size,
            self.l1_offset,
            self.refcount_offset,
            self.refcount_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        if self.version == 3:
            words += _HEADER_3.pack(
                self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.length
            )
        return words + extensions + bytes(8) + name

    def reason_not_to_write(self) -> str:
        """Why the image can only be read, or ""."""
        if self.incompatible & _CORRUPT:
            return "it is marked as corrupt"
        if self.dirty and any(kind == EXTENSION_BITMAPS for kind, _ in self.extensions):
            return "a crash of another program left its reference counts behind, and it has persistent bitmaps"
        return ""

    @property
    def dirty(self) -> bool:
        """Its reference counts were left behind by a crash (lazy_refcounts): they are to be counted anew."""
        return bool(self.incompatible & _DIRTY)

    def clean(self) -> bytes:
        """The field `incompatible_features`, no longer dirty."""
        self.incompatible &= ~_DIRTY
        return self.incompatible.to_bytes(8, "big")


def read_header(store: Store, name: str) -> Header:
    """Read and check it. Raises ConfigError."""
    there = store.size()
    data = store.read(0, min(max(there, _LONGEST_HEADER), 1 << 16))
    if there < _HEADER.size or data[:4] != MAGIC:
        raise ConfigError(f"{name} is not a qcow2 image", hint="A raw image is given as file:PATH.")
    _, *words = _HEADER.unpack_from(data)
    header = Header(*words)
    if header.version not in (2, 3):
        raise ConfigError(f"{name} is qcow2 version {header.version}; known are 2 and 3")
    if header.version == 2:
        header.length = _HEADER.size
    else:
        _read_version_3(header, data, name)
    if not 9 <= header.cluster_bits <= 21:
        raise ConfigError(f"{name} is damaged: clusters of 2^{header.cluster_bits} bytes")
    if header.crypt_method:
        raise ConfigError(f"{name} is encrypted", hint="Serve it with qemu-nbd and use nbd+unix:///?socket=…")
    data = store.read(0, header.cluster)
    _read_extensions(header, data, name)
    _read_backing(header, data, name)
    _check_tables(header, there, name)
    return header


def _read_version_3(header: Header, data: bytes, name: str) -> None:
    words = _HEADER_3.unpack_from(data, _HEADER.size)
    header.incompatible, header.compatible, header.autoclear, header.refcount_order, header.length = words
    if header.length < 104 or header.length % 8 or header.length > 1 << 12 or header.refcount_order > 6:
        raise ConfigError(f"{name} is damaged: its header does not add up")
    for bit, what in _REFUSED.items():
        if header.incompatible & bit:
            hint = "Serve it with qemu-nbd and use nbd+unix:///?socket=…"
            raise ConfigError(f"{name} {what}, which is not supported", hint=hint)
    unknown = header.incompatible & ~(_DIRTY | _CORRUPT | _COMPRESSION)
    if unknown:
        raise ConfigError(f"{name} uses features that are not known here: {unknown:#x}")
    kind = data[104] if header.length > 104 and header.incompatible & _COMPRESSION else 0
    if kind > 1:
        raise ConfigError(f"{name} has clusters compressed in a way that is not known here: {kind}")
    header.zstd = kind == 1


def _read_extensions(header: Header, data: bytes, name: str) -> None:
    """Up to the end of the list, or where the backing file's name begins."""
    at, end = header.length, header.backing_offset or len(data)
    while at + 8 <= min(end, len(data)):
        kind, size = struct.unpack_from(">II", data, at)
        if kind == 0:
            return
        if at + 8 + size > min(end, len(data)):
            raise ConfigError(f"{name} is damaged: a header extension of {size} bytes")
        content = data[at + 8 : at + 8 + size]
        header.extensions.append((kind, content))
        if kind == EXTENSION_BACKING_FORMAT:
            header.backing_format = content.decode(errors="replace")
        at += 8 + -(-size // 8) * 8


def _read_backing(header: Header, data: bytes, name: str) -> None:
    if not header.backing_offset:
        return
    end = header.backing_offset + header.backing_size
    if header.backing_size > BACKING_NAME_MAX or end > len(data) or not header.backing_size:
        raise ConfigError(f"{name} is damaged: its backing file's name is not in its first cluster")
    header.backing = data[header.backing_offset : end].decode(errors="surrogateescape")


def _check_tables(header: Header, there: int, name: str) -> None:
    cluster = header.cluster
    if header.size % 512 or not header.size:
        raise ConfigError(f"{name} has {header.size} bytes, which is not a whole number of sectors")
    tables = {
        "L1 table": (header.l1_offset, header.l1_size * 8, L1_MAX),
        "refcount table": (header.refcount_offset, header.refcount_clusters * cluster, REFCOUNT_TABLE_MAX),
    }
    for what, (offset, size, most) in tables.items():
        if offset % cluster or not 0 < size <= most or not offset or offset + size > -(-there // cluster) * cluster:
            raise ConfigError(f"{name} is damaged: its {what} of {size} bytes at {offset}")
    if header.l1_size < header.l1_needed:
        raise ConfigError(f"{name} is damaged: its L1 table is too short for a disk of {header.size} bytes")
    if header.snapshots > SNAPSHOTS_MAX or header.snapshots_offset % cluster:
        raise ConfigError(f"{name} is damaged: {header.snapshots} snapshots at {header.snapshots_offset}")


# -- compressed clusters -----------------------------------------------------------------------------------------------


def compressed_range(header: Header, entry: int) -> tuple[int, int]:
    """Where the bytes of a compressed cluster are: (offset, size), the size counted in whole sectors."""
    shift = 62 - (header.cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = (entry & (COMPRESSED - 1)) >> shift
    return offset, (sectors + 1) * 512 - offset % 512


def decompress(header: Header, data: bytes) -> bytes:
    """One cluster. Raises BackendError when it is damaged."""
    try:
        found = (
            _unzstd(data, header.cluster) if header.zstd else zlib.decompressobj(-12).decompress(data, header.cluster)
        )
    except (zlib.error, ValueError) as error:
        raise BackendError(f"a compressed cluster is damaged: {error}", errno=5) from error
    if len(found) != header.cluster:
        raise BackendError(f"a compressed cluster has {len(found)} bytes instead of {header.cluster}", errno=5)
    return found


@cache
def _zstd() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    for function in (library.ZSTD_findFrameCompressedSize, library.ZSTD_decompress):
        function.restype = ctypes.c_size_t
    library.ZSTD_isError.restype = ctypes.c_uint
    return library


def _unzstd(data: bytes, size: int) -> bytes:
    library = _zstd()
    if library is None:
        raise BackendError("the cluster is compressed with zstd: install libzstd1", errno=95)
    used = library.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data)))
    if library.ZSTD_isError(ctypes.c_size_t(used)):
        raise ValueError("no zstd frame")
    room = ctypes.create_string_buffer(size)
    made = library.ZSTD_decompress(room, ctypes.c_size_t(size), data, ctypes.c_size_t(used))
    if library.ZSTD_isError(ctypes.c_size_t(made)):
        raise ValueError("zstd")
    return room.raw[:made]
