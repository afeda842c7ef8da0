"""The core's word that a device serves may come when the device is dead again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.keeper.recovery import Recovery


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def publish(self, name: str, id: str, **data: Any) -> None:
        self.told.append((name, data["epoch"]))


@pytest.mark.parametrize("late", [False, True])
def test_a_dead_device_does_not_serve_whatever_the_core_says_of_it(late: bool) -> None:
    events = Events()
    quarantine = SimpleNamespace(
        bundle=lambda member: "", decide=lambda member, delay: None, state_of=lambda member: ("running", "")
    )
    supervisor: Any = SimpleNamespace(events=events, quarantine=quarantine, tell_core=lambda member, what: None)
    recovery = Recovery(supervisor)
    member: Any = SimpleNamespace(
        id="blk0", epoch=4, state="running", reason="", wanted=False, young_deaths=0, restarts=0, child=None
    )
    recovery.restart(member, 9.0, "was killed by SIGKILL")
    if late:
        recovery.serves(member)
        assert member.state == "restarting"
    member.epoch, member.child = 5, SimpleNamespace(pid=7)
    recovery.serves(member)
    assert events.told == [("DEVICE_DIED", 4), ("DEVICE_RESTARTED", 5)]
    assert member.state == "running"
