"""LUKS on disk, versions 1 and 2: headers, key slots, and how a passphrase becomes the key of the disk.

Names are those of the specifications (LUKS1 On-Disk Format 1.2.3; LUKS2 On-Disk Format 1.1.4). What is read was
written by others: every number is bounded before it is used, also the work that a header asks for, and what does not
add up is a ConfigError. `unlock` gives a `Volume`: where the data is, and what encrypts it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from devproc.blk.ciphers import SectorCipher, library
from proto.errors import ConfigError

__all__ = ["LIMITS", "Limits", "Volume", "unlock"]

Read = Callable[[int, int], bytes]  # offset and size: exactly so many bytes

MAGIC, MAGIC_2 = b"LUKS\xba\xbe", b"SKUL\xba\xbe"
SECTOR = 512
KEY_MAX = 512  # bytes
STRIPES_MAX = 10_000
_HEADER_1 = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT_1 = struct.Struct(">II32sII")
_ENABLED = 0x00AC71F3
_HEADER_2 = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_HEADER_2_BYTES = 4096
_SIZES_2 = tuple(1 << bits for bits in range(14, 23))  # 16 KiB to 4 MiB: where the second header can be
_HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160")


@dataclass(frozen=True)
class Limits:
    """What a header may ask for."""

    iterations: int = 50_000_000  # of PBKDF2: half a minute
    memory: int = 4 << 20  # KiB, of Argon2: what cryptsetup allows at most
    work: int = 64 << 20  # KiB times passes


LIMITS = Limits()


@dataclass(frozen=True)
class Volume:
    """An unlocked disk."""

    version: int
    start: int  # bytes before the data
    size: int  # bytes; 0: up to the end
    first: int  # added to the number of a sector
    cipher: SectorCipher
    spec: str


class _Damaged(Exception):
    """What does not add up."""


def unlock(read: Read, there: int, passphrase: bytes, name: str, limits: Limits = LIMITS) -> Volume | None:
    """The volume; None when no key slot opens with the passphrase. `there`: bytes of the image. Raises ConfigError."""
    head = read(0, 8)
    try:
        if head[:6] == MAGIC and head[6:] == b"\0\1":
            return _unlock_1(read, there, passphrase, limits)
        metadata = _newest(read, there)
        if metadata is None:
            raise ConfigError(f"{name} is no LUKS disk", hint="Is it another format? bulkhead disk info tells.")
        return _unlock_2(read, there, passphrase, metadata, limits)
    except _Damaged as error:
        raise ConfigError(f"{name}: the LUKS header is damaged: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:  # its JSON
        raise ConfigError(f"{name}: the LUKS header is damaged: {type(error).__name__} {error}") from error


# -- version 1 ---------------------------------------------------------------------------------------------------------


def _unlock_1(read: Read, there: int, passphrase: bytes, limits: Limits) -> Volume | None:
    words = _HEADER_1.unpack(read(0, _HEADER_1.size))
    _, _, cipher, mode, hashed, payload, size, digest, salt, iterations, _ = words
    spec, hashed = f"{_text(cipher)}-{_text(mode)}", _text(hashed)
    _check(0 < size <= KEY_MAX, f"a key of {size} bytes")
    _check(0 < payload * SECTOR < there, f"its data begin at {payload * SECTOR}")
    for slot in range(8):
        state, rounds, slot_salt, material, stripes = _SLOT_1.unpack(
            read(_HEADER_1.size + slot * _SLOT_1.size, _SLOT_1.size)
        )
        if state != _ENABLED:
            continue
        _check(0 < stripes <= STRIPES_MAX and material * SECTOR < there, f"key slot {slot}")
        area = _pbkdf2(hashed, passphrase, slot_salt, rounds, size, limits)
        key = _slot_key(read, SectorCipher(spec, area), material * SECTOR, size, stripes, hashed)
        if hmac.compare_digest(_pbkdf2(hashed, key, salt, iterations, len(digest), limits), digest):
            return Volume(1, payload * SECTOR, 0, 0, SectorCipher(spec, key), spec)
    return None


# -- version 2 ---------------------------------------------------------------------------------------------------------


def _newest(read: Read, there: int) -> dict[str, Any] | None:
    """The JSON of the header that is whole; of two, the later. None: there is none."""
    found = list(_headers_2(read, there))
    return max(found, key=lambda one: one[0])[1] if found else None


def _headers_2(read: Read, there: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for offset, magic in ((0, MAGIC), *((size, MAGIC_2) for size in _SIZES_2)):
        if offset + _HEADER_2_BYTES > there:
            return
        binary = read(offset, _HEADER_2_BYTES)
        words = _HEADER_2.unpack_from(binary)
        size, sequence, algorithm, at, checksum = words[2], words[3], _text(words[5]), words[9], words[11]
        if words[:2] != (magic, 2) or size not in _SIZES_2 or at != offset or algorithm not in _HASHES:
            continue
        area = read(offset + _HEADER_2_BYTES, size - _HEADER_2_BYTES)
        blank = binary[:448] + bytes(64) + binary[512:]
        digest = _hash(algorithm)(blank + area).digest()
        if digest == checksum[: len(digest)]:
            metadata = json.loads(area.partition(b"\0")[0])
            if not isinstance(metadata, dict):
                raise _Damaged("its metadata is no object")
            yield sequence, metadata


def _unlock_2(read: Read, there: int, passphrase: bytes, metadata: dict[str, Any], limits: Limits) -> Volume | None:
    requirements = metadata["config"].get("requirements", {}).get("mandatory", [])
    if requirements:
        raise ConfigError(f"the LUKS disk needs {', '.join(map(str, requirements))}, which is not supported here")
    segments = metadata["segments"]
    if len(segments) != 1:
        raise ConfigError("the LUKS disk has several segments: it is being re-encrypted", hint="Let cryptsetup finish.")
    ((number, segment),) = segments.items()
    if segment["type"] != "crypt" or "integrity" in segment:
        raise ConfigError("the LUKS disk has integrity tags, or a segment of a kind that is not supported here")
    for slot in _in_order(metadata["keyslots"]):
        for digest in metadata["digests"].values():
            if slot not in digest["keyslots"] or number not in digest["segments"]:
                continue
            key = _open_slot(read, there, passphrase, metadata["keyslots"][slot], limits)
            if key is not None and _digest_fits(digest, key, limits):
                return _volume_2(segment, key, there)
    return None


def _in_order(slots: dict[str, Any]) -> list[str]:
    """Preferred ones (priority 2) first, ignored ones (0) not at all."""
    ordered = sorted(slots, key=lambda name: (-_priority(slots[name]), int(name)))
    return [name for name in ordered if _priority(slots[name])]


def _priority(slot: dict[str, Any]) -> int:
    return int(slot.get("priority", 1))


def _open_slot(read: Read, there: int, passphrase: bytes, slot: dict[str, Any], limits: Limits) -> bytes | None:
    if slot["type"] != "luks2" or slot["af"]["type"] != "luks1" or slot["area"]["type"] != "raw":
        return None  # of a kind that is not for passphrases
    area, af, size = slot["area"], slot["af"], _number(slot["key_size"], 1, KEY_MAX)
    offset, stripes = _number(area["offset"], 1, there), _number(af["stripes"], 1, STRIPES_MAX)
    area_key = _derive(slot["kdf"], passphrase, _number(area["key_size"], 1, KEY_MAX), limits)
    return _slot_key(read, SectorCipher(area["encryption"], area_key), offset, size, stripes, af["hash"])


def _digest_fits(digest: dict[str, Any], key: bytes, limits: Limits) -> bool:
    _check(digest["type"] == "pbkdf2", "a digest of an unknown kind")
    wanted, rounds = _decoded(digest["digest"]), _number(digest["iterations"], 1, 1 << 32)
    found = _pbkdf2(digest["hash"], key, _decoded(digest["salt"]), rounds, len(wanted), limits)
    return len(wanted) > 0 and hmac.compare_digest(found, wanted)


def _volume_2(segment: dict[str, Any], key: bytes, there: int) -> Volume:
    start = _number(segment["offset"], SECTOR, there - SECTOR)
    size = 0 if segment["size"] == "dynamic" else _number(segment["size"], SECTOR, there - start)
    sector = _number(segment["sector_size"], SECTOR, 4096)
    _check(sector in (512, 1024, 2048, 4096) and start % SECTOR == 0, f"sectors of {sector} bytes from {start} on")
    first = _number(segment["iv_tweak"], 0, 1 << 63)
    return Volume(2, start, size, first, SectorCipher(segment["encryption"], key, sector), segment["encryption"])


# -- keys --------------------------------------------------------------------------------------------------------------


def _derive(kdf: dict[str, Any], passphrase: bytes, size: int, limits: Limits) -> bytes:
    salt = _decoded(kdf["salt"])
    if kdf["type"] == "pbkdf2":
        return _pbkdf2(kdf["hash"], passphrase, salt, _number(kdf["iterations"], 1, 1 << 32), size, limits)
    _check(kdf["type"] in ("argon2i", "argon2id"), f"a key derivation of kind {kdf['type']}")
    passes, memory, lanes = (_number(kdf[name], 1, 1 << 32) for name in ("time", "memory", "cpus"))
    if memory > limits.memory or memory * passes > limits.work or lanes > 16:
        raise ConfigError(f"the LUKS disk's key slot asks for {memory} KiB of memory in {passes} passes: too much")
    argon2 = library("kdf.argon2")
    kind = argon2.Argon2id if kdf["type"] == "argon2id" else argon2.Argon2i
    made: bytes = kind(salt=salt, length=size, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)
    return made


def _pbkdf2(name: str, secret: bytes, salt: bytes, iterations: int, size: int, limits: Limits) -> bytes:
    if not 0 < iterations <= limits.iterations:
        raise ConfigError(f"the LUKS disk's key slot asks for {iterations} iterations: too many, or none")
    _hash(name)
    return hashlib.pbkdf2_hmac(name, secret, salt, iterations, size)


def _slot_key(read: Read, cipher: SectorCipher, offset: int, size: int, stripes: int, hashed: str) -> bytes:
    """Read the material of a key slot, and merge its stripes (LUKS1 2.4: the anti-forensic splitter)."""
    length = -(-size * stripes // SECTOR) * SECTOR
    material = cipher.decrypt(read(offset, length), 0)
    mixed = bytes(size)
    for stripe in range(stripes):
        part = material[stripe * size : (stripe + 1) * size]
        mixed = (int.from_bytes(mixed, "big") ^ int.from_bytes(part, "big")).to_bytes(size, "big")
        if stripe < stripes - 1:
            mixed = _diffused(mixed, hashed)
    return mixed


def _diffused(data: bytes, name: str) -> bytes:
    function = _hash(name)
    step = function().digest_size
    blocks = range(0, len(data), step)
    parts = (function(struct.pack(">I", at // step) + data[at : at + step]).digest() for at in blocks)
    return b"".join(parts)[: len(data)]


def _hash(name: str) -> Any:
    if name not in _HASHES:
        raise _Damaged(f"a hash function {name!r}")
    try:
        hashlib.new(name)
    except ValueError:
        raise ConfigError(f"the LUKS disk uses {name}, which this host's OpenSSL does not have") from None
    return lambda data=b"": hashlib.new(name, data)


# -- numbers and words -------------------------------------------------------------------------------------------------


def _check(right: bool, what: str) -> None:
    if not right:
        raise _Damaged(what)


def _number(value: Any, least: int, most: int) -> int:
    """JSON of LUKS2 has 64-bit numbers as text."""
    number = int(value)
    _check(not isinstance(value, (bool, float)) and least <= number <= most, f"the number {value!r}")
    return number


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Damaged(f"base64: {error}") from error
