"""Looking before sleeping: when a hart in WFI watches its devices, and when it stops doing so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.bare import BareMachine
from core.cpu.linger import LINGER_NS, STRIKES
from core.cpu.state import Hart
from core.cpu.status import MIP_MSIP
from native import Area
from proto.pages import PAGE_SIZE, CoreToDevice, DeviceToCore, LinkMode

EPOCH = 3


class Pages:
    """The control pages of a device in slot 0, which is awake."""

    def __init__(self, machine: BareMachine) -> None:
        self.areas = Area.allocate(PAGE_SIZE), Area.allocate(PAGE_SIZE)
        self.core, self.device = CoreToDevice(self.areas[0].address), DeviceToCore(self.areas[1].address)
        self.core.epoch = self.device.epoch = self.device.awake = EPOCH
        board = machine.board
        board.nslots, board.running_harts = 1, 1
        board.transports[0].core_page, board.transports[0].device_page = self.core.address, self.device.address


@pytest.fixture
def pages(machine: BareMachine) -> Iterator[Pages]:
    made = Pages(machine)
    yield made
    machine.board.transports[0].core_page = 0
    for area in made.areas:
        area.close()


@pytest.fixture
def ready(hart: Hart, pages: Pages) -> Hart:
    """A hart that looks, and has notified the device."""
    hart.mie = MIP_MSIP
    hart.lingering = 1
    pages.core.kick_sequence = 1
    return hart


def test_what_comes_while_looking_keeps_the_hart_awake(engine, ready):
    ready.mip = MIP_MSIP
    assert engine.linger(ready)
    assert ready.lingering == 1


def test_a_request_of_another_hart_ends_the_look(engine, ready):
    ready.attention = 1
    assert engine.linger(ready)


def test_looking_in_vain_ends_lingering(engine, ready, pages):
    for number in range(STRIKES):
        assert ready.lingering == 1
        pages.core.kick_sequence = 2 + number
        assert not engine.linger(ready)
    assert (ready.lingering, ready.linger_trials) == (0, 1)


def test_each_failure_doubles_the_sleeps_before_the_next_trial(engine, ready, pages):
    trials = []
    for number in range(3):
        for attempt in range(STRIKES):
            pages.core.kick_sequence = 10 * number + attempt + 2
            engine.linger(ready)
        sleeps = 0
        while ready.lingering == 0:
            engine.slept(ready, LINGER_NS)
            sleeps += 1
        trials.append(sleeps)
    assert trials == [2, 4, 8]


def test_without_traffic_nobody_looks(engine, ready):
    ready.mip = MIP_MSIP
    engine.linger(ready)
    assert not engine.linger(ready)


def test_a_call_is_traffic_too(engine, ready, pages):
    ready.mip = MIP_MSIP
    engine.linger(ready)
    pages.device.call_sequence = 1
    assert engine.linger(ready)


def not_lingering(hart, board, pages):
    hart.lingering = 0


def device_asleep(hart, board, pages):
    pages.device.awake = 0


def predecessor_awake(hart, board, pages):
    pages.device.awake = EPOCH - 1


def messages_only(hart, board, pages):
    pages.core.mode = LinkMode.MESSAGES


def another_hart_runs(hart, board, pages):
    board.running_harts = 2


def lockstep(hart, board, pages):
    board.clint.lockstep = 1


@pytest.mark.parametrize(
    "reason", [not_lingering, device_asleep, predecessor_awake, messages_only, another_hart_runs, lockstep]
)
def test_reasons_not_to_look(engine, machine, ready, pages, reason):
    reason(ready, machine.board, pages)
    ready.mip = MIP_MSIP
    assert not engine.linger(ready)


def test_long_sleeps_start_no_trial(engine, ready):
    engine.linger(ready)
    ready.lingering = 0
    for _ in range(10):
        engine.slept(ready, 10 * LINGER_NS)
    assert ready.lingering == 0
    engine.slept(ready, LINGER_NS)
    engine.slept(ready, LINGER_NS)
    assert ready.lingering == 1
