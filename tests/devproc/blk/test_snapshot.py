"""A snapshot: the image below stays as it is, and what was written outlives the process."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys

import pytest
from disk_model import Model, random_requests, read, write

from devproc.blk.backend import open_backend
from devproc.blk.snapshot import Snapshot, commit_overlay, discard_overlay
from proto.errors import BackendError, ConfigError

SIZE = (1 << 20) + 512 * 3  # the last cluster is a short one


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.mark.parametrize("scheme", ["snapshot", "copy-on-read"])
@pytest.mark.parametrize("cluster", ["512", "4k", "64k"])
@pytest.mark.parametrize("overlay", [False, True])
def test_reads_give_what_was_written_and_the_image_stays(image, tmp_path, scheme, cluster, overlay):
    before = image.read_bytes()
    where = f"overlay={tmp_path}/o:" if overlay else ""
    model = random_requests(f"{scheme}:{where}cluster={cluster}:{image}", before, 7, 150, reopen=overlay)
    assert image.read_bytes() == before
    if overlay:
        disk = open_backend(f"{scheme}:overlay={tmp_path}/o:{image},ro")
        model.check(disk)
        disk.close()


def test_snapshots_stack(image, tmp_path):
    before = image.read_bytes()
    first = random_requests(f"snapshot:overlay={tmp_path}/a:{image}", before, 1, 60)
    stack = f"snapshot:overlay={tmp_path}/b:snapshot:overlay={tmp_path}/a:{image}"
    random_requests(stack, bytes(first.data), 2, 60)
    disk = open_backend(f"snapshot:overlay={tmp_path}/a:{image}")
    first.check(disk)
    disk.close()


def test_commit_writes_it_below_and_empties_the_overlay(image, tmp_path):
    uri = f"overlay={tmp_path}/o:{image}"
    model = random_requests(f"snapshot:{uri}", image.read_bytes(), 3, 80)
    snapshot = open_backend(f"snapshot:{uri}")
    assert isinstance(snapshot, Snapshot)
    snapshot.below.close()
    into = open_backend(str(image))
    assert commit_overlay(snapshot, into, lambda done, total: None) > 0
    into.close()
    os.close(snapshot._fd)
    assert image.read_bytes() == model.data
    disk = open_backend(f"snapshot:{uri}")
    assert not any(written for written, _, _ in disk.runs(0, SIZE))
    disk.close()


def test_discard_gives_the_image_back(image, tmp_path):
    uri = f"snapshot:overlay={tmp_path}/o:{image}"
    random_requests(uri, image.read_bytes(), 3, 80)
    disk = open_backend(uri)
    assert discard_overlay(disk) > 0
    Model(image.read_bytes()).check(disk)
    disk.close()


KILLED = """
import os, random, sys
from devproc.blk.backend import open_backend
disk = open_backend(sys.argv[1])
rng = random.Random(9)
while True:
    offset, size = rng.randrange(2000) * 512, rng.choice([1, 8, 40]) * 512
    disk.pwritev([memoryview(rng.randbytes(size))], offset, False)
    os.write(1, b".")
"""


def test_what_was_answered_survives_a_kill(image, tmp_path):
    uri = f"snapshot:overlay={tmp_path}/o:cluster=4k:{image}"
    writer = subprocess.Popen([sys.executable, "-c", KILLED, uri], stdout=subprocess.PIPE)
    answered = 0
    while answered < 300:
        answered += len(os.read(writer.stdout.fileno(), 1000))
    writer.kill()
    answered += len(writer.stdout.read())
    writer.wait()
    writer.stdout.close()
    rng, content = random.Random(9), bytearray(image.read_bytes())
    for number in range(answered + 1):
        offset, size = rng.randrange(2000) * 512, rng.choice([1, 8, 40]) * 512
        data = rng.randbytes(size)
        if number == answered:  # this one may be there in part: whole sectors of either
            break
        content[offset : offset + size] = data
    disk = open_backend(uri)
    now = read(disk, 0, SIZE)
    for at in range(0, SIZE, 512):
        if not offset <= at < offset + size:
            assert now[at : at + 512] == content[at : at + 512]
        else:
            assert now[at : at + 512] in (content[at : at + 512], data[at - offset : at - offset + 512])
    disk.close()


def test_only_what_was_flushed_counts_after_a_crash_of_the_host(image, tmp_path):
    """Another boot id in the header is how a crash of the host looks."""
    uri, overlay = f"snapshot:overlay={tmp_path}/o:{image}", tmp_path / "o"
    before = image.read_bytes()
    disk = open_backend(uri)
    write(disk, 0, b"f" * 4096)
    disk.flush()
    write(disk, 8192, b"u" * 4096)
    disk.close()
    with open(overlay, "r+b") as file:
        file.seek(24)
        file.write(bytes(16))
    disk = open_backend(uri)
    assert read(disk, 0, 12288) == b"f" * 4096 + before[4096:12288]
    disk.close()


def test_a_full_disk_fails_that_request_alone(image, tmp_path):
    disk = open_backend(f"snapshot:overlay={tmp_path}/o:{image}")
    before = image.read_bytes()
    write(disk, 0, b"a" * 4096)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(disk, 512 << 10, b"b" * 4096)
        write(disk, 4096, b"c" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(disk, 0, SIZE) == b"a" * 4096 + b"c" * 4096 + before[8192:]
    disk.close()


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda file: file.truncate(100), "is truncated|damaged|not an overlay"),
        (lambda file: file.write(b"QFI\xfb"), "not an overlay"),
        (lambda file: (file.seek(12), file.write(b"\x03\0\0\0")), "damaged"),
        (lambda file: (file.seek(12), file.write(bytes(4))), "damaged"),
        (lambda file: (file.seek(16), file.write(b"\0\0\0\0\0\x02\0\0")), "damaged|belongs to a disk"),
        (lambda file: file.truncate(5000), "truncated"),
    ],
)
def test_a_damaged_overlay_is_refused(image, tmp_path, damage, said):
    uri = f"snapshot:overlay={tmp_path}/o:cluster=512:{image}"
    open_backend(uri).close()
    with open(tmp_path / "o", "r+b") as file:
        damage(file)
    if os.path.getsize(tmp_path / "o") == 5000:  # the bitmap of this disk is shorter than its page
        os.truncate(tmp_path / "o", 4100)
    with pytest.raises(ConfigError, match=said):
        open_backend(uri)


def test_an_overlay_of_another_disk_is_refused(image, tmp_path):
    open_backend(f"snapshot:overlay={tmp_path}/o:{image}").close()
    (tmp_path / "other.img").write_bytes(bytes(4096))
    with pytest.raises(ConfigError, match="belongs to a disk of"):
        open_backend(f"snapshot:overlay={tmp_path}/o:{tmp_path}/other.img")


def test_an_error_below_does_not_change_the_overlay(image, tmp_path):
    disk = open_backend(f"snapshot:overlay={tmp_path}/o:error:when={tmp_path}/now:{image}")
    (tmp_path / "now").touch()
    with pytest.raises(BackendError):
        write(disk, 512, bytes(512))
    (tmp_path / "now").unlink()
    assert read(disk, 0, SIZE) == image.read_bytes()
    disk.close()


def test_copy_on_read_asks_below_once(image, tmp_path):
    disk = open_backend(f"copy-on-read:overlay={tmp_path}/o:error:when={tmp_path}/now:{image}")
    first = read(disk, 512, 8192)
    (tmp_path / "now").touch()
    assert read(disk, 512, 8192) == first == image.read_bytes()[512:8704]
    with pytest.raises(BackendError):
        read(disk, 64 << 10, 512)
    disk.close()
