"""virtio-mmio registers: negotiation, queues, interrupts, configuration, resets that wait; whatever the device does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from core.board.poll import board_sleeps, board_tick, board_wakes
from core.board.power import board_stop
from core.events import EventKind
from core.virtio.mmio import (
    mmio_read,
    mmio_write,
    raise_irq,
    set_config,
    transport_answer,
    transport_needs_reset,
    transport_poll,
)
from core.virtio.transport import DeviceState
from native import Area
from proto.pages import CoreToDevice, DeviceToCore, format_core_page, format_device_page, open_session, signal_core
from proto.virtio import Interrupt, MmioRegister, Status

SLOT = 0
IRQ_LEVEL = 1 << 1
FEATURES = 1 << 32 | 1 << 28 | 1 << 9
DRIVER_UP = Status.ACKNOWLEDGE | Status.DRIVER


@pytest.fixture
def device(bench) -> Iterator[Device]:
    """A disk with two queues, its session open."""
    fake = Device(bench)
    yield fake
    fake.close()


class Device:
    """The device's side of slot 0: pages that a test writes as a device process would."""

    def __init__(self, bench) -> None:
        self.bench = bench
        self.transport = bench.board.transports[SLOT]
        self.areas = [Area.allocate(4096), Area.allocate(4096), Area.allocate(256)]
        format_core_page(self.areas[0].view())
        format_device_page(self.areas[1].view())
        self.core_page = CoreToDevice(self.areas[0].address)
        self.device_page = DeviceToCore(self.areas[1].address)
        self.transport.core_page = self.core_page.address
        self.transport.device_page = self.device_page.address
        self.transport.device_id = 2
        self.transport.device_features = FEATURES
        self.transport.nqueues = 2
        for queue in range(2):
            self.transport.queues[queue].num_max = 256
        self.set_config(bytes(range(60)), 0)
        self.device_page.epoch = 1
        open_session(self.core_page, self.device_page, 1, 0)
        self.transport.state = DeviceState.LIVE

    def close(self) -> None:
        for area in self.areas:
            area.close()

    def set_config(self, config: bytes, generation: int, interrupt: bool = False) -> None:
        self.areas[2].view()[: len(config)] = config
        set_config(self.bench.board, SLOT, self.areas[2].address, len(config), generation, interrupt)

    def read(self, register: int, size: int = 4) -> int:
        return mmio_read(self.bench.board, SLOT, register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        mmio_write(self.bench.board, SLOT, register, size, value)

    def call(self, queue: int = 0) -> None:
        signal_core(self.device_page, self.core_page, queue)

    def negotiate(self) -> None:
        """What a driver does until DRIVER_OK, with queue 0."""
        self.write(MmioRegister.Status, DRIVER_UP)
        for selector in (0, 1):
            self.write(MmioRegister.DriverFeaturesSel, selector)
            self.write(MmioRegister.DriverFeatures, FEATURES >> (32 * selector) & 0xFFFFFFFF)
        self.write(MmioRegister.Status, DRIVER_UP | Status.FEATURES_OK)
        self.write(MmioRegister.QueueSel, 0)
        self.write(MmioRegister.QueueNum, 128)
        self.write(MmioRegister.QueueDescLow, 0x80001000)
        self.write(MmioRegister.QueueDriverLow, 0x80002000)
        self.write(MmioRegister.QueueDeviceLow, 0x80003000)
        self.write(MmioRegister.QueueDeviceHigh, 1)
        self.write(MmioRegister.QueueReady, 1)
        self.write(MmioRegister.Status, DRIVER_UP | Status.FEATURES_OK | Status.DRIVER_OK)


def held(device: Device, action: Callable[[], None]) -> list[tuple[int, int, int, int]]:
    """Run `action`, which holds the hart, answering as the link thread would; what was posted before the answer."""
    hart = threading.Thread(target=action)
    hart.start()
    posted: list[tuple[int, int, int, int]] = []
    while hart.is_alive():
        posted += device.bench.events()
        if device.transport.requested != device.transport.replied:
            transport_answer(device.bench.board, SLOT)
        hart.join(0.001)
    return posted + device.bench.events()


def test_the_identity_is_that_of_virtio_mmio_2(device):
    assert device.read(MmioRegister.MagicValue).to_bytes(4, "little") == b"virt"
    assert device.read(MmioRegister.Version) == 2
    assert device.read(MmioRegister.DeviceID) == 2


def test_an_empty_slot_has_no_device(bench):
    assert mmio_read(bench.board, 5, MmioRegister.MagicValue, 4) == 0x74726976
    assert mmio_read(bench.board, 5, MmioRegister.DeviceID, 4) == 0
    mmio_write(bench.board, 5, MmioRegister.Status, 4, 1)
    mmio_write(bench.board, 5, MmioRegister.QueueNotify, 4, 0)
    assert mmio_read(bench.board, 5, MmioRegister.Status, 4) == 0
    assert bench.events() == []


def test_features_are_read_by_halves(device):
    device.write(MmioRegister.DeviceFeaturesSel, 0)
    assert device.read(MmioRegister.DeviceFeatures) == FEATURES & 0xFFFFFFFF
    device.write(MmioRegister.DeviceFeaturesSel, 1)
    assert device.read(MmioRegister.DeviceFeatures) == FEATURES >> 32
    device.write(MmioRegister.DeviceFeaturesSel, 2)
    assert device.read(MmioRegister.DeviceFeatures) == 0


def test_a_driver_negotiates_and_the_queue_is_as_it_set_it(device):
    device.negotiate()
    queue = device.transport.queues[0]
    assert (queue.num, queue.ready) == (128, 1)
    assert (queue.desc, queue.driver, queue.device) == (0x80001000, 0x80002000, 0x180003000)
    assert device.read(MmioRegister.Status) == DRIVER_UP | Status.FEATURES_OK | Status.DRIVER_OK
    assert [event[:3] for event in device.bench.events()] == [
        (EventKind.STATUS, SLOT, 3),
        (EventKind.STATUS, SLOT, 11),
        (EventKind.QUEUE, SLOT, 0),
        (EventKind.STATUS, SLOT, 15),
    ]


@pytest.mark.parametrize("accepted", [FEATURES | 1, FEATURES & 0xFFFFFFFF])
def test_features_that_were_not_offered_or_without_version_1_are_refused(device, accepted):
    device.write(MmioRegister.Status, DRIVER_UP)
    for selector in (0, 1):
        device.write(MmioRegister.DriverFeaturesSel, selector)
        device.write(MmioRegister.DriverFeatures, accepted >> (32 * selector) & 0xFFFFFFFF)
    device.write(MmioRegister.Status, DRIVER_UP | Status.FEATURES_OK)
    assert device.read(MmioRegister.Status) == DRIVER_UP


def test_features_are_settled_by_features_ok(device):
    device.negotiate()
    device.write(MmioRegister.DriverFeaturesSel, 0)
    device.write(MmioRegister.DriverFeatures, 0)
    assert device.transport.driver_features == FEATURES


def test_a_ready_queue_does_not_change(device):
    device.negotiate()
    device.write(MmioRegister.QueueNum, 64)
    device.write(MmioRegister.QueueDescLow, 0)
    assert device.transport.queues[0].num == 128
    assert device.transport.queues[0].desc == 0x80001000


def test_a_queue_larger_than_the_maximum_is_ignored(device):
    device.write(MmioRegister.QueueSel, 1)
    assert device.read(MmioRegister.QueueNumMax) == 256
    device.write(MmioRegister.QueueNum, 512)
    device.write(MmioRegister.QueueReady, 1)
    assert device.read(MmioRegister.QueueReady) == 0


def test_a_queue_that_does_not_exist_reads_zero(device):
    device.write(MmioRegister.QueueSel, 2)
    assert device.read(MmioRegister.QueueNumMax) == 0
    device.write(MmioRegister.QueueReady, 1)
    assert device.read(MmioRegister.QueueReady) == 0
    device.write(MmioRegister.QueueSel, 0xFFFFFFFF)
    assert device.read(MmioRegister.QueueReady) == 0


def test_a_notification_is_an_event_when_the_device_sleeps_once_a_sleep(device):
    device.negotiate()
    device.bench.events()
    device.write(MmioRegister.QueueNotify, 0)
    device.write(MmioRegister.QueueNotify, 0)
    assert device.bench.events() == [(EventKind.NOTIFY, SLOT, 0, 0)]
    device.device_page.sleeps = device.device_page.sleeps + 1
    device.write(MmioRegister.QueueNotify, 1)
    assert device.bench.events() == [(EventKind.NOTIFY, SLOT, 1, 0)]


def test_a_notification_is_a_word_when_the_device_is_awake(device):
    device.negotiate()
    device.bench.events()
    device.device_page.awake = 1
    before = device.core_page.kick_sequence
    device.write(MmioRegister.QueueNotify, 0)
    assert device.bench.events() == []
    assert device.core_page.kick_sequence == before + 1


def test_a_notification_of_a_queue_that_does_not_exist_is_ignored(device):
    device.write(MmioRegister.QueueNotify, 9)
    assert device.bench.events() == []


def test_a_call_interrupts_when_a_hart_looks_and_is_acknowledged(device):
    device.call()
    board_tick(device.bench.harts[0])
    assert device.read(MmioRegister.InterruptStatus) == Interrupt.USED_RING
    assert device.bench.board.plic.level == IRQ_LEVEL
    device.write(MmioRegister.InterruptACK, Interrupt.USED_RING)
    assert device.read(MmioRegister.InterruptStatus) == 0
    assert device.bench.board.plic.level == 0


def test_the_line_stays_high_until_every_bit_is_acknowledged(device):
    raise_irq(device.bench.board, SLOT, Interrupt.USED_RING | Interrupt.CONFIG)
    device.write(MmioRegister.InterruptACK, Interrupt.USED_RING)
    assert device.bench.board.plic.level == IRQ_LEVEL


def test_the_last_hart_to_sleep_says_so_and_takes_what_came_in_between(device):
    first, second = device.bench.harts
    board_wakes(first)
    board_wakes(second)
    assert device.core_page.awake == 1
    board_sleeps(first)
    assert device.core_page.awake == 1
    device.call()
    board_sleeps(second)
    assert device.core_page.awake == 0
    assert device.read(MmioRegister.InterruptStatus) == Interrupt.USED_RING


def test_a_sleeping_core_is_called_by_message_and_a_running_one_is_not(device):
    assert signal_core(device.device_page, device.core_page, 0)
    transport_poll(device.bench.board, device.transport)
    board_wakes(device.bench.harts[0])
    assert not signal_core(device.device_page, device.core_page, 0)


def test_configuration_reads_in_every_width(device):
    base = MmioRegister.Config
    assert device.read(base + 1, 1) == 1
    assert device.read(base + 2, 2) == 0x0302
    assert device.read(base + 4, 4) == 0x07060504
    assert device.read(base + 8, 8) == 0x0F0E0D0C0B0A0908
    assert device.read(base + 58, 4) == 0x3B3A
    assert device.read(base + 0x100, 4) == 0


def test_configuration_and_generation_change_together(device):
    device.set_config(b"\xff" * 60, 7, interrupt=True)
    assert device.read(MmioRegister.ConfigGeneration) == 7
    assert device.read(MmioRegister.Config, 8) == 0xFFFFFFFFFFFFFFFF
    assert device.read(MmioRegister.InterruptStatus) == Interrupt.CONFIG


def test_a_configuration_write_waits_for_the_device(device):
    posted = held(device, lambda: device.write(MmioRegister.Config + 32, 1, size=1))
    assert posted == [(EventKind.CONFIG_WRITE, SLOT, 32 | 1 << 32, 1)]


def test_a_configuration_write_past_the_end_is_ignored(device):
    device.write(MmioRegister.Config + 60, 1, size=1)
    assert device.bench.events() == []


def test_a_reset_waits_until_the_device_is_quiet_and_then_clears_everything(device):
    device.negotiate()
    raise_irq(device.bench.board, SLOT, Interrupt.USED_RING)
    device.bench.events()
    posted = held(device, lambda: device.write(MmioRegister.Status, 0))
    assert posted == [(EventKind.STATUS, SLOT, 0, 0)]
    assert device.read(MmioRegister.Status) == 0
    assert device.read(MmioRegister.InterruptStatus) == 0
    assert device.bench.board.plic.level == 0
    assert device.transport.driver_features == 0
    queue = device.transport.queues[0]
    assert (queue.ready, queue.num, queue.desc) == (0, 0, 0)
    assert queue.num_max == 256


def test_a_call_from_before_a_reset_does_not_interrupt_after_it(device):
    device.negotiate()
    device.call()
    held(device, lambda: device.write(MmioRegister.Status, 0))
    board_tick(device.bench.harts[0])
    assert device.read(MmioRegister.InterruptStatus) == 0


def test_a_reset_of_a_device_that_was_never_used_does_not_wait(device):
    device.write(MmioRegister.Status, 0)
    assert device.bench.events() == []


def test_stopping_a_queue_waits_until_the_device_has_let_go(device):
    device.negotiate()
    device.bench.events()
    posted = held(device, lambda: device.write(MmioRegister.QueueReady, 0))
    assert posted == [(EventKind.QUEUE, SLOT, 0, 0)]
    assert device.read(MmioRegister.QueueReady) == 0
    device.write(MmioRegister.QueueNum, 16)
    assert device.transport.queues[0].num == 16


def test_a_stopping_machine_does_not_wait_for_a_device(device):
    device.negotiate()
    device.bench.board.stopping = 1
    device.write(MmioRegister.Status, 0)
    assert device.read(MmioRegister.Status) & Status.DRIVER_OK


def test_an_order_to_stop_ends_the_wait_for_a_device(device):
    device.negotiate()
    hart = threading.Thread(target=lambda: device.write(MmioRegister.Status, 0))
    hart.start()
    while device.transport.requested == 0:
        pass
    board_stop(device.bench.board)
    hart.join(60)
    assert not hart.is_alive()


def test_a_reset_answered_too_late_takes_effect_at_the_next_access(device):
    device.negotiate()
    device.transport.requested = 1
    device.transport.reset_owed = 1
    assert device.read(MmioRegister.Status) != 0
    transport_answer(device.bench.board, SLOT)
    assert device.read(MmioRegister.Status) == 0


def test_the_device_may_fail_while_a_hart_waits_for_it(device):
    """The link thread must get through: the hart waits for an answer that only it can give."""
    device.negotiate()
    hart = threading.Thread(target=lambda: device.write(MmioRegister.Status, 0))
    hart.start()
    while device.transport.requested == 0:
        pass
    transport_needs_reset(device.bench.board, SLOT)
    transport_answer(device.bench.board, SLOT)
    hart.join(60)
    assert device.read(MmioRegister.Status) == 0


def test_needs_reset_is_shown_and_interrupts_a_running_driver(device):
    device.negotiate()
    transport_needs_reset(device.bench.board, SLOT)
    assert device.read(MmioRegister.Status) & Status.DEVICE_NEEDS_RESET
    assert device.read(MmioRegister.InterruptStatus) == Interrupt.CONFIG
    device.write(MmioRegister.Status, 0x0F)
    assert device.read(MmioRegister.Status) & Status.DEVICE_NEEDS_RESET
    held(device, lambda: device.write(MmioRegister.Status, 0))
    assert device.read(MmioRegister.Status) == 0


def test_registers_answer_while_the_device_is_gone(device):
    device.negotiate()
    device.transport.state = DeviceState.GONE
    assert device.read(MmioRegister.DeviceID) == 2
    assert device.read(MmioRegister.Status) & Status.DRIVER_OK
    device.bench.events()
    device.write(MmioRegister.QueueNotify, 0)
    assert len(device.bench.events()) == 1


def test_registers_are_read_whole(device):
    assert device.read(MmioRegister.MagicValue, 1) == 0
    device.write(MmioRegister.Status, 1, size=1)
    assert device.read(MmioRegister.Status) == 0
    assert device.read(MmioRegister.SHMLenLow) == 0xFFFFFFFF
