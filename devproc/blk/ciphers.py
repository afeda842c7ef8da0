"""Sectors encrypted as dm-crypt does: `aes-xts-plain64` and its older relatives, by way of the library `cryptography`.

A specification is CIPHER-MODE-IV. Each sector is a message of its own; its number, counted in 512 bytes whatever its
size, gives the initialisation vector. Promises: the bytes are those that Linux and QEMU read and write. Does not
authenticate: what somebody changed on the disk is read as something else, not as an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from proto.errors import ConfigError

__all__ = ["SectorCipher", "library"]

UNIT = 512  # bytes that a sector number counts
Vector = Callable[[int], bytes]


def library(name: str) -> Any:
    """A module of `cryptography`. Raises ConfigError when it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"cryptography.hazmat.primitives.{name}")
    except ImportError:
        raise ConfigError(
            "encrypted disks need the Python library cryptography", hint="pip install 'bulkhead-vm[luks]'"
        ) from None


class SectorCipher:
    """One key and one specification. Any thread may use it."""

    def __init__(self, spec: str, key: bytes, sector: int = UNIT) -> None:
        """Raises ConfigError for what is not known."""
        ciphers = library("ciphers")
        name, mode, iv = ([*spec.split("-", 2), "", ""])[:3]
        if name != "aes" or mode not in _MODES or len(key) not in _MODES[mode]:
            raise ConfigError(
                f"the cipher {spec} with a key of {8 * len(key)} bits is not known",
                hint="Known are aes-xts-plain64, aes-cbc-essiv:sha256, aes-cbc-plain64; qemu-nbd and nbd: know more.",
            )
        self.sector = sector
        self._make = ciphers.Cipher
        self._mode = ciphers.modes.XTS if mode == "xts" else ciphers.modes.CBC
        self._vector = _vector(iv, key, spec)
        if mode == "xts" and key[: len(key) // 2] == key[len(key) // 2 :]:
            raise ConfigError("the two halves of the disk's key are the same: its header is damaged")
        self._key = ciphers.algorithms.AES(key)

    def encrypt(self, data: bytes | bytearray | memoryview, offset: int) -> bytes:
        """Whole sectors that belong at byte `offset`."""
        return self._each(data, offset, "encryptor")

    def decrypt(self, data: bytes | bytearray | memoryview, offset: int) -> bytes:
        """The inverse."""
        return self._each(data, offset, "decryptor")

    def _each(self, data: bytes | bytearray | memoryview, offset: int, way: str) -> bytes:
        view, found = memoryview(data), []
        for at in range(0, len(view), self.sector):
            mode = self._mode(self._vector((offset + at) // UNIT))
            found.append(getattr(self._make(self._key, mode), way)().update(view[at : at + self.sector]))
        return b"".join(found)


_MODES = {"xts": (32, 64), "cbc": (16, 24, 32)}  # bytes of a key


def _vector(iv: str, key: bytes, spec: str) -> Vector:
    if iv == "plain64":
        return lambda sector: (sector & (1 << 64) - 1).to_bytes(16, "little")
    if iv == "plain":
        return lambda sector: (sector & 0xFFFFFFFF).to_bytes(16, "little")
    if iv == "plain64be":
        return lambda sector: (sector & (1 << 64) - 1).to_bytes(16, "big")
    if iv == "essiv:sha256":
        ciphers = library("ciphers")
        salted = ciphers.Cipher(ciphers.algorithms.AES(hashlib.sha256(key).digest()), ciphers.modes.ECB())
        return lambda sector: bytes(salted.encryptor().update(sector.to_bytes(16, "little")))
    raise ConfigError(f"the cipher {spec} numbers its sectors in a way that is not known here")
