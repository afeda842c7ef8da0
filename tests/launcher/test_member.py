"""What the keeper holds for a device: the descriptor store, and what START says."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.keeper import member as members
from launcher.keeper.member import Member, core_start, device_start, make_device_memory, make_machine_memory, row_of
from launcher.machine.description import RAM_BASE, Device, Machine, Serial
from proto.channel import Channel
from proto.pages import DeviceToCore

MACHINE = Machine(
    "m",
    memory=8 << 20,
    harts=2,
    serial=Serial("none"),
    devices=(
        Device("blk0", "blk", "blk", properties={"ro": "on"}, backend="file:/x"),
        Device("box0", "mailbox", "mailbox", "mmio", mmio_size=0x1800, compatible="a,b"),
        Device("box1", "mailbox", "mailbox", "mmio", mmio_size=0x1000),
        Device("rng0", "rng", "rng"),
    ),
)


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member("blk0", "blk", MACHINE.devices[0], tmp_path / "log")


def pipe_end() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def test_the_store_gives_back_what_it_was_given(member: Member) -> None:
    ours, theirs = Channel.pair()
    member.child = SimpleNamespace(send=lambda kind, body, fds: ours.send(kind, body, fds))  # type: ignore[assignment]
    fds = {f"file{number}": pipe_end() for number in range(100)}  # more than one packet takes
    inodes = {name: os.fstat(fd).st_ino for name, fd in fds.items()}
    assert member.keep(fds) == list(inodes) and not fds
    member.drop(["file3", "unknown"])
    member.give()
    back = {}
    while len(back) < 99:
        packet = theirs.recv(1)
        assert packet.kind == "STORED" and packet.body["names"] == list(packet.fds)
        back.update({name: os.fstat(fd).st_ino for name, fd in packet.fds.items()})
        packet.close()
    del inodes["file3"]
    assert back == inodes
    member.close()
    assert not member.store
    ours.close()
    theirs.close()


def test_a_full_store_takes_no_more(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_STORED", 2)
    fds = {name: pipe_end() for name in "abc"}
    assert member.keep(fds) == ["a", "b"]
    again = {"a": pipe_end()}
    assert member.keep(again) == ["a"]  # replaces
    os.close(fds["c"])
    member.close()


def test_every_device_has_its_place() -> None:
    places = MACHINE.places()
    assert places["blk0"] == {"slot": 0, "irq": 1}
    assert places["rng0"] == {"slot": 1, "irq": 2}
    assert places["box0"] == {"slot": None, "irq": 12, "address": 0x10010000, "size": 0x2000, "compatible": "a,b"}
    assert (places["box1"]["address"], places["box1"]["irq"]) == (0x10012000, 13)


def test_a_description_travels_whole() -> None:
    assert Machine.from_dict(MACHINE.as_dict()) == MACHINE


def test_start_says_what_the_contract_says(member: Member) -> None:
    shared = make_machine_memory(MACHINE)
    make_device_memory(member, MACHINE)
    member.next_epoch()
    with device_start(MACHINE, member, shared, "ipc:///x") as (body, fds):
        assert set(fds) == {
            "region0",
            "dirty0",
            "core_to_device",
            "device_to_core",
            "inflight",
            "trace",
            "kick",
            "call",
        }
        assert (body["id"], body["epoch"], body["backend"]) == ("blk0", 1, "file:/x")
        assert body["regions"] == [{"id": 0, "gpa": RAM_BASE, "size": MACHINE.memory}]
        for closed in ("core_to_device", "kick"):
            with pytest.raises(OSError):
                os.write(fds[closed], b"x")  # a device only reads the core's page, and does not ring its own bell
    body, fds = core_start(MACHINE, [member], {"blk0": "ipc:///x"})
    assert set(fds) == {f"blk0.{name}" for name in ("core_to_device", "device_to_core", "kick", "call")}
    assert body["devices"][0]["slot"] == 0 and body["machine"]["harts"] == 2
    row = row_of(member, shared)
    assert (row["id"], row["pid"], row["epoch"], row["requests"]) == ("blk0", None, 1, 0)
    member.close()
    for segment in shared.values():
        segment.close()


def test_segments_have_no_name_and_all_their_pages() -> None:
    shared = make_machine_memory(MACHINE)
    status = os.fstat(shared["ram0"].fd)
    assert status.st_nlink == 0
    assert status.st_blocks * 512 >= MACHINE.memory
    for segment in shared.values():
        segment.close()


def test_who_has_called_has_served(member: Member) -> None:
    """Whatever the core has said so far: a request may kill its device before the core says that it is there."""
    make_device_memory(member, MACHINE)
    member.next_epoch()
    page = member.segments["device_to_core"].view()
    at = DeviceToCore.offset("call_sequence")
    for count in (7, 8):
        assert not member.has_served()
        page[at : at + 4] = count.to_bytes(4, "little")
        assert member.has_served()
        member.next_epoch()
    page.release()
    member.close()
