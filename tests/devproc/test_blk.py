"""What a driver sees of a disk, served by a real process; and the readable path and the machine code give the same."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys

import pytest

from devproc.blk.file import open_locked
from launcher.replay.frontend import GPA
from proto.errors import ImageLocked, ProtocolError
from proto.pages import queue_statistics
from proto.virtio import BlkFeature, BlkStatus, BlkType, Feature, bit

IN, OUT, FLUSH, GET_ID = BlkType.IN, BlkType.OUT, BlkType.FLUSH, BlkType.GET_ID
DISCARD, WRITE_ZEROES = BlkType.DISCARD, BlkType.WRITE_ZEROES
OK, IOERR, UNSUPP = BlkStatus.OK, BlkStatus.IOERR, BlkStatus.UNSUPP
MIB = 1 << 20


def span(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


def test_configuration_space_describes_the_image(disk):
    front = disk(bytes(3 * MIB), {"num_queues": 4}).front
    config = front.hello["config"]
    assert len(config) == 72
    assert struct.unpack_from("<Q", config) == (3 * MIB // 512,)
    assert struct.unpack_from("<I", config, 12) == (126,)  # seg_max
    assert struct.unpack_from("<I", config, 20) == (512,)  # blk_size
    assert struct.unpack_from("<H", config, 34) == (4,)  # num_queues
    assert front.hello["queues"] == [256] * 4
    for feature in (BlkFeature.FLUSH, BlkFeature.MQ, BlkFeature.TOPOLOGY, Feature.RING_EVENT_IDX, Feature.VERSION_1):
        assert front.hello["features"] & bit(feature)
    assert not front.hello["features"] & bit(BlkFeature.RO)


@pytest.mark.parametrize("pieces", [1, 3])
def test_data_is_read_and_written(disk, tmp_path, pieces):
    content = random.Random(1).randbytes(MIB)
    served = disk(content)
    assert served.request(IN, 5, room=4096, pieces=pieces) == (OK, content[5 * 512 : 5 * 512 + 4096])
    data = os.urandom(8192)
    assert served.request(OUT, 100, data=data, pieces=pieces)[0] == OK
    assert served.request(FLUSH)[0] == OK
    assert (tmp_path / "disk.img").read_bytes()[51200 : 51200 + 8192] == data
    assert served.front.stop() == 0


def test_the_last_sector_is_there_and_the_next_is_not(disk):
    served = disk(bytes(MIB))
    assert served.request(IN, 2047, room=512)[0] == OK
    assert served.request(IN, 2048, room=512)[0] == IOERR
    assert served.request(IN, 2047, room=1024)[0] == IOERR
    assert served.request(IN, 2**64 - 1, room=512)[0] == IOERR
    assert served.request(OUT, 2**55, data=bytes(512))[0] == IOERR


def test_what_is_not_whole_sectors_is_refused(disk):
    served = disk()
    assert served.request(IN, 0, room=100)[0] == IOERR
    assert served.request(OUT, 0, data=bytes(513))[0] == IOERR


def test_get_id_names_the_image_or_the_given_serial(disk):
    assert disk().request(GET_ID, room=20) == (OK, b"disk.img".ljust(20, b"\0"))


def test_serial_is_what_get_id_answers(disk):
    assert disk(properties={"serial": "S" * 30}).request(GET_ID, room=20) == (OK, b"S" * 20)


def test_unknown_request_types_are_unsupported(disk):
    assert disk().request(99)[0] == UNSUPP


def test_discard_and_write_zeroes_give_zeroes(disk, tmp_path):
    served = disk(b"\xff" * MIB)
    assert served.request(WRITE_ZEROES, data=span(8, 8))[0] == OK
    assert served.request(WRITE_ZEROES, data=span(32, 8, 1) + span(64, 1))[0] == OK
    assert served.request(DISCARD, data=span(128, 8))[0] == OK
    content = (tmp_path / "disk.img").read_bytes()
    assert content[4096:8192] == bytes(4096) and content[32 * 512 : 40 * 512] == bytes(4096)
    assert content[64 * 512 : 65 * 512] == bytes(512) and content[65 * 512] == 0xFF
    assert content[8192:16384] == b"\xff" * 8192


@pytest.mark.parametrize(
    "kind, data, status",
    [
        (DISCARD, span(0, 8, 1), UNSUPP),
        (WRITE_ZEROES, span(0, 8, 2), UNSUPP),
        (WRITE_ZEROES, span(2047, 2), IOERR),
        (WRITE_ZEROES, span(2**63, 8), IOERR),
        (WRITE_ZEROES, span(0, 1) + b"x", IOERR),
        (DISCARD, b"", IOERR),
        (DISCARD, span(0, 1) * 17, IOERR),
    ],
    ids=["discard-flags", "unknown-flag", "beyond-the-end", "far-beyond", "odd-size", "no-range", "too-many"],
)
def test_bad_ranges_are_refused_and_change_nothing(disk, tmp_path, kind, data, status):
    served = disk(b"\xff" * MIB)
    assert served.request(kind, data=data)[0] == status
    assert (tmp_path / "disk.img").read_bytes() == b"\xff" * MIB


def test_one_bad_range_of_two_changes_nothing(disk, tmp_path):
    served = disk(b"\xff" * MIB)
    assert served.request(WRITE_ZEROES, data=span(0, 8) + span(4096, 8))[0] == IOERR
    assert (tmp_path / "disk.img").read_bytes() == b"\xff" * MIB


def test_a_read_only_disk_refuses_every_write(disk, tmp_path):
    served = disk(b"\xff" * MIB, options=",ro")
    features = served.front.hello["features"]
    assert features & bit(BlkFeature.RO) and not features & bit(BlkFeature.DISCARD)
    assert served.request(OUT, 0, data=bytes(512))[0] == IOERR
    assert served.request(DISCARD, data=span(0, 8))[0] == UNSUPP
    assert served.request(IN, 0, room=512) == (OK, b"\xff" * 512)
    assert (tmp_path / "disk.img").read_bytes() == b"\xff" * MIB


def test_an_image_truncated_under_the_device_fails_that_request_only(disk, tmp_path):
    served = disk(b"\x11" * MIB)
    os.truncate(tmp_path / "disk.img", 4096)
    assert served.request(IN, 1000, room=512)[0] == IOERR
    assert served.request(IN, 0, room=512) == (OK, b"\x11" * 512)


def test_malformed_chains_are_answered_with_an_error(disk):
    served = disk()
    ram, layout = served.front.ram.view, served.layout
    served.submit(0, IN, 0, room=512)
    struct.pack_into("<Q", ram, layout.desc + 16, 0x1234)  # the data buffer is nowhere
    served.finish()
    assert served.result(0)[0] == IOERR
    struct.pack_into("<QIHH", ram, layout.desc, GPA + 0x100000, 8, 1, 2)  # half a header
    struct.pack_into("<QIHH", ram, layout.desc + 32, GPA + 0x100020, 1, 2, 0)
    ram[0x100020] = 0xEE
    served.front.native.publish(layout.driver, 0)
    served.finish()
    assert served.result(0)[0] == IOERR
    assert served.request(IN, 0, room=512)[0] == OK


def test_a_driver_that_breaks_its_ring_is_told_to_reset(disk):
    served = disk()
    front, layout = served.front, served.layout
    struct.pack_into("<H", front.ram.view, layout.avail + 2, 5000)
    front.kick()
    while not any(message.name == "ERR" for message in front.posted):
        front.sleep()  # until it rings, or says something
    error = next(message for message in front.posted if message.name == "ERR")
    assert error.body["needs_reset"] and "avail_jump" in error.body["text"]
    front.request("RESET")
    front.ram.view[0:0x10000] = bytes(0x10000)
    front.queues.clear()
    front.negotiate()
    served.layout = front.add_queue(0, 256)
    assert served.request(IN, 0, room=512)[0] == OK
    layout.area.close()


def test_writes_are_durable_when_the_driver_cannot_flush(disk):
    served = disk(features=bit(Feature.VERSION_1))
    assert served.request(OUT, 0, data=b"\x77" * 512)[0] == OK
    assert served.request(IN, 0, room=512) == (OK, b"\x77" * 512)


def test_the_driver_may_turn_write_back_off_and_on(disk):
    front = disk().front
    for value in (0, 1):
        answer = front.request("CONFIG_SET", {"offset": 32, "data": bytes([value])})
        assert answer["config"][32] == value
    assert front.request("CONFIG_SET", {"offset": 0, "data": b"\0"})["config"] == front.hello["config"]


def test_several_queues_are_served_at_once(disk):
    served = disk(bytes(range(256)) * 4096, {"num_queues": 2})
    front = served.front
    second = type(served)(front, front.add_queue(1, 128, at=0x20000))
    for sector in range(20):
        assert served.request(IN, sector, room=512)[0] == OK
        assert second.request(IN, sector, room=512)[0] == OK
    counters = [queue_statistics(front.device_page.view, index) for index in (0, 1)]
    assert [(c.requests, c.bytes_read, c.in_flight) for c in counters] == [(20, 10240, 0)] * 2


def test_dirty_pages_are_marked(disk):
    served = disk()
    served.front.dirty.view[:] = bytes(len(served.front.dirty.view))
    generation = served.front.theirs.dirty_generation
    served.request(IN, 0, room=4096)
    assert {page for page, mark in enumerate(served.front.dirty.view) if mark} == {0x100, 0x101}
    assert served.front.theirs.dirty_generation != generation


def test_features_that_were_not_offered_are_refused(disk):
    front = disk().front
    with pytest.raises(ProtocolError, match="features"):
        front.request("FEATURES_OK", {"features": bit(63) | bit(Feature.VERSION_1)})
    with pytest.raises(ProtocolError, match="features"):
        front.request("FEATURES_OK", {"features": 0})


def fails(start, backend: str) -> str:
    with pytest.raises(RuntimeError) as caught:
        start("blk", backend=backend)
    return str(caught.value)


def test_a_missing_image_is_named(start, tmp_path):
    text = fails(start, f"file:{tmp_path}/none.img")
    assert "none.img: no such file" in text and "bulkhead disk create" in text


def test_an_odd_sized_image_says_how_to_pad_it(start, tmp_path):
    (tmp_path / "old.img").write_bytes(bytes(1000))
    text = fails(start, f"file:{tmp_path}/old.img")
    assert "old.img is 1 000 bytes; a disk is a whole number of 512-byte sectors." in text
    assert "bulkhead disk resize" in text and "1024" in text


def test_an_empty_image_a_folder_and_a_pipe_are_refused(start, tmp_path):
    (tmp_path / "empty.img").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    assert "is empty" in fails(start, f"file:{tmp_path}/empty.img")
    assert "is a directory" in fails(start, f"file:{tmp_path}")
    assert "neither a file nor a block device" in fails(start, f"file:{tmp_path}/pipe")


def test_an_image_in_use_is_locked(start, disk, tmp_path):
    disk()
    assert "is locked: another machine has it open" in fails(start, f"file:{tmp_path}/disk.img")


def test_two_read_only_disks_share_an_image(start, disk, tmp_path):
    disk(options=",ro")
    start("blk", backend=f"file:{tmp_path}/disk.img,ro")


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io")
def test_qemu_shares_an_image_with_readers_and_with_no_writer(disk, tmp_path):
    path = tmp_path / "disk.img"

    def qemu_io(*words: str) -> bool:
        command = ["qemu-io", "-f", "raw", *words, str(path)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    disk(options=",ro")
    assert qemu_io("-r", "-c", "read 0 512")
    assert not qemu_io("-c", "read 0 512")


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io")
@pytest.mark.parametrize(("theirs", "ours", "shared"), [("-r", True, True), ("-r", False, False), ("-n", True, False)])
def test_an_image_that_qemu_has_open_is_shared_among_readers_alone(tmp_path, theirs, ours, shared):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    command = ["qemu-io", "-f", "raw", theirs, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        while b"read 512/512" not in process.stdout.readline():
            assert process.poll() is None
        try:
            os.close(open_locked(str(path), ours))
            found = True
        except ImageLocked:
            found = False
        process.stdin.write(b"quit\n")
        process.stdin.flush()
    assert found is shared


def test_an_unwritable_image_says_how_to_read_it(tmp_path):
    """Root may write everything, so this opens it as nobody, in a process of its own."""
    path = tmp_path / "locked.img"
    path.write_bytes(bytes(1024))
    path.chmod(0o444)
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    code = (
        "import os, sys\n"
        "import devproc.blk.file\n"
        "from devproc.blk.backend import open_backend\n"
        "from proto.errors import ConfigError\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: open_backend(sys.argv[1])\n"
        "except ConfigError as error: print(error.describe())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, f"file:{path}"], capture_output=True, text=True, timeout=60)
    assert "cannot write to locked.img: permission denied" in done.stdout, done.stderr
    assert f"file:{path},ro" in done.stdout


def test_an_unknown_property_suggests_the_right_one(start):
    with pytest.raises(RuntimeError, match="Did you mean serial"):
        start("blk", {"seriel": "x"}, backend="file:/dev/null")
