"""The core's side of a session, with a device end that the test plays over the real ZeroMQ endpoint."""

import itertools
import time

import pytest
import zmq

from core.link import HOLD_DEADLINE, DeviceLink, QueueState, Region
from proto.messages import VERSION, decode, encode
from proto.pages import layout_hash
from proto.virtio import Status

RAM = Region(0, 0x8000_0000, 0x10_0000)
QUEUE = QueueState(0, 8, 0x8000_1000, 0x8000_2000, 0x8000_3000)
RUNNING = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class FakePort:
    """Remembers what the link told the guest's half."""

    def __init__(self):
        self.status = 0
        self.driver_features = 1 << 32
        self.queues = []
        self.attached = []
        self.answers = []
        self.configs = []
        self.calls = 0
        self.failed_kicks = 0
        self.reset_needed = False
        self.gone = False

    def attach(self, hello, epoch):
        self.attached.append(epoch)

    def detach(self):
        self.gone = True

    def live_queues(self):
        return self.queues

    def configure(self, config, generation, interrupt):
        self.configs.append((config, generation, interrupt))

    def answer(self, value=0, sequence=0):
        self.answers.append((value, sequence))

    def needs_reset(self):
        self.reset_needed = True

    def take_calls(self):
        self.calls += 1

    def kick_failed(self):
        self.failed_kicks += 1


class DeviceEnd:
    """What a device process would be."""

    def __init__(self, context, endpoint, epoch):
        self.epoch = epoch
        self.seq = itertools.count(1)
        self.socket = context.socket(zmq.PAIR)
        self.socket.rcvtimeo = 30_000
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, name, body=None, **flags):
        flags = {"epoch": self.epoch, "seq": next(self.seq), **flags}
        self.socket.send(encode(name, body, **flags))

    def hello(self, **changes):
        body = {
            "id": "blk0",
            "epoch": self.epoch,
            "version": VERSION,
            "layout": layout_hash(),
            "pid": 1,
            "device_id": 2,
            "queues": [128],
            "features": 1 << 32,
            "config": b"\0" * 8,
            "config_generation": 0,
            "mmio_size": 0,
        }
        self.send("HELLO", {**body, **changes})

    def receive(self):
        return decode(self.socket.recv())

    def answer(self, request, body=None):
        self.send(request.name, body, seq=request.seq, reply=True)


class Rig:
    """A link, its fake port, and the reports to the keeper."""

    def __init__(self, tmp_path):
        self.context = zmq.Context()
        self.port = FakePort()
        self.reports = []
        self.directory = tmp_path
        self.link = DeviceLink(
            self.context, "blk0", self.port, [RAM], lambda kind, body: self.reports.append((kind, body)), 1024
        )
        self.ends = []

    def process(self, epoch):
        """A device process of `epoch` that has connected."""
        endpoint = f"ipc://{self.directory}/blk0.{epoch}"
        self.link.expect(epoch, endpoint)
        end = DeviceEnd(self.context, endpoint, epoch)
        self.ends.append(end)
        return end

    def session(self, epoch=1):
        """A session that is open, with what the core said while it opened."""
        end = self.process(epoch)
        before = self.link.sent
        end.hello()
        self.turn()
        assert end.receive().reply
        return end, [end.receive() for _ in range(self.link.sent - before - 1)]

    def turn(self):
        """Let the link handle the next message, when it has arrived."""
        assert self.link.socket.poll(30_000)
        self.link.receive()

    def close(self):
        self.link.close()
        for end in self.ends:
            end.socket.close(0)
        self.context.term()

    def kinds(self):
        return [kind for kind, _ in self.reports]


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_hello_attaches_and_tells_the_keeper(rig):
    _, said = rig.session()
    assert rig.port.attached == [1]
    assert rig.kinds() == ["SEEN", "CONNECTED"]
    seen = rig.reports[0][1]
    assert seen["epoch"] == 1 and {"device_id", "queues", "features", "config", "config_generation"} < set(seen)
    assert [message.name for message in said] == ["MEM_TABLE", "INFLIGHT"]


def test_a_successor_is_told_what_the_driver_had_settled(rig):
    rig.session(1)
    rig.link.gone()
    rig.port.status, rig.port.queues = RUNNING, [QUEUE]
    _, said = rig.session(2)
    names = [message.name for message in said]
    assert names == ["MEM_TABLE", "INFLIGHT", "FEATURES_OK", "RING_SETUP", "RING_ENABLE", "STATUS"]
    setup = said[3].body
    assert (setup["desc"], setup["size"]) == ({"region": 0, "offset": 0x1000}, 8)


@pytest.mark.parametrize(
    "change", [{"version": 99}, {"layout": 1}, {"id": "blk1"}, {"epoch": 7}], ids=["version", "layout", "id", "epoch"]
)
def test_a_hello_that_does_not_fit_is_refused_with_the_reason(rig, change):
    end = rig.process(1)
    end.hello(**change)
    rig.turn()
    refusal = end.receive()
    assert refusal.error and refusal.body["text"]
    assert rig.kinds() == ["REFUSED"] and not rig.link.up


