"""Rules in a real device process: requests are held, failed, dropped, delayed and changed, before the device sees them
and before the driver gets them back; nothing of it hangs, is lost by a kill, or stays when the rules are gone."""

from __future__ import annotations

import os
import time

import pytest

from proto.errors import DeadlineMissed
from proto.faults import RULES_SIZE, TALLY_SIZE, Rule, Tally
from proto.virtio import BlkStatus, BlkType

ONE = b"\x11" * 512


class Ruled:
    """A disk with rules, and what its process says of those that it holds."""

    def __init__(self, disk, tmp_path, **more):
        self.tally_fd = os.memfd_create("tally")
        os.ftruncate(self.tally_fd, RULES_SIZE)
        self.image = tmp_path / "disk.img"
        self.disk = disk(bytes(1 << 20), lent={"rules": self.tally_fd}, **more)
        self.front = self.disk.front
        self.rules = []
        self.held = []

    def set(self, *rules):
        """These rules from now on, by slot."""
        texts = [{"device": "dev0", "slot": slot, **rule} for slot, rule in enumerate(rules)]
        self.rules = [Rule.parse(rule).as_dict() for rule in texts]
        self.front.channel.send("RULES", {"rules": self.rules}, {"rules": self.tally_fd})
        self.until(lambda packet: packet.body["rules"] == len(rules))

    def order(self, then, **more):
        """Say what becomes of everything that is held."""
        keys = [[row["queue"], row["number"]] for row in self.held]
        self.front.channel.send("HELD", {"then": then, "keys": keys, "data": b"", "offset": 0, **more})

    def until_held(self, count):
        """Wait until so many are held."""
        self.until(lambda packet: len(self.held) == count)
        return self.held

    def until(self, condition, seconds=60.0):
        """Hear the process until it says so."""
        end = time.monotonic() + seconds
        while True:
            packet = self.front.channel.recv(max(0.0, end - time.monotonic()))
            packet.close()
            if packet.kind == "HELD":
                self.held = packet.body["held"]
                if condition(packet):
                    return

    def succeed(self):
        """A successor of the process, which was killed."""
        self.front.start(rules=self.rules)
        self.front.replay()

    def content(self, sector):
        return self.image.read_bytes()[512 * sector : 512 * sector + 512]

    def counts(self, slot=0):
        return Tally(memoryview(os.pread(self.tally_fd, TALLY_SIZE, 0))).counts(slot)


@pytest.fixture
def ruled(disk, tmp_path):
    made = []

    def begin(**more):
        made.append(Ruled(disk, tmp_path, **more))
        return made[-1]

    yield begin
    for one in made:
        os.close(one.tally_fd)


def nothing_is_used(disk, seconds=0.3):
    with pytest.raises(DeadlineMissed):
        disk.front.wait_used(disk.layout, seconds)


def test_held_before_the_device_sees_it_and_let_go(ruled):
    seen = ruled()
    seen.set({"match": "op == WRITE and sector < 8"})
    disk = seen.disk
    assert disk.request(BlkType.OUT, 8, ONE)[0] == BlkStatus.OK
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    (held,) = seen.until_held(1)
    assert (held["op"], held["at"], held["queue"]) == ("WRITE", "pop", 0)
    assert "sector 4" in held["words"]
    nothing_is_used(disk)
    assert seen.content(4) == bytes(512)
    assert disk.request(BlkType.IN, 8, room=512) == (BlkStatus.OK, ONE)  # the others go on
    seen.order("go")
    assert disk.front.wait_used(disk.layout)[0] == 16
    assert disk.result(1)[0] == BlkStatus.OK
    assert seen.content(4) == ONE
    assert seen.until_held(0) == []
    assert seen.counts() == (1, 1)


def test_held_before_it_is_given_back(ruled):
    seen = ruled()
    seen.set({"match": "op == WRITE and status == OK", "at": "complete"})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    assert seen.content(4) == ONE
    nothing_is_used(disk)
    seen.order("fail")
    disk.front.wait_used(disk.layout)
    assert disk.result(1)[0] == BlkStatus.IOERR


@pytest.mark.parametrize(("then", "status", "there"), [("fail", BlkStatus.IOERR, False), ("drop", BlkStatus.OK, False)])
def test_what_becomes_of_a_held_request(ruled, then, status, there):
    seen = ruled()
    seen.set({"match": "op == WRITE"})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    seen.order(then)
    disk.front.wait_used(disk.layout)
    assert disk.result(1)[0] == status
    assert (seen.content(4) == ONE) == there


@pytest.mark.parametrize(("action", "status"), [("fail", BlkStatus.IOERR), ("drop", BlkStatus.OK)])
def test_actions_of_rules(ruled, action, status):
    seen = ruled()
    seen.set({"match": "op == WRITE", "action": action})
    assert seen.disk.request(BlkType.OUT, 4, ONE)[0] == status
    assert seen.content(4) == bytes(512)


def test_the_third_flush_fails(ruled):
    seen = ruled()
    seen.set({"match": "op == FLUSH", "action": "fail", "skip": 2, "count": 1})
    assert [seen.disk.request(BlkType.FLUSH)[0] for _ in range(5)] == [0, 0, BlkStatus.IOERR, 0, 0]
    assert seen.counts() == (5, 1)


