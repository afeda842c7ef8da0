"""The guest-visible half of a device, as the link thread sees it: a virtio slot, or an MMIO window.

A port is what `core.link.DeviceLink` fills in and asks (its `Port`); the state itself is in the board's records, where
harts read and write it. Everything that must be atomic with what a hart does goes through the engine's native
functions; here is only the translation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.board.state import Board
from core.candidate import feature_names
from core.link import QueueState
from core.virtio.transport import CONFIG_BYTES, DeviceState
from native import Area
from proto.doorbell import NO_BELL
from proto.errors import ProtocolError
from proto.pages import CoreToDevice, DeviceToCore, LinkMode
from proto.virtio import Status


class Pages:
    """A device's two control pages, mapped for the life of the machine."""

    def __init__(self, engine: Any, core_page: Area, device_page: Area, mode: LinkMode, bell: int = NO_BELL) -> None:
        self.engine = engine
        self.core_page = core_page
        self.device_page = device_page
        self.mode = mode
        self.bell = bell  # rings at the device

    def open(self, epoch: int) -> None:
        """A process of `epoch` has said HELLO."""
        self.engine.open_session(
            CoreToDevice(self.core_page.address), DeviceToCore(self.device_page.address), epoch, self.mode
        )

    def kick_failed(self) -> None:
        """A KICK was not sent: the next notification is sent again."""
        self.engine.kick_again(CoreToDevice(self.core_page.address), DeviceToCore(self.device_page.address))


class VirtioPort:
    """A virtio-mmio slot."""

    def __init__(self, engine: Any, board: Board, slot: int, pages: Pages) -> None:
        self.engine = engine
        self.board = board
        self.slot = slot
        self.pages = pages
        self.transport = board.transports[slot]
        self.transport.core_page = pages.core_page.address
        self.transport.device_page = pages.device_page.address
        self.transport.bell = pages.bell
        self.transport.state = DeviceState.STARTING
        self._buffer = Area.allocate(CONFIG_BYTES)

    @property
    def status(self) -> int:
        """The virtio device status register."""
        return self.transport.status

    @property
    def driver_features(self) -> int:
        """The features that the driver has accepted."""
        return self.transport.driver_features

    def check(self, hello: dict[str, Any]) -> None:
        """What the guest has already seen must still be true; raises ProtocolError otherwise."""
        transport = self.transport
        if transport.device_id not in (0, hello["device_id"]):
            raise ProtocolError(f"virtio device {hello['device_id']}, the guest knows {transport.device_id}")
        if transport.status & Status.FEATURES_OK and transport.driver_features & ~hello["features"]:
            missing = feature_names(hello["device_id"], transport.driver_features & ~hello["features"])
            raise ProtocolError(f"features that the driver uses are missing: {missing}", field="features")
        if len(hello["queues"]) < transport.nqueues and transport.status:
            raise ProtocolError(f"{len(hello['queues'])} queues, the guest knows {transport.nqueues}", field="queues")
        for queue in self.live_queues():
            if queue.size > hello["queues"][queue.index]:
                text = f"queue {queue.index} of {hello['queues'][queue.index]} entries, the driver uses {queue.size}"
                raise ProtocolError(text, field="queues")

    def attach(self, hello: dict[str, Any], epoch: int) -> None:
        """A process is there. Raises ProtocolError when it does not fit."""
        self.check(hello)
        transport = self.transport
        transport.device_id = hello["device_id"]
        transport.device_features = hello["features"]
        for index, size in enumerate(hello["queues"]):
            transport.queues[index].num_max = size
        transport.nqueues = len(hello["queues"])
        changed = bool(transport.config_size) and self.config() != hello["config"]
        self.configure(hello["config"], hello["config_generation"], interrupt=changed)
        self.pages.open(epoch)
        transport.state = DeviceState.LIVE

    def detach(self) -> None:
        """The process is gone; the registers stay."""
        self.transport.state = DeviceState.GONE

    def config(self) -> bytes:
        """The cached configuration space."""
        return bytes(self.transport.config[index] for index in range(self.transport.config_size))

    def live_queues(self) -> Iterable[QueueState]:
        """The queues whose QueueReady is 1."""
        for index in range(self.transport.nqueues):
            queue = self.transport.queues[index]
            if queue.ready:
                yield QueueState(index, queue.num, queue.desc, queue.driver, queue.device)

    def configure(self, config: bytes, generation: int, interrupt: bool) -> None:
        """Put a new configuration space in force; `interrupt` tells the driver, if it runs."""
        config = config[:CONFIG_BYTES]
        self._buffer.view()[: len(config)] = config
        running = bool(self.transport.status & Status.DRIVER_OK)
        self.engine.set_config(
            self.board, self.slot, self._buffer.address, len(config), generation, interrupt and running
        )

    def answer(self, value: int = 0, sequence: int = 0) -> None:
        """Release the hart that waits."""
        self.engine.transport_answer(self.board, self.slot)

    def needs_reset(self) -> None:
        """The device cannot go on."""
        self.engine.transport_needs_reset(self.board, self.slot)

    def take_calls(self) -> None:
        """Raise the interrupt that is due."""
        self.engine.transport_poll(self.board, self.transport)

    def kick_failed(self) -> None:
        """The next notification must be sent again."""
        self.pages.kick_failed()


class WindowPort:
    """The registers of a device that is not virtio."""

    status = 0
    driver_features = 0

    def __init__(self, engine: Any, board: Board, index: int, pages: Pages) -> None:
        self.engine = engine
        self.board = board
        self.index = index
        self.pages = pages
        self.window = board.windows[index]
        self.window.core_page = pages.core_page.address
        self.window.device_page = pages.device_page.address
        self.engine.window_state(board, index, DeviceState.STARTING)

    def check(self, hello: dict[str, Any]) -> None:
        """Its registers must fit the window; raises ProtocolError otherwise."""
        if hello["device_id"] or not 0 < hello["mmio_size"] <= self.window.length:
            raise ProtocolError(
                f"{hello['mmio_size']} bytes of registers in a window of {self.window.length}", field="mmio_size"
            )

    def config(self) -> bytes:
        """It has none."""
        return b""

    def attach(self, hello: dict[str, Any], epoch: int) -> None:
        """A process is there. Raises ProtocolError when it does not fit."""
        self.check(hello)
        self.pages.open(epoch)
        self.engine.window_state(self.board, self.index, DeviceState.LIVE)

    def detach(self) -> None:
        """The process is gone: reads are all ones until the next one."""
        self.engine.window_state(self.board, self.index, DeviceState.GONE)

    def live_queues(self) -> Iterable[QueueState]:
        """It has none."""
        return ()

    def configure(self, config: bytes, generation: int, interrupt: bool) -> None:
        """It has no configuration space."""

    def answer(self, value: int = 0, sequence: int = 0) -> None:
        """Answer read `sequence`; a hart that has given it up takes no notice."""
        self.engine.window_answer(self.board, self.index, sequence, value)

    def needs_reset(self) -> None:
        """A virtio notion."""

    def take_calls(self) -> None:
        """Follow the interrupt line, and let go whoever waits for posted writes."""
        self.engine.window_progress(self.board, self.index)

    def kick_failed(self) -> None:
        """It gets no kicks."""
