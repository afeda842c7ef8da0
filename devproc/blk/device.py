"""virtio-blk (virtio 1.2, 5.2): a disk behind a backend.

`handle` is the readable path, and the only one for backends that are more than a descriptor; a plain file is served
by `devproc.blk.fast`, which answers the same requests in the same way. A host's error fails the request it happened
to (IOERR), never the device.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from devproc.blk.backend import BlockBackend, let_go, open_backend
from devproc.blk.fast import CHAINS, ZEROES, Block
from devproc.blk.mirror import Copying
from devproc.blk.workers import Workers
from devproc.device import Queue, VirtioDevice
from devproc.properties import Property
from devproc.request import Request
from native import Array, Record, plain, u8, u16, u32, u64
from native.memory import Area
from proto.errors import BackendError, ConfigError
from proto.ring import Chain
from proto.virtio import (
    BLK_ID_BYTES,
    BLK_SECTOR_SIZE,
    BLK_WRITE_ZEROES_UNMAP,
    BlkFeature,
    BlkStatus,
    BlkType,
    DeviceId,
    bit,
)

__all__ = ["BlkConfig", "BlockDevice"]

QUEUE_SIZE = 256
SEG_MAX = 126  # data segments of one request: what fits a ring of 128 with header and status
MAX_RANGE = 1 << 16  # sectors of one discard or write-zeroes segment: 32 MiB
MAX_RANGES = 16
SERVICE_NS = 1_000_000
PHYSICAL_BLOCK = 4096  # the largest told: file systems take larger ones for sectors
STOP_DEADLINE = 3.0  # seconds that requests under way may take at an orderly end; the rest comes again elsewhere
_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")


class BlkConfig(Record):
    """5.2.4: struct virtio_blk_config."""

    capacity: u64
    size_max: u32
    seg_max: u32
    cylinders: u16
    heads: u8
    sectors: u8
    blk_size: u32
    physical_block_exp: u8
    alignment_offset: u8
    min_io_size: u16
    opt_io_size: u32
    writeback: u8
    unused0: u8
    num_queues: u16
    max_discard_sectors: u32
    max_discard_seg: u32
    discard_sector_alignment: u32
    max_write_zeroes_sectors: u32
    max_write_zeroes_seg: u32
    write_zeroes_may_unmap: u8
    unused1: Array[u8] = plain(count=3)
    max_secure_erase_sectors: u32  # not offered
    max_secure_erase_seg: u32
    secure_erase_sector_alignment: u32


_OFFERED = (
    BlkFeature.SEG_MAX,
    BlkFeature.BLK_SIZE,
    BlkFeature.FLUSH,
    BlkFeature.TOPOLOGY,
    BlkFeature.CONFIG_WCE,
    BlkFeature.MQ,
)
_OFFERED_WRITABLE = (BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES)


class BlockDevice(VirtioDevice):
    """A disk."""

    device_id = DeviceId.BLOCK
    waits = True
    Config = BlkConfig

    ro = Property(bool, False, "refuse writes")
    num_queues = Property(int, 1, "queues, at most one a hart is useful", minimum=1, maximum=16)
    serial = Property(str, "", "what GET_ID answers (by default the image's name), at most 20 bytes")
    logical_block = Property(int, 512, "bytes of a logical block", choices=(512, 4096))
    writeback = Property(bool, True, "answer writes before they are stored; the guest flushes")

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self.queues = tuple(Queue(f"requests{index}", QUEUE_SIZE) for index in range(self.num_queues))
        self.disk: BlockBackend
        self._sectors = 0
        self._block: Block | None = None
        self._workers: Workers | None = None
        self._requests: dict[int, Callable[[Request, int, int], int]] = {
            BlkType.IN: self._in,
            BlkType.OUT: self._out,
            BlkType.FLUSH: self._flush,
            BlkType.GET_ID: self._get_id,
            BlkType.DISCARD: self._ranges,
            BlkType.WRITE_ZEROES: self._ranges,
        }

    def start(self) -> None:
        self.disk = open_backend(self.backend, read_only=self.ro)
        self._mirror()
        if self.disk.size % self.logical_block:
            raise ConfigError(
                f"logical_block={self.logical_block}: {self.disk.size} bytes are not a whole number of such blocks",
                hint="Leave it at 512, or make the image longer.",
            )
        self._sectors = self.disk.size // BLK_SECTOR_SIZE
        if self.disk.workers > 1:
            self._workers = Workers(self.disk.workers, self.id)
            self.watch(self._workers.fileno(), self._workers.collect)
        offered = _OFFERED if self.disk.read_only else _OFFERED + _OFFERED_WRITABLE
        self.features = sum(map(bit, offered)) | (bit(BlkFeature.RO) if self.disk.read_only else 0)
        config = self.config
        config.capacity = self._sectors
        config.seg_max = SEG_MAX
        config.blk_size = self.logical_block
        physical = min(self.disk.block_size, PHYSICAL_BLOCK)
        config.physical_block_exp = max(0, physical.bit_length() - self.logical_block.bit_length())
        config.min_io_size = 1
        config.opt_io_size = 0
        config.writeback = int(self.writeback)
        config.num_queues = self.num_queues
        config.max_discard_sectors = config.max_write_zeroes_sectors = MAX_RANGE
        config.max_discard_seg = config.max_write_zeroes_seg = MAX_RANGES
        config.discard_sector_alignment = max(1, self.disk.block_size // BLK_SECTOR_SIZE)
        config.write_zeroes_may_unmap = 1

    def stop(self) -> None:
        """What is under way may finish, within limits; a backend that hangs does not keep the process from ending."""
        if self._workers is None:
            self._store()
        else:
            self._workers.wait(STOP_DEADLINE)
            self._workers.submit(self._store, _ignore)
            self._workers.wait(STOP_DEADLINE)

    def _mirror(self) -> None:
        """A disk that is being copied knows from the keeper how far that is."""
        if isinstance(self.disk, Copying) and "mirror" in self.descriptors:
            self.disk.begin(self.descriptors["mirror"], lambda text: self.log(f"{self.id}: {text}", 30))

    def _store(self) -> None:
        if not self.disk.read_only:
            self.disk.flush()
        self.disk.close()

    def release(self) -> None:
        """The image is the successor's to lock, and the guest's next flush is the successor's to carry out."""
        let_go(self.disk)

    def reclaim(self) -> None:
        self.disk = open_backend(self.backend, read_only=self.ro)
        self._mirror()
        if self._block is not None and self.disk.descriptor is not None:
            self._block.fd = self.disk.descriptor

    def reset(self) -> None:
        self.config.writeback = int(self.writeback)
        self.negotiated()

    def negotiated(self) -> None:
        """The machine-code path learns what the driver accepted."""
        if self._block is not None:
            self._block.write_through = int(self._write_through())
            self._block.discard = int(self._has(BlkFeature.DISCARD))
            self._block.write_zeroes = int(self._has(BlkFeature.WRITE_ZEROES))

    def config_written(self, offset: int, data: bytes) -> None:
        """5.2.5: only `writeback` can be written, and only after CONFIG_WCE was negotiated."""
        if offset == BlkConfig.offset("writeback") and len(data) == 1 and self._has(BlkFeature.CONFIG_WCE):
            self.config.writeback = data[0] & 1
            self.negotiated()

    # -- requests --------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """5.2.6: header, data, status byte, in whatever pieces the driver chose."""
        if self._workers is None:
            self._serve(request)
            return
        request.defer()
        self._workers.submit(lambda: self._serve(request), lambda error: self._served(request, error))

    def _served(self, request: Request, error: BaseException | None) -> None:
        """A worker has done with a request. What is neither the backend's error nor the host's is a bug."""
        if isinstance(error, (BackendError, OSError)):
            self.log(f"{self.id}: queue {request.queue} head {request.head}: {error}", 30)
            self.failed(request, error)
        elif error is not None:
            raise error
        request.finish()

    def _serve(self, request: Request) -> None:
        if request.writable == 0:
            return
        header = request.read(_HEADER.size)
        status: int = BlkStatus.IOERR
        if len(header) == _HEADER.size:
            kind, _, sector = _HEADER.unpack(header)
            carry_out = self._requests.get(kind, self._unsupported)
            status = carry_out(request, kind, sector)
        self._answer(request, status)

    def failed(self, request: Request, error: Exception) -> None:
        self._answer(request, BlkStatus.IOERR)

    def malformed(self, request: Request) -> None:
        if request.writable:
            self._answer(request, BlkStatus.IOERR)

    def _answer(self, request: Request, status: int) -> None:
        request.failed = status != BlkStatus.OK
        request.write_at(request.writable - 1, bytes([status]))

    @contextlib.contextmanager
    def _timed(self, request: Request, call: str) -> Iterator[None]:
        """A call of the backend, for the trace."""
        began, error = time.monotonic_ns(), 0
        try:
            yield
        except OSError as caught:
            error = caught.errno or errno.EIO
            raise
        except BackendError:
            error = errno.EIO
            raise
        finally:
            self.traced(request, call, time.monotonic_ns() - began, error)

    def _in(self, request: Request, kind: int, sector: int) -> int:
        size = request.writable - 1
        if not self._in_range(sector, size):
            return BlkStatus.IOERR
        with self._timed(request, "preadv"):
            self.disk.preadv(request.views(0, size), sector * BLK_SECTOR_SIZE)
        request.bytes_read = size
        return BlkStatus.OK

    def _out(self, request: Request, kind: int, sector: int) -> int:
        size = request.readable - _HEADER.size
        if self.disk.read_only or not self._in_range(sector, size):
            return BlkStatus.IOERR
        views = request.views_readable(_HEADER.size, size)
        with self._timed(request, "pwritev"):
            self.disk.pwritev(views, sector * BLK_SECTOR_SIZE, self._write_through())
        request.bytes_written = size
        return BlkStatus.OK

    def _flush(self, request: Request, kind: int, sector: int) -> int:
        with self._timed(request, "flush"):
            self.disk.flush()
        return BlkStatus.OK

    def _get_id(self, request: Request, kind: int, sector: int) -> int:
        size = min(BLK_ID_BYTES, request.writable - 1)
        request.write_at(0, self._identity()[:size])
        return BlkStatus.OK

    def _ranges(self, request: Request, kind: int, sector: int) -> int:
        """DISCARD and WRITE_ZEROES: every range is checked before the first is carried out."""
        feature = BlkFeature.DISCARD if kind == BlkType.DISCARD else BlkFeature.WRITE_ZEROES
        if not self._has(feature):
            return BlkStatus.UNSUPP
        data = request.read()
        if self.disk.read_only or not data or len(data) % _RANGE.size or len(data) > MAX_RANGES * _RANGE.size:
            return BlkStatus.IOERR
        allowed = BLK_WRITE_ZEROES_UNMAP if kind == BlkType.WRITE_ZEROES else 0
        ranges = list(_RANGE.iter_unpack(data))
        for first, count, flags in ranges:
            if flags & ~allowed:
                return BlkStatus.UNSUPP
            if count > MAX_RANGE or not self._in_range(first, count * BLK_SECTOR_SIZE):
                return BlkStatus.IOERR
        for first, count, flags in ranges:
            self._do_range(kind, first * BLK_SECTOR_SIZE, count * BLK_SECTOR_SIZE, bool(flags))
        return BlkStatus.OK

    def _do_range(self, kind: int, offset: int, length: int, unmap: bool) -> None:
        if length == 0:
            return
        if kind == BlkType.DISCARD:
            self.disk.discard(offset, length)
        else:
            self.disk.write_zeroes(offset, length, unmap)
        if self._write_through():
            self.disk.flush()

    def _unsupported(self, request: Request, kind: int, sector: int) -> int:
        return BlkStatus.UNSUPP

    def _in_range(self, sector: int, size: int) -> bool:
        return size % BLK_SECTOR_SIZE == 0 and sector + size // BLK_SECTOR_SIZE <= self._sectors

    def _has(self, feature: BlkFeature) -> bool:
        return bool(self.driver_features & bit(feature))

    def _write_through(self) -> bool:
        """5.2.6.2: write-through when the driver cannot flush, or has asked for it."""
        return not self._has(BlkFeature.FLUSH) or not self.config.writeback

    def _identity(self) -> bytes:
        return (self.serial or self.disk.identity).encode()[:BLK_ID_BYTES].ljust(BLK_ID_BYTES, b"\0")

    # -- machine code ----------------------------------------------------------------------------------------------

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int] | None:
        if self.disk.descriptor is None:
            return None
        area = Area.allocate(Block.size() + ZEROES + CHAINS * Chain.size())
        self._block = block = Block(area.address, area)
        block.fd = self.disk.descriptor
        block.sectors = self._sectors
        block.read_only = int(self.disk.read_only)
        block.max_range = MAX_RANGE
        block.max_ranges = MAX_RANGES
        block.zeroes = area.address + Block.size()
        block.chains = block.zeroes + ZEROES
        for index, byte in enumerate(self._identity()):
            block.id[index] = byte
        self.negotiated()
        return lambda: engine.block_loop(queues.loop, block, SERVICE_NS)


def _ignore(error: BaseException | None) -> None:
    """The outcome of what is done at the very end, when there is nobody left to tell."""
