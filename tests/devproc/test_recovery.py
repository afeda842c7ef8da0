"""A device process that is killed loses nothing: its successor finishes what it had taken, and the guest saw a
pause."""

from __future__ import annotations

import os
import random
import struct
import time

import pytest

from bench.blk_ring import Case, prepare
from launcher.replay.driver import Stop
from proto.virtio import BlkType


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_during_io_loses_nothing(disk, tmp_path, rounds):
    """Closed loop of writes, killed at random moments; at the end every request has been answered once, with
    success."""
    served = disk(bytes(128 << 20))
    front, layout = served.front, served.layout
    rng = random.Random(5)
    prepare(front.ram.view, front.ram.area.address, layout.driver, Case(4096, 32, 60_000 * rounds, write=True))
    for _ in range(rounds):
        run_for(front, layout, rng.uniform(0.001, 0.05))
        front.kill()
        front.start()
        front.replay()
        assert front.hello["epoch"] == front.epoch
    layout.driver.total = layout.driver.sent
    front.run(layout)
    assert layout.driver.done == layout.driver.sent > 32
    assert layout.driver.failed == 0
    assert front.stop() == 0


def run_for(front, layout, seconds: float) -> None:
    """Let the driver run for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop = front.native.run(layout.driver)
        if stop == Stop.DONE:
            return
        if stop == Stop.KICK:
            front.kick(layout.index)
        elif front.socket.poll(max(1, int((end - time.monotonic()) * 1000))):
            front.sleep()
            front.native.take_calls(front.mine, front.theirs)


def test_requests_taken_by_the_dead_come_again(disk, tmp_path):
    """Requests wait in the ring of a device that dies having taken some of them, and is replaced."""
    served = disk(bytes(1 << 20))
    front, layout = served.front, served.layout
    table = front.inflight.view
    data = [os.urandom(512) for _ in range(8)]
    for slot, block in enumerate(data):
        served.submit(slot, BlkType.OUT, slot * 8, block)
    front.kill()
    front.native.notify(layout.driver)
    for slot in range(3):  # as if it had been killed having taken three: counter, in flight
        struct.pack_into("<B7xQ", table, 16 + 16 * (slot * 16), 1, slot + 1)
    front.start()
    front.replay()
    heads = {front.wait_used(layout)[0] for _ in data}
    assert heads == {slot * 16 for slot in range(8)}
    assert all(served.result(slot)[0] == 0 for slot in range(8))
    assert front.stop() == 0
    assert any("3 requests come again" in line for line in front.logs)
    content = (tmp_path / "disk.img").read_bytes()
    assert all(content[slot * 4096 : slot * 4096 + 512] == block for slot, block in enumerate(data))
    assert not any(table[16 + 16 * head] for head in range(256))


def test_a_successor_calls_once_unasked(disk):
    """The dead one may have moved used.idx and died before it could call."""
    front = disk().front
    front.kill()
    before = front.theirs.call_sequence
    front.start()
    front.replay()
    assert front.theirs.call_sequence > before


def test_a_queue_that_the_driver_set_up_anew_begins_empty(disk):
    """The driver reset while no process was there: what was in flight then is forgotten."""
    served = disk()
    front, layout = served.front, served.layout
    served.request(BlkType.IN, 0, room=512)
    front.kill()
    struct.pack_into("<B7xQ", front.inflight.view, 16, 1, 9)
    front.ram.view[0:0x10000] = bytes(0x10000)
    layout.driver.avail_idx = layout.driver.used_idx = 0
    layout.fresh = True
    front.start()
    front.replay()
    assert served.request(BlkType.IN, 0, room=512)[0] == 0
    assert front.stop() == 0
    assert not any("come again" in line for line in front.logs)


def test_an_orderly_end_stores_and_exits_zero(disk, tmp_path):
    served = disk()
    assert served.request(BlkType.OUT, 0, b"\x42" * 512)[0] == 0
    assert served.front.stop() == 0
    assert (tmp_path / "disk.img").read_bytes()[:512] == b"\x42" * 512


def test_a_device_whose_keeper_goes_away_ends(disk):
    front = disk().front
    front.channel.close()
    assert front.process.wait(60) == 0


def test_the_heartbeat_goes_on_while_idle(disk):
    front = disk().front
    before, end = front.theirs.heartbeat, time.monotonic() + 60
    while front.theirs.heartbeat < before + 2:
        assert time.monotonic() < end
        time.sleep(0.05)


CRASHING = """
from devproc.device import Queue, VirtioDevice

class Crashing(VirtioDevice):
    device_id = 40
    queues = (Queue("requests", size=8),)

    def handle(self, request):
        if not request.again:
            raise ZeroDivisionError("a bug")
        request.write(b"again")
"""


def test_a_bug_ends_the_process_and_the_successor_gets_the_request(start, tmp_path, capfd):
    (tmp_path / "crashing.py").write_text(CRASHING)
    front = start(f"{tmp_path}/crashing.py:Crashing")
    front.negotiate()
    layout = front.add_queue(0, 8)
    front.driver_ok()
    struct.pack_into("<QIHH", front.ram.view, layout.desc, 0x8000_0000 + 0x20000, 5, 2, 0)
    front.native.publish(layout.driver, 0)
    front.notify(layout)
    assert front.process.wait(60) == 1
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
    front.kill()
    front.start()
    front.replay()
    assert front.wait_used(layout) == (0, 5)
    assert bytes(front.ram.view[0x20000:0x20005]) == b"again"
