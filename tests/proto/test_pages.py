"""Nobody sleeps through a notification, nobody is told twice for one sleep, and MMIO is carried out at most once."""

from __future__ import annotations

import pytest

from native.memory import Area
from proto import pages
from proto.errors import ProtocolError
from proto.pages import PAGE_SIZE, CoreStats, CoreToDevice, DeviceToCore, LinkMode


class Link:
    """Both pages, and both sides of them."""

    def __init__(self, mode: LinkMode = LinkMode.WORDS, epoch: int = 1) -> None:
        self.core_area, self.device_area = Area.allocate(PAGE_SIZE), Area.allocate(PAGE_SIZE)
        pages.format_core_page(self.core_area.view(), mode)
        pages.format_device_page(self.device_area.view())
        pages.reset_device_page(self.device_area.view(), epoch)
        self.core = CoreToDevice(self.core_area.address)
        self.device = DeviceToCore(self.device_area.address)
        pages.open_session(self.core, self.device, epoch, mode)

    def close(self) -> None:
        self.core_area.close()
        self.device_area.close()


@pytest.fixture
def link():
    link = Link()
    yield link
    link.close()


def test_a_sleeping_device_is_told_once_a_sleep(link):
    assert [pages.needs_kick(link.core, link.device, 0) for _ in range(3)] == [True, False, False]
    pages.device_wakes(link.device)
    assert not pages.needs_kick(link.core, link.device, 0)
    kicks = pages.device_lies_down(link.device, link.core)
    pages.device_quiet(link.device, kicks)
    assert link.device.quiet_at == link.core.kick_sequence == 4
    assert [pages.needs_kick(link.core, link.device, 1) for _ in range(2)] == [True, False]
    assert (link.core.kicks_sent, link.core.kicks_saved) == (2, 4)


def test_a_kick_that_could_not_be_sent_is_due_again(link):
    assert pages.needs_kick(link.core, link.device, 0)
    pages.kick_again(link.core, link.device)
    assert pages.needs_kick(link.core, link.device, 0)


def test_a_sleeping_core_is_called_once_a_sleep(link):
    assert [pages.signal_core(link.device, link.core, 0) for _ in range(3)] == [True, False, False]
    pages.core_wakes(link.core)
    assert not pages.signal_core(link.device, link.core, 0)
    assert pages.call_pending(link.core, link.device)
    assert pages.take_calls(link.core, link.device) == 4
    assert pages.take_calls(link.core, link.device) == 0
    assert pages.core_may_sleep(link.core, link.device)
    assert pages.signal_core(link.device, link.core, 0)
    pages.call_again(link.device, link.core)
    assert pages.signal_core(link.device, link.core, 0)


def test_the_last_hart_does_not_sleep_on_a_call(link):
    pages.core_wakes(link.core)
    assert not pages.signal_core(link.device, link.core, 0)
    assert not pages.core_may_sleep(link.core, link.device)


def test_with_messages_every_notification_is_one():
    link = Link(LinkMode.MESSAGES)
    pages.device_wakes(link.device)
    pages.core_wakes(link.core)
    assert all(pages.needs_kick(link.core, link.device, 0) for _ in range(3))
    assert all(pages.signal_core(link.device, link.core, 0) for _ in range(3))
    link.close()


def test_a_dead_predecessors_awake_word_counts_for_nothing(link):
    pages.device_wakes(link.device)
    pages.open_session(link.core, link.device, 2, LinkMode.WORDS)
    assert pages.needs_kick(link.core, link.device, 0)
    pages.reset_device_page(link.device_area.view(), 2)
    assert link.device.awake == 0 and link.device.epoch == 2


def test_calls_of_a_predecessor_stay_pending(link):
    pages.core_wakes(link.core)
    pages.signal_core(link.device, link.core, 0)
    pages.reset_device_page(link.device_area.view(), 2)
    pages.open_session(link.core, link.device, 2, LinkMode.WORDS)
    assert pages.call_pending(link.core, link.device)


def test_a_core_that_sleeps_while_a_session_opens_is_asleep_for_it(link):
    pages.core_wakes(link.core)
    assert pages.core_may_sleep(link.core, link.device)
    pages.reset_device_page(link.device_area.view(), 2)
    pages.open_session(link.core, link.device, 2, LinkMode.WORDS)
    assert pages.signal_core(link.device, link.core, 0)


def test_a_hart_that_runs_while_a_session_opens_is_awake_for_it(link):
    pages.core_wakes(link.core)
    pages.reset_device_page(link.device_area.view(), 2)
    pages.open_session(link.core, link.device, 2, LinkMode.WORDS)
    assert not pages.signal_core(link.device, link.core, 0)


def test_mmio_is_carried_out_at_most_once(link):
    assert pages.mmio_begin(link.device, 1)
    pages.reset_device_page(link.device_area.view(), 2)  # killed before it could say that it was done
    assert not pages.mmio_begin(link.device, 1)
    assert link.device.mmio_done == 0
    assert pages.mmio_begin(link.device, 2)
    pages.mmio_end(link.device, 2, 77)
    assert (link.device.mmio_done, link.device.mmio_value) == (2, 77)


def test_an_interrupt_line_is_told_of_when_it_changes(link):
    assert [pages.set_irq_level(link.device, level) for level in (0, 1, 1, 0)] == [False, True, False, True]


def test_counters_can_be_read_by_who_only_looks(link):
    queue = link.device.queues[3]
    queue.popped, queue.requests, queue.bytes_read = 9, 7, 4096
    counters = pages.queue_statistics(link.device_area.view(), 3)
    assert (counters.in_flight, counters.requests, counters.bytes_read) == (2, 7, 4096)
    assert pages.read_word(link.device_area.view(), DeviceToCore, "epoch", 4) == 1


def test_pages_of_another_version_are_refused(link):
    pages.check_pages(link.core_area.view(), link.device_area.view())
    link.device.layout_hash = 1
    with pytest.raises(ProtocolError, match="another version"):
        pages.check_pages(link.core_area.view(), link.device_area.view())
    with pytest.raises(ProtocolError, match="not a"):
        pages.check_pages(link.device_area.view(), link.device_area.view())


@pytest.mark.parametrize("record", [CoreToDevice, DeviceToCore, CoreStats])
def test_a_page_holds_its_record(record):
    assert record.size() <= PAGE_SIZE


WRITERS = {  # cache lines of each page that are written while the machine runs, by who writes them
    CoreToDevice: [{"awake", "sleeps"}, {"calls_seen"}, {"kick_sequence", "kick_latch"}, {"kicks"}],
    DeviceToCore: [{"awake", "sleeps", "quiet_at"}, {"heartbeat"}, {"mmio_started", "mmio_done"}, {"queues"}],
}


@pytest.mark.parametrize("record", WRITERS)
def test_words_of_different_purpose_share_no_cache_line(record):
    lines = [{record.offset(name) // 64 for name in group} for group in WRITERS[record]]
    assert all(len(line) == 1 for line in lines)
    assert len(set.union(*lines)) == len(lines)
