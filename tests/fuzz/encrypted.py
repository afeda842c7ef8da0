"""Fuzz target of encrypted disks: the headers of LUKS1, and the metadata of LUKS2 behind a checksum that is right."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from devproc.blk import luks_format
from devproc.blk.luks_format import Limits, unlock
from proto.errors import ConfigError
from tests.fuzz.harness import Target, allowed

LIMITS = Limits(iterations=20, memory=64, work=256)
SIZE = 1 << 20  # bytes of the disk; what an input does not say is zero
HEADER = 1 << 14
PHRASE = b"x"


def _disk_1(data: bytes) -> bytes:
    return data


def _disk_2(data: bytes) -> bytes:
    """A first header with this metadata."""
    area = data[: HEADER - 4096].ljust(HEADER - 4096, b"\0")
    words = [b"LUKS\xba\xbe", 2, HEADER, 1, b"", b"sha256", bytes(64), b"", b"", 0, b"", bytes(64)]
    blank = luks_format._HEADER_2.pack(*words).ljust(4096, b"\0")
    words[-1] = hashlib.sha256(blank + area).digest().ljust(64, b"\0")
    return luks_format._HEADER_2.pack(*words).ljust(4096, b"\0") + area


def _metadata(**kdf: Any) -> bytes:
    salt = base64.b64encode(b"salt of 16 bytes").decode()
    slot = {
        "type": "luks2",
        "key_size": 64,
        "af": {"type": "luks1", "stripes": 3, "hash": "sha256"},
        "area": {"type": "raw", "offset": "32768", "size": "512", "encryption": "aes-xts-plain64", "key_size": 64},
        "kdf": {"salt": salt, **kdf},
    }
    disk = bytes(SIZE)
    key = luks_format._open_slot(lambda at, size: disk[at : at + size], SIZE, PHRASE, slot, LIMITS)
    assert key is not None
    digest = hashlib.pbkdf2_hmac("sha256", key, b"salt", 10, 32)
    return json.dumps(
        {
            "keyslots": {"0": slot},
            "tokens": {},
            "segments": {
                "0": {
                    "type": "crypt",
                    "offset": "65536",
                    "size": "dynamic",
                    "iv_tweak": "0",
                    "encryption": "aes-xts-plain64",
                    "sector_size": 4096,
                }
            },
            "digests": {
                "0": {
                    "type": "pbkdf2",
                    "keyslots": ["0"],
                    "segments": ["0"],
                    "hash": "sha256",
                    "iterations": 10,
                    "salt": base64.b64encode(b"salt").decode(),
                    "digest": base64.b64encode(digest).decode(),
                }
            },
            "config": {"json_size": "12288", "keyslots_size": "4096"},
        }
    ).encode()


def _version_1() -> bytes:
    salt, disk = b"s" * 32, bytes(SIZE)
    area = luks_format._pbkdf2("sha256", PHRASE, salt, 10, 64, LIMITS)
    cipher = luks_format.SectorCipher("aes-xts-plain64", area)
    key = luks_format._slot_key(lambda at, size: disk[at : at + size], cipher, 4096, 64, 3, "sha256")
    digest = hashlib.pbkdf2_hmac("sha256", key, salt, 10, 20)
    words = (luks_format.MAGIC, 1, b"aes", b"xts-plain64", b"sha256", 64, 64, digest, salt, 10, b"uuid")
    slots = struct.pack(">II32sII", luks_format._ENABLED, 10, salt, 8, 3)
    return luks_format._HEADER_1.pack(*words) + slots + struct.pack(">II32sII", 0xDEAD, 0, b"", 0, 0) * 7


def _seeds() -> list[bytes]:
    kdfs: list[dict[str, Any]] = [
        {"type": "pbkdf2", "hash": "sha256", "iterations": 10},
        {"type": "argon2id", "time": 1, "memory": 32, "cpus": 1},
        {"type": "argon2i", "time": 1, "memory": 32, "cpus": 1},
    ]
    found = [b"\1" + _version_1(), *(b"\2" + _metadata(**kdf) for kdf in kdfs)]
    for seed in found:
        assert _run(seed), "a valid disk does not open"
    return found


def _run(data: bytes) -> bool:
    disk = (_disk_2 if data[:1] == b"\2" else _disk_1)(data[1:])
    with allowed(ConfigError):
        volume = unlock(lambda at, size: disk[at : at + size].ljust(size, b"\0"), SIZE, PHRASE, "x", LIMITS)
        if volume is not None:
            assert 0 < volume.start < SIZE and volume.size <= SIZE - volume.start
            sector = bytes(range(256)) * (volume.cipher.sector // 256)
            assert volume.cipher.decrypt(volume.cipher.encrypt(sector, 512), 512) == sector
            return True
    return False


TARGETS = (Target("luks", "headers and metadata of encrypted disks (devproc.blk.luks_format)", _run, _seeds),)