def test_messages_of_another_epoch_are_dropped(rig):
    end, _ = rig.session(3)
    end.send("CALL", {"queue": 0}, epoch=2)
    end.send("CALL", {"queue": 0}, epoch=3)
    while rig.port.calls == 0:  # they come in order: after this one, the other has been seen
        rig.turn()
    assert rig.port.calls == 1


@pytest.mark.parametrize("data", [b"", b"BKHD", b"x" * 40, b"\0" * 2000], ids=["empty", "short", "magic", "long"])
def test_garbage_is_reported_and_the_session_goes_on(rig, data):
    end, _ = rig.session()
    end.socket.send(data)
    rig.turn()
    end.send("CALL", {"queue": 0})
    rig.turn()
    assert rig.port.calls == 1 and "LOG" in rig.kinds()


def test_a_reset_holds_the_hart_until_the_device_is_quiet(rig):
    end, _ = rig.session()
    rig.link.status_written(0)
    request = end.receive()
    assert request.name == "RESET" and rig.port.answers == []
    end.answer(request)
    rig.turn()
    assert rig.port.answers == [(0, 0)]


def test_a_reset_of_a_device_that_dies_is_answered_when_it_is_dead(rig):
    end, _ = rig.session()
    rig.link.status_written(0)
    assert end.receive().name == "RESET" and rig.port.answers == []
    rig.link.gone()
    assert rig.port.answers == [(0, 0)] and rig.port.gone


def test_a_reset_without_a_process_is_answered_at_once(rig):
    rig.session()
    rig.link.gone()
    rig.link.status_written(0)
    assert rig.port.answers == [(0, 0)]


def test_a_reset_while_a_process_starts_waits_for_its_hello(rig):
    end = rig.process(1)
    rig.link.status_written(0)
    assert rig.port.answers == []
    end.hello()
    rig.turn()
    assert rig.port.answers == [(0, 0)]


def test_a_device_that_does_not_answer_in_time_is_reported_once(rig):
    end, said = rig.session()
    for request in said:
        end.answer(request)
        rig.turn()
    rig.link.status_written(0)
    assert end.receive().name == "RESET"
    now = time.monotonic()
    assert not rig.link.overdue(now)
    assert rig.link.overdue(now + 2 * HOLD_DEADLINE)
    assert not rig.link.overdue(now + 2 * HOLD_DEADLINE)
    assert rig.link.overdue(now + 4 * HOLD_DEADLINE)  # the keeper may have had its reasons: it is told again
    assert rig.kinds().count("OVERDUE") == 2


def test_a_kick_that_cannot_be_sent_is_remembered(rig):
    rig.session()
    rig.link.gone()
    rig.link.notify(0)
    assert rig.port.failed_kicks == 1


def test_rings_outside_memory_are_the_drivers_fault(rig):
    rig.session()
    rig.port.status, rig.port.queues = RUNNING, [QueueState(0, 8, 0x1000, 0x2000, 0x3000)]
    rig.link.status_written(RUNNING)
    assert rig.port.reset_needed
    assert any("not in memory" in body.get("text", "") for _, body in rig.reports)


def test_a_configuration_change_reaches_the_guest(rig):
    end, _ = rig.session()
    end.send("CONFIG_CHANGED", {"config": b"\1\2", "generation": 5})
    rig.turn()
    assert rig.port.configs == [(b"\1\2", 5, True)]
    answer = end.receive()
    assert answer.reply and answer.name == "CONFIG_CHANGED"


def test_what_is_garbled_on_the_way_is_reported_and_means_nothing(rig):
    end, _ = rig.session()
    rig.link.noise(garbled=1000)
    for _ in range(20):
        end.send("CONFIG_CHANGED", {"config": b"\1\2", "generation": 5})
        rig.turn()
    assert rig.port.configs == [] and rig.kinds().count("LOG") == 20
    rig.link.noise()
    assert rig.reports[-1][1]["text"] == "blk0: messages: 0 lost, 20 garbled, 0 doubled, 0 whole"


def test_an_old_device_that_is_not_told_to_go_on_after_a_swap_is_found_out(rig):
    end, _ = rig.session()
    rig.link.handover.candidate(2, f"ipc://{rig.directory}/blk0.2")
    rig.link.handover.quiesce(2, False)
    end.answer(end.receive(), {"in_flight": 0})
    rig.turn()
    assert end.receive().name == "SAVE"
    rig.link.handover.abandon(2)
    assert end.receive().name == "RESUME"
    assert rig.link.overdue(time.monotonic() + 3)
    assert rig.reports[-1][0] == "OVERDUE" and "RESUME" in rig.reports[-1][1]["request"]


def test_an_mmio_read_is_answered_with_its_sequence_number(rig):
    end, _ = rig.session()
    rig.link.mmio_read(4, 4, 17)
    request = end.receive()
    assert request.body == {"offset": 4, "size": 4, "sequence": 17}
    end.answer(request, {"value": 0xABCD})
    rig.turn()
    assert rig.port.answers == [(0xABCD, 17)]
