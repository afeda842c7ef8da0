"""qcow2 images: what QEMU writes is read, what is written QEMU reads, and `qemu-img check` finds nothing after each."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys

import pytest
from disk_model import Model, random_requests, read, write

from devproc.blk.backend import open_backend
from devproc.blk.qcow2_tools import check, create, resize
from proto.errors import BackendError, ConfigError

SIZE = (2 << 20) + 512 * 3
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing: apt install qemu-utils")


def qemu_img(*words, code=0):
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def clean(path):
    """qemu-img and our own check find neither leaks nor errors."""
    qemu_img("check", path)
    image = open_backend(f"qcow2:{path},ro")
    findings = check(image, lambda done, total: None)
    image.close()
    assert (findings.leaks, findings.errors) == ([], [])


def content_of(path, tmp_path):
    raw = tmp_path / "content.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    return raw.read_bytes()


@pytest.fixture
def base(tmp_path):
    """A raw image with data and holes, shorter than the disk."""
    path = tmp_path / "base.raw"
    rng = random.Random(2)
    path.write_bytes(b"".join(rng.choice([bytes(65536), rng.randbytes(65536)]) for _ in range(20)))
    return path


FORMATS = [
    {"version": 3},
    {"version": 2},
    {"version": 3, "cluster": 512},
    {"version": 3, "cluster": 4096, "refcount_bits": 1},
    {"version": 3, "cluster": 4096, "refcount_bits": 64},
    {"version": 3, "cluster": 1 << 21},
]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_random_requests_on_our_own_image(tmp_path, form):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE, **form)
    clean(path)
    model = random_requests(f"qcow2:{path}", bytes(SIZE), 4, 150, reopen=True)
    clean(path)
    assert content_of(path, tmp_path) == model.data


@pytest.mark.parametrize("options", ["", "compat=0.10", "cluster_size=4k,refcount_bits=8", "preallocation=metadata"])
@pytest.mark.parametrize("backed", [False, True])
def test_random_requests_on_qemus_image(tmp_path, base, options, backed):
    if backed and "prealloc" in options:
        pytest.skip("not with a backing file")
    path = tmp_path / "x.qcow2"
    words = ["-b", base, "-F", "raw"] if backed else []
    words += ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *words, path, SIZE)
    before = base.read_bytes().ljust(SIZE, b"\0") if backed else bytes(SIZE)
    model = random_requests(f"qcow2:{path}", before, 5, 150, reopen=True)
    clean(path)
    assert content_of(path, tmp_path) == model.data
    assert base.read_bytes() == before.rstrip(b"\0").ljust(len(base.read_bytes()), b"\0") or not backed


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_compressed_clusters_are_read_and_written_over(tmp_path, base, kind):
    path = tmp_path / "x.qcow2"
    options = f"compression_type={kind},cluster_size=16k"
    raw = tmp_path / "text.raw"
    raw.write_bytes(b"".join(struct.pack(">Q", n // 7) for n in range(1 << 17)))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    model = Model(raw.read_bytes())
    disk = open_backend(f"qcow2:{path}")
    assert any(piece.kind == "compressed" for piece in disk.pieces(0, disk.size))
    model.check(disk)
    disk.close()
    model = random_requests(f"qcow2:{path}", bytes(model.data), 6, 80)
    clean(path)
    assert content_of(path, tmp_path) == model.data


def test_a_chain_of_three_and_an_internal_snapshot(tmp_path, base):
    first, second = tmp_path / "1.qcow2", tmp_path / "2.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", first, SIZE)
    lower = random_requests(f"qcow2:{first}", base.read_bytes().ljust(SIZE, b"\0"), 1, 60)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "1.qcow2", "-F", "qcow2", second, SIZE)
    model = random_requests(f"qcow2:{second}", bytes(lower.data), 2, 40)
    qemu_img("snapshot", "-c", "before", second)
    after = random_requests(f"qcow2:{second}", bytes(model.data), 3, 60, reopen=True)
    clean(second)
    assert content_of(second, tmp_path) == after.data
    qemu_img("snapshot", "-a", "before", second)
    clean(second)
    assert content_of(second, tmp_path) == model.data
    clean(first)


def test_the_refcount_table_grows(tmp_path):
    """512-byte clusters: one cluster of table counts 8 MiB."""
    path, size = tmp_path / "x.qcow2", 12 << 20
    create(str(path), size, cluster=512)
    data = random.Random(3).randbytes(size)
    disk = open_backend(f"qcow2:{path}")
    for at in range(0, size, 1 << 20):
        write(disk, at, data[at : at + (1 << 20)])
    assert disk.header.refcount_clusters > 1
    disk.close()
    clean(path)
    assert content_of(path, tmp_path) == data


def test_discarded_clusters_are_free_again(tmp_path):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE)
    disk = open_backend(f"qcow2:{path}")
    for _ in range(8):
        write(disk, 0, random.Random(1).randbytes(1 << 20))
        disk.discard(0, 1 << 20)
        disk.flush()
    disk.close()
    clean(path)
    assert os.path.getsize(path) < 6 << 20


def test_resize_makes_it_larger(tmp_path):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE, cluster=512)
    model = random_requests(f"qcow2:{path}", bytes(SIZE), 5, 40)
    disk = open_backend(f"qcow2:{path}")
    resize(disk, 32 << 20)
    disk.close()
    clean(path)
    assert content_of(path, tmp_path) == bytes(model.data).ljust(32 << 20, b"\0")
    random_requests(f"qcow2:{path}", bytes(model.data).ljust(32 << 20, b"\0"), 6, 40)
    clean(path)


def test_snapshot_over_qcow2_over_a_filter(tmp_path):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE)
    lower = random_requests(f"qcow2:{path}", bytes(SIZE), 1, 50)
    before = path.read_bytes()
    stack = f"snapshot:overlay={tmp_path}/o:qcow2:delay:ms=0:file:{path}"
    if len(before) % 512 == 0:
        random_requests(stack, bytes(lower.data), 2, 60)
    assert path.read_bytes() == before


KILLED = """
import os, random, sys
from devproc.blk.backend import open_backend
disk = open_backend(sys.argv[1])
rng = random.Random(int(sys.argv[2]))
while True:
    offset, size = rng.randrange(4000) * 512, rng.choice([1, 8, 200]) * 512
    if rng.random() < 0.2:
        disk.discard(offset, size)
        disk.flush()
    else:
        disk.pwritev([memoryview(bytes([rng.randrange(1, 256)]) * size)], offset, False)
    os.write(1, b".")
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_leaves_at_worst_leaks_and_loses_nothing(tmp_path, base, seed):
    path = tmp_path / "x.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "-o", "cluster_size=4k", path, SIZE)
    writer = subprocess.Popen([sys.executable, "-c", KILLED, f"qcow2:{path}", str(seed)], stdout=subprocess.PIPE)
    answered = 0
    while answered < 60 + 40 * seed:
        answered += len(os.read(writer.stdout.fileno(), 1000))
    writer.kill()
    answered += len(writer.stdout.read())
    writer.wait()
    writer.stdout.close()
    report = subprocess.run(["qemu-img", "check", "--output=json", path], capture_output=True, text=True, check=False)
    assert not json.loads(report.stdout).get("corruptions"), report.stdout
    image = open_backend(f"qcow2:{path}")
    findings = check(image, lambda done, total: None, repair=True)
    assert findings.errors == []
    image.close()
    clean(path)
    check_content(path, base, seed, answered)


