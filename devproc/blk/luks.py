"""`luks:secret=FILE:URI`: a disk encrypted as Linux' cryptsetup and QEMU do it, LUKS1 and LUKS2, read and written.

The passphrase is the contents of a file; of a single line of text, without the newline at its end. The key is derived
when the disk is opened, which takes as long as whoever made the disk wanted it to (a second or two, for cryptsetup),
and again by every successor: it is kept nowhere but in the memory of this process. Discards are not passed on: they
would tell which parts of the disk are in use.

Promises: what is written is what Linux reads. Does not: make disks or change passphrases (cryptsetup does), notice that
somebody changed the ciphertext.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.buffers import gather, length, scatter
from devproc.blk.luks_format import Volume, unlock
from devproc.blk.store import BackendStore
from devproc.properties import FilePath, Property
from proto.errors import ConfigError
from proto.virtio import BLK_SECTOR_SIZE

__all__ = ["Luks", "passphrases"]

SECRET_MAX = 8 << 20  # bytes, as cryptsetup has it
LINE_MAX = 512
ZEROES = bytes(1 << 20)


class Luks:
    """An unlocked disk on the encrypted one below."""

    secret = Property(FilePath, help="the file that has the passphrase in it")

    def __init__(self, below: BlockBackend, volume: Volume) -> None:
        end = volume.start + volume.size if volume.size else below.size
        sector = volume.cipher.sector
        self.size = (end - volume.start) // max(sector, BLK_SECTOR_SIZE) * sector
        if not 0 < self.size <= below.size - volume.start:
            raise ConfigError(f"{below.identity}: the LUKS disk is cut off: no data follow its header")
        self.volume = volume
        self.below = below
        self.read_only = below.read_only
        self.block_size = max(below.block_size, sector)
        self.identity = below.identity
        self.stamp = below.stamp
        self.descriptor: int | None = None
        self.workers = below.workers
        self._edges = threading.Lock()  # sectors that are written in part

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Luks:
        """What is inside the encrypted disk that the URI `target` names. Raises ConfigError."""
        below = open_backend(target, read_only=read_only)
        try:
            words = passphrases(values["secret"])
            read = BackendStore(below).read
            for word in words:
                volume = unlock(read, below.size, word, below.identity)
                if volume is not None:
                    return cls(below, volume)
            raise ConfigError(
                f"no key slot of {below.identity} opens with the passphrase in {values['secret']}",
                hint="`cryptsetup open --test-passphrase --key-file FILE DISK` tries a file.",
            )
        except BaseException:
            below.close()
            raise

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        start, end = self._sectors(offset, length(buffers))
        scatter(buffers, memoryview(self._read(start, end - start))[offset - start :])

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        data = gather(buffers)  # a copy: the guest may change it meanwhile
        start, end = self._sectors(offset, len(data))
        if (start, end) == (offset, offset + len(data)):
            self._write(data, offset, durable)
            return
        with self._edges:
            whole = bytearray(self._read(start, end - start))
            whole[offset - start : offset - start + len(data)] = data
            self._write(bytes(whole), start, durable)

    def flush(self) -> None:
        self.below.flush()

    def discard(self, offset: int, length: int) -> None:
        """Not passed on."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        for at in range(offset, offset + length, len(ZEROES)):
            self.pwritev([memoryview(ZEROES)[: min(len(ZEROES), offset + length - at)]], at, False)

    def close(self) -> None:
        self.below.close()

    # -- sectors ---------------------------------------------------------------------------------------------------

    def _sectors(self, offset: int, size: int) -> tuple[int, int]:
        sector = self.volume.cipher.sector
        return offset // sector * sector, -(-(offset + size) // sector) * sector

    def _read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.below.preadv([memoryview(data)], self.volume.start + offset)
        return self.volume.cipher.decrypt(data, offset + self.volume.first * BLK_SECTOR_SIZE)

    def _write(self, data: bytes, offset: int, durable: bool) -> None:
        made = self.volume.cipher.encrypt(data, offset + self.volume.first * BLK_SECTOR_SIZE)
        self.below.pwritev([memoryview(made)], self.volume.start + offset, durable)


def passphrases(path: str) -> list[bytes]:
    """What a file may mean: a line of text without its end first, the bytes as they are second. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(SECRET_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the passphrase in {path}: {(error.strerror or str(error)).lower()}") from error
    if not data or len(data) > SECRET_MAX:
        raise ConfigError(f"{path} has no passphrase in it" if not data else f"{path} is too large for a passphrase")
    line = data.removesuffix(b"\n")
    one_line = line != data and line and len(line) <= LINE_MAX and b"\n" not in line and b"\0" not in line
    return [line, data] if one_line else [data]
