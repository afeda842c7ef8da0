"""A disk behind a relay, at the ring: what a driver sees, and what it sees of deaths on either side: nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ring_disk import Disk

from launcher.replay.frontend import FrontEnd
from proto.errors import DeadlineMissed
from proto.faults import RULES_SIZE, Rule
from proto.virtio import BlkStatus, BlkType


def test_a_disk_behind_a_relay_is_a_disk(disk: Callable[..., Any], tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    served, _ = disk(content)
    assert int.from_bytes(served.front.hello["config"][:8], "little") == 2048
    assert served.request(BlkType.IN, 3, room=4096, pieces=3) == (BlkStatus.OK, content[1536 : 1536 + 4096])
    data = os.urandom(8192)
    assert served.request(BlkType.OUT, 8, data, pieces=2)[0] == BlkStatus.OK
    assert served.request(BlkType.FLUSH)[0] == BlkStatus.OK
    assert (tmp_path / "disk.img").read_bytes()[4096 : 4096 + 8192] == data
    assert served.request(BlkType.IN, 2048, room=512)[0] == BlkStatus.IOERR
    assert served.request(BlkType.GET_ID, room=20)[1].startswith(b"disk.img")
    assert served.request(99, room=1)[0] == BlkStatus.UNSUPP


def test_the_device_has_no_guest_memory_mapped(disk: Callable[..., Any]) -> None:
    served, behind = disk()
    served.request(BlkType.IN, 0, room=512)
    maps = Path(f"/proc/{behind.process.pid}/maps").read_text()
    assert "memfd:ram" not in maps and "memfd:inflight" not in maps and "memfd:core-to-device" not in maps
    held = [os.readlink(fd) for fd in Path(f"/proc/{behind.process.pid}/fd").iterdir() if fd.is_symlink()]
    assert not any("memfd:ram" in name for name in held)
    assert "memfd:ram" in Path(f"/proc/{served.front.process.pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["relay", "device", "both"])
def test_kill_9_loses_nothing(disk: Callable[..., Any], tmp_path: Path, who: str) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    served, behind = disk(options=f"pause:when={gate}:")
    front, size = served.front, 4096
    blocks = [os.urandom(size) for _ in range(8)]
    for slot, block in enumerate(blocks):
        served.submit(slot, BlkType.OUT, slot * 8, block)
    front.notify(served.layout)
    with pytest.raises(DeadlineMissed):
        front.wait_used(served.layout, 0.5)  # the gate is shut
    if who in ("device", "both"):
        behind.kill()
    if who in ("relay", "both"):
        front.kill()
        front.start()
        front.replay()
    gate.unlink()
    if who in ("device", "both"):
        behind.start()
    heads = {front.wait_used(served.layout, 20)[0] for _ in blocks}
    assert heads == {slot * 16 for slot in range(8)}
    assert [served.result(slot)[0] for slot in range(8)] == [BlkStatus.OK] * 8
    assert (tmp_path / "disk.img").read_bytes()[: 8 * size] == b"".join(blocks)
    for slot in range(4):
        assert served.request(BlkType.IN, slot * 8, room=size) == (BlkStatus.OK, blocks[slot])


@pytest.mark.slow
def test_a_killed_relay_comes_back_while_its_device_is_away(disk: Callable[..., Any]) -> None:
    served, behind = disk(b"\x5a" * (1 << 20))
    front = served.front
    behind.kill()
    served.submit(0, BlkType.IN, 0, room=512)
    front.notify(served.layout)
    front.kill()
    front.start()
    front.replay()
    with pytest.raises(DeadlineMissed):
        front.wait_used(served.layout, 0.5)
    behind.start()
    assert front.wait_used(served.layout, 20)[0] == 0
    assert served.result(0, 512) == (BlkStatus.OK, b"\x5a" * 512)


def test_a_reset_waits_for_nobody(disk: Callable[..., Any]) -> None:
    served, behind = disk(b"\x11" * (1 << 20))
    front = served.front
    behind.kill()
    served.submit(0, BlkType.IN, 0, room=512)
    front.notify(served.layout)
    assert front.request("RESET") == {}
    front.queues.pop(0).area.close()
    front.negotiate(front.features)
    served.layout = front.add_queue(0, 256)
    front.driver_ok()
    behind.start()
    for _ in range(3):
        assert served.request(BlkType.IN, 0, room=512) == (BlkStatus.OK, b"\x11" * 512)


def test_configuration_is_written_and_read_back(disk: Callable[..., Any]) -> None:
    served, behind = disk()
    writeback = 32  # offset in struct virtio_blk_config
    assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK  # there is a connection
    answer = served.front.request("CONFIG_SET", {"offset": writeback, "data": b"\0"})
    assert answer["config"][writeback] == 0
    behind.kill()
    behind.start()
    assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK
    assert served.front.request("CONFIG_GET")["config"][writeback] == 0


@pytest.mark.slow
def test_another_disk_may_be_served_and_nothing_else(
    disk: Callable[..., Any], far: Callable[..., Any], tmp_path: Path
) -> None:
    served, behind = disk(b"\x11" * (1 << 20))
    assert served.request(BlkType.IN, 0, room=512) == (BlkStatus.OK, b"\x11" * 512)
    behind.kill()
    behind.describe("9p", str(tmp_path), {"tag": "t"})
    behind.start()
    served.submit(0, BlkType.IN, 0, room=512)
    served.front.notify(served.layout)
    with pytest.raises(DeadlineMissed):
        served.front.wait_used(served.layout, 2)
    behind.kill()
    (tmp_path / "larger.img").write_bytes(b"\x22" * (2 << 20))
    behind.describe("blk", f"file:{tmp_path}/larger.img", {})
    behind.start()
    assert served.front.wait_used(served.layout, 30)[0] == 0
    assert served.result(0, 512) == (BlkStatus.OK, b"\x22" * 512)
    assert int.from_bytes(served.front.request("CONFIG_GET")["config"][:8], "little") == 4096


@pytest.mark.slow
def test_a_request_that_kills_three_processes_is_refused(disk: Callable[..., Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    served, behind = disk(options=f"pause:when={gate}:")
    served.submit(0, BlkType.IN, 0, room=512)
    served.front.notify(served.layout)
    deaths = 0
    while True:
        with contextlib.suppress(DeadlineMissed):
            served.front.wait_used(served.layout, 2)
            break
        behind.kill()  # perhaps before it has been sent the request
        behind.start()
        deaths += 1
        assert deaths < 20
    assert deaths >= 3 and served.result(0, 512)[0] == BlkStatus.IOERR
    gate.unlink()
    assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK


@pytest.mark.slow
def test_another_machine_gets_the_device_when_the_first_is_gone(disk: Callable[..., Any]) -> None:
    served, behind = disk(b"\x77" * (1 << 20))
    assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK  # this one is the first
    with FrontEnd("relay", {"endpoint": behind.endpoint}) as second:
        second.start()  # what the device is, it is told
        second.negotiate()
        other = Disk(second, second.add_queue(0, 256))
        second.driver_ok()
        other.submit(0, BlkType.IN, 0, room=512)
        second.notify(other.layout)
        with pytest.raises(DeadlineMissed):
            second.wait_used(other.layout, 2)
        assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK
        served.front.kill()
        assert second.wait_used(other.layout, 30)[0] == 0
        assert other.result(0, 512) == (BlkStatus.OK, b"\x77" * 512)


@pytest.mark.slow
def test_rules_stop_requests_at_the_relay(disk: Callable[..., Any], tmp_path: Path) -> None:
    """While there are rules Python pops; what was sent before, and what is held meanwhile, is answered all the same."""
    gate = tmp_path / "gate"
    served, _ = disk(b"\x33" * (1 << 20), options=f"pause:when={gate}:")
    front = served.front
    assert served.request(BlkType.IN, 0, room=512)[0] == BlkStatus.OK
    gate.touch()
    served.submit(0, BlkType.IN, 0, room=512)
    front.notify(served.layout)
    tally = os.memfd_create("tally")
    os.ftruncate(tally, RULES_SIZE)
    rule = Rule.parse({"device": "dev0", "slot": 0, "match": "op == READ and sector == 8"})
    front.channel.send("RULES", {"rules": [rule.as_dict()]}, {"rules": tally})
    held = hear_held(front, 0)
    served.submit(1, BlkType.IN, 8, room=512)
    front.notify(served.layout)
    held = hear_held(front, 1)
    served.submit(2, BlkType.IN, 16, room=512)  # which the rule does not concern: it is sent
    front.notify(served.layout)
    gate.unlink()
    answered = {front.wait_used(served.layout, 60)[0] for _ in range(2)}
    assert answered == {0, 32}
    keys = [[row["queue"], row["number"]] for row in held]
    front.channel.send("HELD", {"then": "go", "keys": keys, "data": b"", "offset": 0})
    assert front.wait_used(served.layout, 60)[0] == 16
    front.channel.send("RULES", {"rules": []}, {"rules": tally})
    os.close(tally)
    for slot in range(3):
        assert served.result(slot, 512) == (BlkStatus.OK, b"\x33" * 512)
    assert served.request(BlkType.IN, 0, room=512) == (BlkStatus.OK, b"\x33" * 512)


def hear_held(front: FrontEnd, count: int) -> list[dict[str, Any]]:
    """Wait until the relay says that so many are held."""
    while True:
        packet = front.channel.recv(60)
        packet.close()
        if packet.kind == "HELD" and len(packet.body["held"]) == count:
            held: list[dict[str, Any]] = packet.body["held"]
            return held
