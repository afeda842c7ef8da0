"""Encrypted disks: what cryptsetup and QEMU write is read, what is written they read, and no header is believed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess

import pytest
from disk_model import Model, random_requests, read, write

from devproc.blk import ciphers, luks_format
from devproc.blk.backend import open_backend
from devproc.blk.luks import passphrases
from devproc.blk.luks_format import Limits, unlock
from proto.errors import BackendError, ConfigError

pytest.importorskip("cryptography", reason="needs the Python library cryptography")
SIZE = 1 << 20
CONTENT = random.Random(11).randbytes(SIZE)
PHRASE = "correct horse"
ARGON = ["--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel"]
KDF = {
    "argon2id": ["--pbkdf", "argon2id", *ARGON, "1"],
    "argon2i": ["--pbkdf", "argon2i", *ARGON, "2"],
    "pbkdf2": ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"],
}


def tool(*words, **options):
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}: apt install cryptsetup-bin qemu-utils")
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text(PHRASE)
    return path


def luks1_made(path, key, *words):
    """An empty LUKS1 disk of cryptsetup's, and 1 MiB of data written by us."""
    path.write_bytes(bytes((2 << 20) + SIZE))
    words = ["--type", "luks1", *words, "--pbkdf-force-iterations", 1000, "--key-file", key, path]
    tool("cryptsetup", "-q", "luksFormat", *words)
    disk = open_backend(f"luks:secret={key}:{path}")
    assert disk.size == SIZE
    write(disk, 0, CONTENT)
    disk.close()


def qemu_reads(path, key, out):
    options = f"driver=luks,key-secret=s,file.filename={path}"
    tool("qemu-img", "convert", "--object", f"secret,id=s,file={key}", "--image-opts", options, "-O", "raw", out)
    return out.read_bytes()


def cryptsetup_makes(path, key, *words, content=CONTENT):
    """A disk whose data cryptsetup has encrypted itself: an unencrypted one, converted."""
    path.write_bytes(content + bytes(32 << 20))
    words = ["--type", "luks2", *words, "--reduce-device-size", "32M", "--key-file", key, path]
    tool("cryptsetup", "-q", "reencrypt", "--encrypt", *words)


def test_what_is_written_qemu_reads(tmp_path, key):
    luks1_made(tmp_path / "x", key)
    model = random_requests(f"luks:secret={key}:{tmp_path}/x", CONTENT, 5, 80, reopen=True)
    assert qemu_reads(tmp_path / "x", key, tmp_path / "out") == model.data


@pytest.mark.parametrize(("kdf", "sector"), [("argon2id", 512), ("pbkdf2", 4096), ("argon2i", 2048)])
def test_a_luks2_disk_of_cryptsetup_is_read(tmp_path, key, kdf, sector):
    cryptsetup_makes(tmp_path / "x", key, *KDF[kdf], "--sector-size", sector)
    disk = open_backend(f"luks:secret={key}:{tmp_path}/x")
    assert disk.block_size >= sector and disk.volume.version == 2
    model = Model(CONTENT)
    assert read(disk, 0, SIZE) == CONTENT
    rng = random.Random(1)
    for _ in range(60):
        model.step(disk, rng)
    disk.close()
    again = open_backend(f"snapshot:luks:secret={key}:{tmp_path}/x")
    assert read(again, 0, SIZE) == model.data
    again.close()


@pytest.mark.parametrize("cipher", ["aes-xts-plain64", "aes-cbc-essiv:sha256", "aes-cbc-plain64"])
def test_the_key_is_the_one_that_cryptsetup_says(tmp_path, key, cipher):
    path = tmp_path / "x"
    luks1_made(path, key, "--cipher", cipher, "--key-size", 256)
    said = tool("cryptsetup", "-q", "luksDump", "--dump-volume-key", "--key-file", key, path)
    disk = open_backend(f"luks:secret={key}:{path},ro")
    assert disk.volume.cipher._key.key.hex(" ")[:47] in said.replace("\t", "")
    assert disk.volume.spec == cipher
    disk.close()


def test_any_of_the_passphrases_opens_it(tmp_path, key):
    path, other = tmp_path / "x", tmp_path / "other"
    path.write_bytes(bytes(20 << 20))
    other.write_text("second\n")  # as an editor leaves it
    tool("cryptsetup", "-q", "luksFormat", *KDF["pbkdf2"], "--key-file", key, path)
    tool("cryptsetup", "-q", "luksAddKey", *KDF["pbkdf2"], "--key-file", key, path, input="second\nsecond\n")
    for file in (key, other):
        open_backend(f"luks:secret={file}:{path}").close()
    (tmp_path / "wrong").write_text("wrong")
    with pytest.raises(ConfigError, match="no key slot of x opens"):
        open_backend(f"luks:secret={tmp_path}/wrong:{path}")


