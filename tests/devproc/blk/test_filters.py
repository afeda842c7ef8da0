"""Filters change how a disk behaves, and nothing about its contents."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
from disk_model import random_requests, read, write

from proto.errors import BackendError
from proto.pages import queue_statistics
from proto.virtio import BlkStatus, BlkType

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.mark.parametrize("stack", ["log:", "delay:ms=0:", "error:percent=0:", "rate:bytes=1G:", "log:delay:ms=0:rate:"])
def test_a_filter_leaves_the_contents_alone(image, stack, capfd):
    model = random_requests(f"{stack}{image}", image.read_bytes(), 5, 60)
    assert image.read_bytes() == model.data


def test_log_writes_a_line_a_request(image, opened, capfd):
    disk = opened(f"log:op=read+flush:{image}")
    read(disk, 512, 1024)
    write(disk, 0, bytes(512))
    disk.flush()
    assert capfd.readouterr().err.splitlines() == ["disk.img: read 1024 bytes at 512", "disk.img: flush"]


def test_delay_takes_its_time_for_what_it_is_meant_for(image, opened):
    disk = opened(f"delay:ms=60:op=read:{image}")

    def seconds(action, *arguments):
        begin = time.monotonic()
        action(disk, 0, *arguments)
        return time.monotonic() - begin

    assert seconds(read, 512) >= 0.06
    assert min(seconds(write, bytes(512)) for _ in range(50)) < 0.06  # the host may be busy with something else


def test_errors_happen_where_and_when_they_are_asked_for(image, opened, tmp_path):
    disk = opened(f"error:op=read:start=4k:end=8k:when={tmp_path}/now:{image}")
    read(disk, 0, SIZE)
    (tmp_path / "now").touch()
    read(disk, 0, 4096)
    read(disk, 8192, 4096)
    write(disk, 4096, bytes(512))
    with pytest.raises(BackendError, match="injected: read of 1024 bytes at 7680") as caught:
        read(disk, 7680, 1024)
    assert caught.value.errno == 5
    (tmp_path / "now").unlink()
    read(disk, 4096, 4096)


def test_some_percent_of_the_requests_fail(image, opened):
    disk = opened(f"error:percent=30:{image}")
    failed = 0
    for _ in range(300):
        try:
            read(disk, 0, 512)
        except BackendError:
            failed += 1
    assert 30 < failed < 180


def test_rate_limits_bytes_a_second(image, opened):
    disk = opened(f"rate:bytes=256k:{image}")
    read(disk, 0, 256 << 10)  # a second's worth at once, which then has to be worked off
    begin = time.monotonic()
    for _ in range(4):
        read(disk, 0, 16 << 10)
    assert 0.7 < time.monotonic() - begin < 10


def test_pause_holds_requests_until_the_file_is_gone(image, opened, tmp_path):
    held = tmp_path / "held"
    held.touch()
    disk = opened(f"pause:when={held}:op=write:{image}")
    read(disk, 0, 512)
    writer = threading.Thread(target=write, args=(disk, 0, b"x" * 512), daemon=True)
    writer.start()
    writer.join(0.1)
    assert writer.is_alive() and image.read_bytes()[:512] != b"x" * 512
    held.unlink()
    writer.join(60)
    assert not writer.is_alive() and image.read_bytes()[:512] == b"x" * 512


def test_requests_wait_beside_each_other(attach, image):
    """Eight requests of half a second each take less than eight times that, in a real device process."""
    disk = attach(f"delay:ms=500:{image}")
    begin = time.monotonic()
    for slot in range(8):
        disk.submit(slot, BlkType.IN, slot * 8, room=4096)
    disk.front.notify(disk.layout)
    for _ in range(8):
        disk.front.wait_used(disk.layout)
    assert 0.5 <= time.monotonic() - begin < 3.9
    content = image.read_bytes()
    for slot in range(8):
        assert disk.result(slot, 4096) == (BlkStatus.OK, content[slot * 4096 : slot * 4096 + 4096])
    assert disk.front.stop() == 0


def test_an_error_is_one_of_that_request(attach, image):
    disk = attach(f"delay:ms=0:error:start=4k:end=8k:{image}")
    assert disk.request(BlkType.IN, 8, room=512)[0] == BlkStatus.IOERR
    assert disk.request(BlkType.IN, 0, room=512) == (BlkStatus.OK, image.read_bytes()[:512])
    assert disk.front.stop() == 0


def test_a_held_disk_that_is_killed_finishes_in_its_successor(attach, image, tmp_path):
    held = tmp_path / "held"
    held.touch()
    disk = attach(f"pause:when={held}:{image}")
    data = [os.urandom(512) for _ in range(5)]
    for slot, block in enumerate(data):
        disk.submit(slot, BlkType.OUT, slot, block)
    disk.front.notify(disk.layout)
    disk.front.kill()
    disk.front.start()
    held.unlink()
    disk.front.replay()
    assert {disk.front.wait_used(disk.layout)[0] for _ in data} == {slot * 16 for slot in range(5)}
    assert image.read_bytes()[: 5 * 512] == b"".join(data)
    assert disk.front.stop() == 0


def test_a_reset_waits_for_what_is_under_way(attach, image):
    """RESET is answered when nothing is written into the guest's memory any more."""
    disk = attach(f"delay:ms=300:op=read:{image}")
    for slot in range(4):
        disk.submit(slot, BlkType.IN, slot * 8, room=4096)
    disk.front.notify(disk.layout)
    while not queue_statistics(disk.front.device_page.view, 0).in_flight:
        time.sleep(0.001)
    disk.front.request("RESET")
    content = image.read_bytes()
    assert disk.result(0, 4096) == (BlkStatus.OK, content[:4096])
    assert queue_statistics(disk.front.device_page.view, 0).in_flight == 0
    assert disk.front.stop() == 0


def test_an_orderly_end_does_not_wait_for_a_held_disk(attach, image, tmp_path):
    held = tmp_path / "held"
    held.touch()
    disk = attach(f"pause:when={held}:{image}")
    disk.submit(0, BlkType.IN, 0, room=512)
    disk.front.notify(disk.layout)
    assert disk.front.stop() == 0
