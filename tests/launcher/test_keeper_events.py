"""What the keeper tells those who watch, and that nobody who does not read keeps it from going on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.control import connect, events
from launcher.keeper.events import Events
from proto.channel import Channel
from proto.errors import DeadlineMissed

PROMPT = b"> "
Start = Callable[..., Any]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """A connection: the keeper's end, which does not block, and the watcher's."""
    ours, theirs = Channel.pair()
    os.set_blocking(ours.fileno(), False)
    with ours, theirs:
        yield ours, theirs


def test_an_event_has_a_name_an_id_and_a_time(ends: tuple[Channel, Channel]) -> None:
    told = Events()
    told.watch(ends[0])
    told.publish("DEVICE_DIED", "blk0", what="was killed")
    packet = ends[1].recv(1)
    assert packet.kind == "EVENT"
    assert packet.body.pop("time") > 1e9
    assert packet.body == {"name": "DEVICE_DIED", "id": "blk0", "what": "was killed"}


def test_who_does_not_read_loses_events_and_is_told_how_many(ends: tuple[Channel, Channel]) -> None:
    told = Events()
    told.watch(ends[0])
    for number in range(5000):
        told.publish("TICK", number=number)
    seen = []
    with pytest.raises(DeadlineMissed):
        while True:
            seen.append(ends[1].recv(0))
    assert [packet.body["number"] for packet in seen] == list(range(len(seen))) and len(seen) < 5000
    told.publish("TICK", number=5000)
    lost, last = ends[1].recv(1), ends[1].recv(1)
    assert (lost.kind, lost.body["count"]) == ("LOST", 5000 - len(seen))
    assert last.body["number"] == 5000


def test_who_has_gone_is_forgotten(ends: tuple[Channel, Channel]) -> None:
    told = Events()
    told.watch(ends[0])
    ends[1].close()
    told.publish("TICK")
    told.publish("TICK")


def test_a_machine_tells_its_story(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk, "--name", "story")
    machine.expect(PROMPT)
    with connect("story") as channel, connect("story") as silent:
        silent.send("WATCH")  # and never reads
        story = events(channel, 20.0)
        assert next(story)["name"] == "WATCHING"
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        died, restarted = next(story), next(story)
        assert (died["name"], died["id"], died["epoch"], died["restarts"]) == ("DEVICE_DIED", "blk0", 1, 1)
        assert "SIGKILL" in died["what"]
        assert (restarted["name"], restarted["id"], restarted["epoch"]) == ("DEVICE_RESTARTED", "blk0", 2)
        assert restarted["pid"] == machine.row("blk0")["pid"] and restarted["ms"] > 0
        assert bulkhead("restart", "blk0").returncode == 0
        assert next(story)["name"] == "DEVICE_RESTARTED"  # ordered: nobody died
        machine.type("exit 5\n")
        assert machine.wait() == 5
        last = list(story)
        assert [(event["name"], event["reason"], event["code"]) for event in last] == [("ENDING", "finisher", 5)]
