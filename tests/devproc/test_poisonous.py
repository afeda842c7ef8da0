"""Real device processes that a request kills: it is found, answered with an I/O error, and the others are served."""

from __future__ import annotations

import struct

import pytest

from launcher.keeper.poison import Suspects, in_flight
from launcher.replay.frontend import GPA, QUEUE_SIZE, QUEUES
from proto.inflight import queue_region_size
from proto.pages import queue_statistics
from proto.virtio import BlkType, Status

DRIVER_OK = int(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)


class Keeper:
    """What the keeper does at each death of a device process."""

    def __init__(self, front) -> None:
        self.front = front
        self.suspects = Suspects()
        self.deaths = 0

    def replace(self) -> None:
        """The process is dead: whose fault was it? Start the next one."""
        front = self.front
        front.kill()
        self.deaths += 1
        assert self.deaths < 20
        page = front.device_page.view
        marks = {queue: queue_statistics(page, queue).marked for queue in range(QUEUES)}
        marked = {queue: mark - 1 for queue, mark in marks.items() if mark}
        self.suspects.died(in_flight(front.inflight.view, QUEUES, QUEUE_SIZE), marked, crash=True)
        condemned = [[flight.queue, flight.counter] for flight in self.suspects.condemned]
        front.start(careful=self.suspects.careful, condemned=condemned)
        self.replay()

    def replay(self) -> None:
        """What was settled; nobody waits for answers, which a process that dies again does not give."""
        front = self.front
        size = front.ram.area.size
        front.post("MEM_TABLE", {"regions": [{"region": 0, "gpa": GPA, "size": size, "writable": True}]})
        front.post("INFLIGHT", {"queues": QUEUES, "size": QUEUE_SIZE})
        front.post("FEATURES_OK", {"features": front.features})
        for layout in front.queues.values():
            places = {part: {"region": 0, "offset": getattr(layout, part)} for part in ("desc", "avail", "used")}
            front.post("RING_SETUP", {"queue": layout.index, "size": layout.num, "fresh": False, **places})
            front.post("RING_ENABLE", {"queue": layout.index, "enabled": True})
        front.post("STATUS", {"status": DRIVER_OK})


def serve(keeper: Keeper, layout, count: int) -> list[tuple[int, int]]:
    """Wait for so many used elements, replacing the process whenever it dies."""
    front, used = keeper.front, []
    while len(used) < count:
        element = front.native.take_used(layout.driver)
        if element != 0xFFFFFFFFFFFFFFFF:
            used.append((element & 0xFFFFFFFF, element >> 32))
        elif front.process.poll() is not None:
            keeper.replace()
        else:
            front.native.core_may_sleep(front.mine, front.theirs)
            if front.socket.poll(20):
                front.sleep()
            front.native.take_calls(front.mine, front.theirs)
            front.native.core_wakes(front.mine)
            front.native.ask_interrupt(layout.driver)
    return used


CRASHING = """
import os, select, signal
from devproc.device import Queue, VirtioDevice

class Crashing(VirtioDevice):
    device_id = 40
    queues = (Queue("a", size=64), Queue("b", size=64), Queue("c", size=64, in_order=True))

    def start(self):
        self.waiting = []
        self.timer, self.other = os.pipe()
        os.set_blocking(self.timer, False)
        self.watch(self.timer, self.wake)

    def handle(self, request):
        kind = request.read(1)
        if kind == b"D" or request.queue == 2:  # at once
            self.carry_out(request, kind)
            return
        request.defer()  # several under way at once
        self.waiting.append((request, kind))
        os.write(self.other, b"x")

    def wake(self):
        os.read(self.timer, 1)
        request, kind = self.waiting.pop(len(self.waiting) // 2)
        self.carry_out(request, kind)
        request.finish()

    def carry_out(self, request, kind):
        if kind == b"P":
            os.kill(os.getpid(), signal.SIGSEGV)
        request.write(b"done")

    def failed(self, request, error):
        request.write(b"EIO")
"""


def put(front, layout, head: int, kind: bytes) -> None:
    """One request of one byte, with room for four."""
    at = 0x200000 + 0x20000 * layout.index + 64 * head
    front.ram.view[at : at + 1] = kind
    front.ram.view[at + 16 : at + 20] = bytes(4)
    struct.pack_into("<QIHH", front.ram.view, layout.desc + 32 * head, 0x8000_0000 + at, 1, 1, 2 * head + 1)
    struct.pack_into("<QIHH", front.ram.view, layout.desc + 32 * head + 16, 0x8000_0000 + at + 16, 4, 2, 0)
    front.native.publish(layout.driver, 2 * head)