def check_content(path, base, seed, answered):
    """Everything answered is there; the one request under way may be, sector by sector."""
    rng, content = random.Random(seed), bytearray(base.read_bytes().ljust(SIZE, b"\0"))
    allowed = {at: {bytes(content[at : at + 512])} for at in range(0, SIZE, 512)}
    for number in range(answered + 1):
        offset, size = rng.randrange(4000) * 512, rng.choice([1, 8, 200]) * 512
        discarded = rng.random() < 0.2
        sector = bytes(512) if discarded else bytes([rng.randrange(1, 256)]) * 512
        for at in range(offset, min(offset + size, SIZE), 512):
            keep = allowed[at] if discarded or number == answered else set()
            allowed[at] = keep | {sector}
    disk = open_backend(f"qcow2:{path},ro")
    now = read(disk, 0, SIZE)
    disk.close()
    assert all(now[at : at + 512] in choices for at, choices in allowed.items())


def test_a_full_disk_fails_that_request_alone(tmp_path):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE)
    disk = open_backend(f"qcow2:{path}")
    write(disk, 0, b"a" * 65536)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 65536, limits[1]))
    try:
        with pytest.raises(OSError):
            write(disk, 1 << 20, b"b" * (1 << 19))
        write(disk, 512, b"c" * 512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(disk, 0, SIZE) == (b"a" * 512 + b"c" * 512).ljust(65536, b"a").ljust(SIZE, b"\0")
    write(disk, 1 << 20, b"d" * (1 << 19))
    disk.close()
    clean(path)


# -- hostile images ----------------------------------------------------------------------------------------------------


def header(path, offset, form, *values):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, *values))


HOSTILE = {
    "version": (4, ">I", 9),
    "clusters": (20, ">I", 63),
    "size": (24, ">Q", (1 << 64) - 512),
    "odd size": (24, ">Q", 1000),
    "encrypted": (32, ">I", 2),
    "L1 entries": (36, ">I", 0xFFFFFFFF),
    "no L1": (36, ">I", 0),
    "L1 offset": (40, ">Q", 1 << 62),
    "L1 unaligned": (40, ">Q", 0x30001),
    "refcount table": (48, ">Q", 1 << 60),
    "refcount clusters": (56, ">I", 0xFFFFFFFF),
    "snapshots": (60, ">I", 0xFFFFFFFF),
    "backing name": (8, ">QI", 0xFFFFFFFF, 100),
    "long backing name": (8, ">QI", 200, 0xFFFF),
    "features": (72, ">Q", 1 << 40),
    "external data": (72, ">Q", 4),
    "extended L2": (72, ">Q", 16),
    "refcount order": (96, ">I", 40),
    "header length": (100, ">I", 7),
    "extension": (104, ">II", 0x12345678, 0xFFFFFFF0),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path, what):
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE)
    header(path, *HOSTILE[what])
    with pytest.raises(ConfigError):
        open_backend(f"qcow2:{path}")


