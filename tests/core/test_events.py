"""The event queue: what is accepted arrives once and in order, and a sleeping consumer is always woken."""

import os
import select
import threading

import pytest

from core import events
from core.cpu.engine import load_engine
from core.events import CAPACITY, Event, EventKind, create_queue
from native import Area


class PythonRun:
    """The same functions, run as Python."""

    post_event = staticmethod(events.post_event)
    take_event = staticmethod(events.take_event)
    may_sleep = staticmethod(events.may_sleep)


@pytest.fixture(params=["python", "native"])
def engine(request):
    return PythonRun if request.param == "python" else load_engine()


@pytest.fixture
def queue():
    area, queue = create_queue()
    scratch = Area.allocate(Event.size())
    yield queue, Event(scratch.address)
    os.close(queue.wakeup)
    scratch.close()
    area.close()


def take_all(engine, queue, event):
    taken = []
    while engine.take_event(queue, event):
        taken.append((event.kind, event.slot, event.a, event.b))
    return taken


def test_events_arrive_once_and_in_order(engine, queue):
    ring, event = queue
    sent = [(EventKind.NOTIFY, slot, slot * 3, 1 << 63) for slot in range(10)]
    for one in sent:
        assert engine.post_event(ring, *one)
    assert take_all(engine, ring, event) == sent
    assert take_all(engine, ring, event) == []


def test_a_full_ring_refuses_and_loses_nothing(engine, queue):
    ring, event = queue
    accepted = 0
    while engine.post_event(ring, EventKind.STATUS, 0, accepted, 0):
        accepted += 1
    assert accepted == CAPACITY
    assert [a for _, _, a, _ in take_all(engine, ring, event)] == list(range(CAPACITY))
    assert engine.post_event(ring, EventKind.STATUS, 0, 7, 0)


def test_posting_wakes_a_consumer_that_sleeps_and_only_once(engine, queue):
    ring, event = queue
    assert engine.may_sleep(ring)
    engine.post_event(ring, EventKind.NOTIFY, 0, 0, 0)
    engine.post_event(ring, EventKind.NOTIFY, 0, 1, 0)
    assert os.eventfd_read(ring.wakeup) == 1
    assert len(take_all(engine, ring, event)) == 2


def test_a_consumer_does_not_go_to_sleep_on_an_event(engine, queue):
    ring, _ = queue
    engine.post_event(ring, EventKind.NOTIFY, 0, 0, 0)
    assert not engine.may_sleep(ring)
    assert select.select([ring.wakeup], [], [], 0)[0] == []


def test_several_threads_post_while_one_takes(queue):
    engine = load_engine()
    ring, event = queue
    each = 20_000

    def produce(slot):
        for number in range(each):
            while not engine.post_event(ring, EventKind.NOTIFY, slot, number, 0):
                pass

    threads = [threading.Thread(target=produce, args=(slot,)) for slot in range(3)]
    for thread in threads:
        thread.start()
    seen = {slot: [] for slot in range(3)}
    while sum(map(len, seen.values())) < 3 * each:
        if engine.take_event(ring, event):
            seen[event.slot].append(event.a)
        elif engine.may_sleep(ring):
            assert select.select([ring.wakeup], [], [], 10)[0], "the consumer slept on an event"
            os.eventfd_read(ring.wakeup)
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(each)) for numbers in seen.values())