def answers(used) -> dict[int, int]:
    assert len({head for head, _ in used}) == len(used)
    return {head // 2: length for head, length in used}


@pytest.mark.parametrize(
    ("queue", "poison"),
    [
        (0, (0, 7)),
        (2, (5,)),
        pytest.param(0, (11,), marks=pytest.mark.slow),
        pytest.param(2, (0, 7), marks=pytest.mark.slow),
    ],
    ids=["any order", "in order", "any order, the last", "in order, two"],
)
def test_the_readable_path_finds_the_guilty_one_among_many(start, tmp_path, queue: int, poison) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    front = start(f"{tmp_path}/crashing.py:Crashing")
    front.negotiate()
    layouts = [front.add_queue(index, 64, index * 0x10000) for index in range(3)]
    front.driver_ok()
    layout = layouts[queue]
    for head in range(12):
        put(front, layout, head, b"P" if head in poison else b"H")
    front.notify(layout)
    keeper = Keeper(front)
    found = answers(serve(keeper, layout, 12))
    assert found == {head: 3 if head in poison else 4 for head in range(12)}
    assert keeper.deaths <= 2 + 2 * len(poison)
    put(front, layout, 0, b"H")  # the device goes on
    front.notify(layout)
    assert serve(keeper, layout, 1) == [(0, 4)]


def test_suspects_of_two_queues_are_tried_one_after_the_other(start, tmp_path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    front = start(f"{tmp_path}/crashing.py:Crashing")
    front.negotiate()
    one, other = (front.add_queue(index, 64, index * 0x10000) for index in range(2))
    front.driver_ok()
    for head in range(4):
        put(front, one, head, b"H")
        put(front, other, head, b"P" if head == 3 else b"H")
    front.notify(one)
    front.notify(other)
    keeper = Keeper(front)
    assert answers(serve(keeper, other, 4)) == {0: 4, 1: 4, 2: 4, 3: 3}
    assert answers(serve(keeper, one, 4)) == dict.fromkeys(range(4), 4)


def test_the_disk_s_machine_code_refuses_a_condemned_request_and_carries_out_the_others(disk, tmp_path) -> None:
    served = disk(bytes(1 << 20))
    front, layout = served.front, served.layout
    front.kill()
    for slot in range(8):
        served.submit(slot, BlkType.OUT, 8 * slot, bytes([slot + 1]) * 512)
    front.native.notify(layout.driver)  # what a process has taken, the driver had published
    for slot in range(6):  # as if it had died having taken six
        struct.pack_into("<B7xQ", front.inflight.view, 16 + 16 * (slot * 16), 1, slot + 1)
    front.start(careful=True, condemned=[[0, 3]])
    front.replay()
    assert len({front.wait_used(layout)[0] for _ in range(8)}) == 8
    assert [served.result(slot)[0] for slot in range(8)] == [0, 0, 1, 0, 0, 0, 0, 0]
    content = (tmp_path / "disk.img").read_bytes()
    assert [content[4096 * slot] for slot in range(8)] == [1, 2, 0, 4, 5, 6, 7, 8]
    assert queue_statistics(front.device_page.view, 0).marked == 0
    assert served.request(BlkType.OUT, 0, bytes(512))[0] == 0


WITHOUT_BEATS = """
import devproc.runtime
from devproc.device import Queue, VirtioDevice

devproc.runtime.HEARTBEAT = 3600  # what nobody has told the loop of, it does not find out by itself

class Plain(VirtioDevice):
    device_id = 40
    queues = (Queue("a", size=64), Queue("b", size=64))

    def handle(self, request):
        request.write(b"done")
"""


def test_what_waited_behind_the_suspects_is_served_without_being_told_again(start, tmp_path) -> None:
    """A process that has carried out the suspects of one queue looks at the others' before it sleeps."""
    (tmp_path / "plain.py").write_text(WITHOUT_BEATS)
    front = start(f"{tmp_path}/plain.py:Plain")
    front.negotiate()
    one, other = (front.add_queue(index, 64, index * 0x10000) for index in range(2))
    front.driver_ok()
    front.kill()
    for layout in (one, other):
        put(front, layout, 0, b"H")
        front.native.notify(layout.driver)
        at = layout.index * queue_region_size(QUEUE_SIZE)
        struct.pack_into("<B7xQ", front.inflight.view, at + 16, layout.index == 0, 1)
    front.start(careful=True)
    front.replay()
    assert front.wait_used(one) == (0, 4)
    assert front.wait_used(other) == (0, 4)


def test_a_counter_that_was_condemned_means_nothing_after_the_driver_s_reset(disk) -> None:
    served = disk(bytes(1 << 20))
    front, layout = served.front, served.layout
    front.kill()
    front.ram.view[0:0x10000] = bytes(0x10000)
    layout.driver.avail_idx = layout.driver.used_idx = 0
    layout.fresh = True
    front.start(careful=True, condemned=[[0, 1], [0, 2]])
    front.replay()
    assert [served.request(BlkType.IN, 0, room=512)[0] for _ in range(3)] == [0, 0, 0]