def test_a_backing_chain_that_comes_back_is_refused(tmp_path):
    for name, below in (("a", "b"), ("b", "a"), ("self", "self")):
        create(str(tmp_path / name), SIZE, backing=below, backing_format="qcow2")
    for name in ("a", "self"):
        with pytest.raises(ConfigError, match="comes back"):
            open_backend(f"qcow2:{tmp_path}/{name}")
        with pytest.raises(ConfigError, match="comes back"):
            open_backend(f"qcow2:{tmp_path}/{name},ro")


def test_backing_can_be_refused_and_a_missing_one_is_named(tmp_path, base):
    create(str(tmp_path / "x"), SIZE, backing="base.raw", backing_format="raw")
    with pytest.raises(ConfigError, match=r"stands on base\.raw"):
        open_backend(f"qcow2:backing=off:{tmp_path}/x")
    base.unlink()
    with pytest.raises(ConfigError, match=r"base\.raw: no such file"):
        open_backend(f"qcow2:{tmp_path}/x")


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_image_gives_errors_and_never_more(tmp_path, seed):
    """Random damage to the tables of a used image: every request is answered or fails, and the process goes on."""
    path = tmp_path / "x.qcow2"
    create(str(path), SIZE, cluster=4096)
    random_requests(f"qcow2:{path}", bytes(SIZE), seed, 20)
    rng = random.Random(seed)
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        for _ in range(rng.choice([1, 5, 40])):
            file.seek(rng.randrange(0, min(size, 40 << 10)) & ~7)
            file.write(struct.pack(">Q", rng.choice([rng.getrandbits(64), 1 << 63 | rng.randrange(16) << 12, 0, 1])))
        if rng.random() < 0.3:
            file.truncate(rng.randrange(size))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
    try:
        disk = open_backend(f"qcow2:{path}")
    except ConfigError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for _ in range(40):
        offset = rng.randrange(4000) * 512
        with contextlib.suppress(BackendError, OSError):
            read(disk, offset, 4096)
        with contextlib.suppress(BackendError, OSError):
            write(disk, offset, b"x" * 4096)
        with contextlib.suppress(BackendError, OSError):
            disk.flush()
    try:
        disk.close()
    except (BackendError, OSError):
        disk.store.close()
    with contextlib.suppress(ConfigError, BackendError, OSError):
        image = open_backend(f"qcow2:{path},ro")
        check(image, lambda done, total: None)
        image.close()


@pytest.mark.parametrize("size", [72, 89, 103])
def test_a_file_that_ends_inside_its_header_is_refused(tmp_path, size):
    """Found by fuzzing."""
    create(str(tmp_path / "x"), SIZE)
    os.truncate(tmp_path / "x", size)
    with pytest.raises(ConfigError):
        open_backend(f"qcow2:{tmp_path}/x")


@pytest.fixture
def dirty(tmp_path):
    """An image that a crash of QEMU left with lazy reference counts behind what is used."""
    path = tmp_path / "x.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, SIZE)
    words = ["-c", "write -P 90 0 1M", "-c", "write -P 91 1500k 64k", "-c", "flush", "-c", "sigraise 9"]
    subprocess.run(["qemu-io", *words, str(path)], capture_output=True, timeout=60, check=False)
    assert "marked dirty" in describe_features(path)
    return path


def describe_features(path):
    return "marked dirty" if struct.unpack(">Q", path.read_bytes()[72:80])[0] & 1 else ""


def test_an_image_that_a_crash_left_dirty_is_counted_anew(dirty, tmp_path):
    content = bytearray(SIZE)
    content[: 1 << 20] = bytes([90]) * (1 << 20)
    content[1500 << 10 : 1564 << 10] = bytes([91]) * (64 << 10)
    disk = open_backend(f"qcow2:{dirty},ro")
    assert read(disk, 0, SIZE) == content and describe_features(dirty)
    disk.close()
    model = random_requests(f"qcow2:{dirty}", bytes(content), 9, 60, reopen=True)
    assert not describe_features(dirty)
    clean(dirty)
    assert content_of(dirty, tmp_path) == model.data


def test_a_dirty_image_with_more_damage_is_left_as_it_is(dirty):
    data = bytearray(dirty.read_bytes())
    (l1,) = struct.unpack_from(">Q", data, 40)
    struct.pack_into(">Q", data, l1, 1 << 63 | 1 << 40)
    dirty.write_bytes(data)
    with pytest.raises(ConfigError, match="more than its counts"):
        open_backend(f"qcow2:{dirty}")
    assert dirty.read_bytes() == data