def test_every_third_and_by_chance(ruled):
    """The same driver sees the same faults again."""
    seen = ruled()
    seen.set({"match": "op == READ", "action": "fail", "every": 3})
    assert [seen.disk.request(BlkType.IN, 0, room=512)[0] for _ in range(7)] == [0, 0, 1, 0, 0, 1, 0]
    rule = Rule.parse({"device": "dev0", "action": "fail", "probability": 0.5, "seed": 7, "slot": 1})
    wanted = [int(rule.takes(number, 0)) for number in range(20)]
    assert 3 < sum(wanted) < 17
    for _ in range(2):
        Tally(seen_view := memoryview(bytearray(TALLY_SIZE))).clear(1)
        os.pwrite(seen.tally_fd, seen_view, 0)
        seen.set({"match": "op == FLUSH"}, {"match": "op == READ", "action": "fail", "probability": 0.5, "seed": 7})
        assert [seen.disk.request(BlkType.IN, 0, room=512)[0] for _ in range(20)] == wanted


def test_delay(ruled):
    seen = ruled()
    seen.set({"match": "op == WRITE", "action": "delay=300ms"})

    def seconds(kind, *arguments, **more):
        began = time.monotonic()
        assert seen.disk.request(kind, 4, *arguments, **more)[0] == BlkStatus.OK
        return time.monotonic() - began

    assert seconds(BlkType.OUT, ONE) >= 0.3
    assert min(seconds(BlkType.IN, room=512) for _ in range(20)) < 0.3  # the host may be busy with something else
    assert seen.content(4) == ONE


def test_bytes_are_changed_for_the_device_and_for_the_driver(ruled):
    """What the device reads is a copy: the guest's own buffer stays."""
    seen = ruled()
    seen.set(
        {"match": "op == WRITE", "action": "set 2222@-2"},
        {"match": "op == READ", "at": "complete", "action": "set 33@0"},
        {"match": "op == FLUSH", "at": "complete", "action": "set 02@-1"},
    )
    disk = seen.disk
    assert disk.request(BlkType.OUT, 4, ONE)[0] == BlkStatus.OK
    assert seen.content(4) == ONE[:-2] + b"\x22\x22"
    assert bytes(disk.front.ram.view[0x100000 + 64 : 0x100000 + 64 + 512]) == ONE
    assert disk.request(BlkType.IN, 4, room=512) == (BlkStatus.OK, b"\x33" + ONE[1:-2] + b"\x22\x22")
    assert disk.request(BlkType.FLUSH)[0] == BlkStatus.UNSUPP


def test_a_held_request_is_changed(ruled):
    """The sector of a write, in the request's header."""
    seen = ruled()
    seen.set({"match": "op == WRITE"})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    seen.order("change", data=b"\x09", offset=8)
    disk.front.wait_used(disk.layout)
    assert disk.result(1)[0] == BlkStatus.OK
    assert (seen.content(4), seen.content(9)) == (bytes(512), ONE)


def test_reset_and_quiesce_do_not_wait_for_what_is_held(ruled):
    seen = ruled()
    seen.set({"match": "op == WRITE"})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    assert disk.front.request("QUIESCE")["in_flight"] == 1
    seen.order("go")
    assert seen.content(4) == bytes(512)
    disk.front.request("RESUME")
    disk.front.wait_used(disk.layout)
    assert seen.content(4) == ONE
    disk.submit(2, BlkType.OUT, 5, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    disk.front.request("RESET")
    seen.until_held(0)
    assert seen.content(5) == bytes(512)


def test_a_held_request_outlives_a_kill(ruled):
    """The successor has the rules from START, holds it again, and counts it once."""
    seen = ruled()
    seen.set({"match": "op == WRITE", "skip": 1})
    disk = seen.disk
    assert disk.request(BlkType.OUT, 1, ONE)[0] == BlkStatus.OK
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    for _ in range(2):
        disk.front.kill()
        seen.held = []
        seen.succeed()
        seen.until_held(1)
        assert seen.counts() == (2, 1)
    seen.order("go")
    assert disk.front.wait_used(disk.layout)[0] == 16
    assert seen.content(4) == ONE


def test_without_rules_what_was_held_goes_on_natively(ruled):
    seen = ruled()
    seen.set({})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    seen.set()
    disk.front.wait_used(disk.layout)
    assert seen.content(4) == ONE
    assert disk.request(BlkType.IN, 4, room=512) == (BlkStatus.OK, ONE)


def test_the_heartbeat_goes_on_while_something_is_held(ruled):
    seen = ruled()
    seen.set({})
    disk = seen.disk
    disk.submit(1, BlkType.OUT, 4, ONE)
    disk.front.notify(disk.layout)
    seen.until_held(1)
    before, end = disk.front.theirs.heartbeat, time.monotonic() + 60
    while disk.front.theirs.heartbeat < before + 3:
        assert time.monotonic() < end
        time.sleep(0.05)