def test_a_damaged_first_header_is_no_harm_and_a_damaged_second_neither(tmp_path, key):
    path = tmp_path / "x"
    path.write_bytes(bytes(20 << 20))
    tool("cryptsetup", "-q", "luksFormat", *KDF["pbkdf2"], "--key-file", key, path)
    whole = path.read_bytes()
    for damaged in (5000, 16384 + 5000):
        path.write_bytes(whole[:damaged] + b"\xff" + whole[damaged + 1 :])
        open_backend(f"luks:secret={key}:{path}").close()
    path.write_bytes(whole[:5000] + b"\xff" + whole[5001:21000] + b"\xff" + whole[21001:])
    with pytest.raises(ConfigError, match="no LUKS disk"):
        open_backend(f"luks:secret={key}:{path}")


@pytest.fixture
def pbkdf2_disk(tmp_path, key):
    path = tmp_path / "x"
    path.write_bytes(bytes(20 << 20))
    tool("cryptsetup", "-q", "luksFormat", *KDF["pbkdf2"], "--key-file", key, path)
    return path


def changed(path, change):
    """The disk's first header with other metadata, and whole again; the second is gone."""
    data = bytearray(path.read_bytes()[: 1 << 20])
    (size,) = struct.unpack_from(">Q", data, 8)
    metadata = json.loads(data[4096:size].partition(b"\0")[0])
    change(metadata)
    data[4096:size] = json.dumps(metadata).encode().ljust(size - 4096, b"\0")
    data[448:512] = bytes(64)
    data[448:480] = hashlib.sha256(data[:size]).digest()
    data[16384 : 16384 + 4096] = bytes(4096)
    return bytes(data)


def kdf(**values):
    return lambda metadata: metadata["keyslots"]["0"]["kdf"].update(values)


CHANGES = {
    "endless iterations": kdf(iterations=1 << 31),
    "no iterations": kdf(iterations=0),
    "all the memory": kdf(type="argon2id", time=4, memory=1 << 31, cpus=1),
    "another hash": kdf(hash="md5"),
    "no keyslots": lambda metadata: metadata.pop("keyslots"),
    "keyslots of text": lambda metadata: metadata.update(keyslots="x"),
    "an offset outside": lambda metadata: metadata["keyslots"]["0"]["area"].update(offset=str(1 << 50)),
    "no data": lambda metadata: metadata["segments"]["0"].update(offset=str(1 << 40)),
    "odd sectors": lambda metadata: metadata["segments"]["0"].update(sector_size=1000),
    "another cipher": lambda metadata: metadata["segments"]["0"].update(encryption="serpent-xts-plain64"),
    "integrity": lambda metadata: metadata["segments"]["0"].update(integrity={"type": "hmac(sha256)"}),
    "re-encryption": lambda metadata: metadata["config"].update(requirements={"mandatory": ["online-reencrypt"]}),
    "stripes": lambda metadata: metadata["keyslots"]["0"]["af"].update(stripes=1 << 40),
    "salt": kdf(salt="§"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_header_that_does_not_add_up_is_refused(pbkdf2_disk, key, what):
    pbkdf2_disk.write_bytes(changed(pbkdf2_disk, CHANGES[what]).ljust(20 << 20, b"\0"))
    with pytest.raises(ConfigError):
        open_backend(f"luks:secret={key}:{pbkdf2_disk}")


def test_limits_are_told(pbkdf2_disk):
    data = pbkdf2_disk.read_bytes()
    with pytest.raises(ConfigError, match="too many"):
        unlock(lambda at, size: data[at : at + size], len(data), b"x", "x", Limits(iterations=10))


def test_without_the_library_it_is_said_how_to_get_it(pbkdf2_disk, key, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigError) as caught:
        ciphers.library("ciphers")
    assert "pip install" in caught.value.hint


def test_a_passphrase_may_end_in_a_newline_or_be_bytes(tmp_path):
    def file(data):
        (tmp_path / "p").write_bytes(data)
        return passphrases(str(tmp_path / "p"))

    assert file(b"word\n") == [b"word", b"word\n"]
    assert file(b"word") == [b"word"]
    assert file(b"\0key\n") == [b"\0key\n"]
    assert file(b"two\nlines\n") == [b"two\nlines\n"]
    with pytest.raises(ConfigError, match="no passphrase"):
        file(b"")
    with pytest.raises(ConfigError, match="no such file"):
        passphrases(str(tmp_path / "missing"))


def test_a_read_only_disk_is_not_written(tmp_path, key):
    luks1_made(tmp_path / "x", key)
    disk = open_backend(f"luks:secret={key}:{tmp_path}/x,ro")
    with pytest.raises((BackendError, OSError)):
        write(disk, 0, bytes(512))
    disk.close()
    assert (tmp_path / "x").read_bytes()[:6] == luks_format.MAGIC and os.path.getsize(tmp_path / "x") > SIZE
