"""Doorbells: a byte in a pipe, rung only for who sleeps and listens, and by nobody in the mode MESSAGES."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from native import Unit
from native.memory import Area
from proto import doorbell, pages
from proto.doorbell import NO_BELL, POLLIN, PollFd, Signal, make_doorbell
from proto.pages import LinkMode
from tests.proto.test_pages import Link

Bell = tuple[int, int]


@pytest.fixture
def bell() -> Iterator[Bell]:
    ends = make_doorbell()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(params=["python", "native"])
def code(request):
    """The functions, as Python and as machine code."""
    functions = [doorbell.ring_bell, doorbell.silence_bell, doorbell.poll_ns]
    if request.param == "native":
        return Unit("doorbell-test", exports=functions).load()
    return doorbell


def rings(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_what_is_rung_is_heard_once(code, bell):
    listens, end = bell
    assert not rings(listens)
    for _ in range(100):  # more than is read at once
        assert code.ring_bell(end)
    assert rings(listens)
    code.silence_bell(listens)
    assert not rings(listens)
    code.silence_bell(listens)  # nothing to take: it does not wait
    assert code.ring_bell(end) and rings(listens)


def test_nobody_waits_for_a_listener_that_does_not_listen(code, bell):
    listens, end = bell
    for _ in range(2 * doorbell.CAPACITY):
        assert code.ring_bell(end)  # also when no byte fits any more: it has been rung
    assert rings(listens)


def test_who_rings_without_end_is_listened_to_once(code, bell):
    """A device may make its pipe larger, and fill it as fast as it is emptied: others are to be heard, too."""
    listens, end = bell
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 16 * doorbell.CAPACITY)
    os.write(end, bytes(3 * doorbell.CAPACITY))
    code.silence_bell(listens)
    assert len(os.read(listens, 16 * doorbell.CAPACITY)) == 2 * doorbell.CAPACITY


def test_a_listener_cannot_make_the_other_side_wait(bell):
    listens, end = bell
    os.set_blocking(listens, True)
    assert not os.get_blocking(end)


def test_a_bell_without_a_listener_says_so(code):
    listens, end = make_doorbell()
    os.close(listens)
    try:
        assert not code.ring_bell(end)
    finally:
        os.close(end)


def test_a_sleep_ends_when_one_rings_or_it_is_over(code, bell):
    listens, end = bell
    with Area.allocate(PollFd.size()) as area:
        entry = PollFd(area.address)
        entry.fd, entry.events = listens, POLLIN
        assert not code.poll_ns(area.address, 1, 1_000_000)
        code.ring_bell(end)
        assert code.poll_ns(area.address, 1, 60_000_000_000)
        assert entry.revents == POLLIN


@pytest.fixture(params=[LinkMode.WORDS, LinkMode.MESSAGES])
def link(request):
    link = Link(request.param)
    yield link
    link.close()


def test_a_device_rings_for_a_core_that_sleeps(link, bell):
    listens, end = bell
    words = link.core.mode == LinkMode.WORDS
    assert doorbell.call_core(link.device, link.core, 0, end) == (Signal.BELL if words else Signal.MESSAGE)
    assert rings(listens) == words
    doorbell.silence_bell(listens)
    again = doorbell.call_core(link.device, link.core, 0, end)
    assert again == (Signal.NOTHING if words else Signal.MESSAGE) and not rings(listens)
    pages.core_wakes(link.core)
    assert doorbell.call_core(link.device, link.core, 0, end) == again and not rings(listens)


def test_without_a_doorbell_there_are_messages():
    link = Link()
    assert doorbell.call_core(link.device, link.core, 0, NO_BELL) == Signal.MESSAGE
    link.device.listens = 1
    assert doorbell.kick_device(link.core, link.device, 0, NO_BELL) == Signal.MESSAGE
    link.close()


@pytest.mark.parametrize("listens_in", [0, 1, 2])
def test_the_core_rings_for_a_process_that_listens(bell, listens_in):
    """One of another epoch does not, or did not live to."""
    link = Link(epoch=2)
    link.device.listens = listens_in
    expected = Signal.BELL if listens_in == 2 else Signal.MESSAGE
    assert doorbell.kick_device(link.core, link.device, 0, bell[1]) == expected
    assert rings(bell[0]) == (listens_in == 2)
    assert doorbell.kick_device(link.core, link.device, 0, bell[1]) == Signal.NOTHING
    link.close()


def test_a_successor_does_not_listen_yet():
    link = Link()
    link.device.listens = 1
    pages.reset_device_page(link.device_area.view(), 2)
    assert link.device.listens == 0
    link.close()
