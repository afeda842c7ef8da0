"""The least that stands around one device process: keeper, core and guest memory in one object.

For replays, tests and measurements of devices without a machine. It makes the segments, starts a process
(`python -m devproc.main`), answers HELLO, sets up queues and lets the caller drive them; it can kill the process and
start a successor of the next epoch, to which it replays what a core would. Nothing it makes outlives `close`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from devproc.needs import needs_of
from launcher.keeper.child import module_command, module_environment
from launcher.replay.driver import Driver, Transport, load_driver
from native.memory import Area
from proto.channel import ENVIRONMENT, Channel, Packet
from proto.doorbell import NO_BELL, make_doorbell
from proto.errors import ChannelClosed, DeadlineMissed, ProtocolError
from proto.inflight import region_size
from proto.messages import MESSAGES, Message, decode, encode
from proto.pages import (
    PAGE_SIZE,
    CoreToDevice,
    DeviceToCore,
    LinkMode,
    format_core_page,
    format_device_page,
    reset_device_page,
)
from proto.virtio import Feature, Status, bit

__all__ = ["GPA", "QUEUES", "QUEUE_SIZE", "FrontEnd", "Outlet", "QueueLayout", "Segment"]

GPA = 0x8000_0000
RAM_SIZE = 32 << 20
QUEUES, QUEUE_SIZE = 16, 1024
DEADLINE = 60.0  # seconds; a busy host takes its time to start a process, and none is lost where all goes well


class Segment:
    """A shared segment of this process: a descriptor and a mapping."""

    def __init__(self, name: str, size: int) -> None:
        self.fd = os.memfd_create(name)
        os.ftruncate(self.fd, size)
        self.area = Area.map_fd(self.fd, size)
        self.view = self.area.view()

    def close(self) -> None:
        self.view.release()
        self.area.close()
        os.close(self.fd)


@dataclass
class QueueLayout:
    """Where a queue's rings are, as offsets in RAM, and the driver that fills them."""

    index: int
    num: int
    desc: int
    avail: int
    used: int
    driver: Driver
    fresh: bool = True
    area: Area = field(repr=False, default=None)  # type: ignore[assignment]


class Outlet:
    """A real outlet process (`devproc.outlet`) and the channel to it, whose ends outlive both sides."""

    def __init__(self, targets: list[str]) -> None:
        self.device_end, self._outlet_end = Channel.pair()
        self._targets = targets
        self.start()

    def start(self) -> None:
        """A process, the first or a successor."""
        self.channel, theirs = Channel.pair()
        with theirs:
            self.process = subprocess.Popen(
                module_command("devproc.outlet"),
                env=module_environment() | {ENVIRONMENT: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
        body = {"id": "dev0.outlet", "targets": self._targets, "log_level": 10}
        self.channel.send("START", body, {"requests": self._outlet_end.fileno()})

    def kill(self) -> None:
        """kill -9, and wait until the process is dead."""
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def close(self) -> None:
        """End it, and let the channel go."""
        self.kill()
        self.device_end.close()
        self._outlet_end.close()


class FrontEnd:
    """One device process and everything round it."""

    def __init__(
        self,
        device: str,
        properties: dict[str, Any] | None = None,
        *,
        backend: str = "",
        mode: LinkMode = LinkMode.WORDS,
        ram_size: int = RAM_SIZE,
        lent: dict[str, int] | None = None,
    ) -> None:
        """`lent` are descriptors that the device is given by name, in every epoch; they stay the caller's."""
        self.folder = tempfile.TemporaryDirectory(prefix="bulkhead-")
        self.ram = Segment("ram", ram_size)
        self.dirty = Segment("dirty", ram_size >> 12)
        self.core_page = Segment("core-to-device", PAGE_SIZE)
        self.device_page = Segment("device-to-core", PAGE_SIZE)
        self.inflight = Segment("inflight", region_size(QUEUES, QUEUE_SIZE))
        format_core_page(self.core_page.view, mode)
        format_device_page(self.device_page.view)
        self.mine = CoreToDevice(self.core_page.area.address)
        self.theirs = DeviceToCore(self.device_page.area.address)
        self.native = load_driver()
        self.mode = mode
        words = mode == LinkMode.WORDS
        self._kick, self._call = (make_doorbell() if words else None for _ in range(2))
        self.epoch = 0
        self.hello: dict[str, Any] = {}
        self.features = 0
        self.queues: dict[int, QueueLayout] = {}
        self.calls = 0  # CALL messages received
        self.kicks = 0  # KICK messages sent
        self.posted: list[Message] = []  # everything else the device sent by itself
        self.logs: list[str] = []
        self._answered: set[tuple[int, int]] = set()  # epoch and seq of what the device wants to be answered
        self.failure = ""  # what the device said when it failed
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: Channel | None = None
        self.socket: zmq.Socket[bytes] | None = None
        self._context: zmq.Context[Any] = zmq.Context()
        self.command = module_command("devproc.main")  # how the process is started
        self.deadline = DEADLINE  # seconds for an answer of the device
        self._device = {"device": device, "properties": properties or {}, "backend": backend}
        self._lent = lent or {}
        self.outlet: Outlet | None = None  # what connects for the device, which has no sockets
        if targets := needs_of(device, backend, properties).targets:
            self.outlet = Outlet(targets)
            self._lent = {**self._lent, "outlet": self.outlet.device_end.fileno()}
        self._ram_size = ram_size
        self._seq = 0

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self, **more: Any) -> dict[str, Any]:
        """Start a process of the next epoch, and wait for its HELLO, which is returned. `more` is added to its START.
        Raises RuntimeError with what a FAILED packet said."""
        self.epoch += 1
        reset_device_page(self.device_page.view, self.epoch)
        endpoint = f"ipc://{self.folder.name}/{self.epoch}"
        self.socket = self._context.socket(zmq.PAIR)
        self.socket.linger = 0
        self.socket.bind(endpoint)
        ours, theirs = Channel.pair()
        self.channel = ours
        theirs_fd = theirs.fileno()
        self.process = subprocess.Popen(
            self.command,
            env=module_environment() | {ENVIRONMENT: str(theirs_fd)},
            pass_fds=[theirs_fd],
        )
        theirs.close()
        descriptors = {
            "region0": self.ram.fd,
            "dirty0": self.dirty.fd,
            "core_to_device": self.core_page.fd,
            "device_to_core": self.device_page.fd,
            "inflight": self.inflight.fd,
            **({"kick": self._kick[0], "call": self._call[1]} if self._kick and self._call else {}),
            **self._lent,
        }
        body = {
            "id": "dev0",
            "role": "device",
            "epoch": self.epoch,
            "machine": "test",
            "endpoint": endpoint,
            "regions": [{"id": 0, "gpa": GPA, "size": self._ram_size}],
            "log_level": 10,
            **self._device,
            **more,
        }
        core_page = os.open(f"/proc/self/fd/{self.core_page.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ours.send("START", body, descriptors | {"core_to_device": core_page})
        finally:
            os.close(core_page)
        message = self._await_hello()
        self.native.open_session(self.mine, self.theirs, self.epoch, self.mode)
        self._send("HELLO", {}, seq=message.seq, reply=True)
        self.hello = message.body
        return self.hello

    def kill(self) -> None:
        """kill -9, and wait until the process is dead."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._disconnect()

    def stop(self) -> int:
        """An orderly end. Returns the exit status."""
        assert self.process is not None and self.channel is not None
        try:
            self.channel.send("STOP")
            while True:
                self._packet(self.channel.recv(DEADLINE))
        except ChannelClosed:
            pass
        status = self.process.wait(DEADLINE)
        self._disconnect()
        return status

    def close(self) -> None:
        """End whatever runs and let every segment go."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._disconnect()
        for queue in self.queues.values():
            queue.area.close()
        for segment in (self.ram, self.dirty, self.core_page, self.device_page, self.inflight):
            segment.close()
        for end in (*(self._kick or ()), *(self._call or ())):
            os.close(end)
        self._kick = self._call = None
        if self.outlet is not None:
            self.outlet.close()
        self._context.destroy(0)
        self.folder.cleanup()

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the session -----------------------------------------------------------------------------------------------

    def request(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises ProtocolError with the text of a refusal."""
        self._seq += 1
        seq = self._seq
        self._send(name, body or {}, seq=seq)
        while True:
            message = self._receive(self.deadline)
            if message.reply and message.seq == seq:
                if message.error:
                    raise ProtocolError(message.body["text"], field=message.body["code"])
                return message.body
            self._take(message)

    def post(self, name: str, body: dict[str, Any]) -> None:
        """Send a message that has no answer."""
        self._seq += 1
        self._send(name, body, seq=self._seq)

    def negotiate(self, features: int | None = None) -> None:
        """Memory, in-flight table, features: everything before the queues."""
        wanted = self.hello["features"] if features is None else features
        self.features = wanted | bit(Feature.VERSION_1)
        self.request("MEM_TABLE", {"regions": [{"region": 0, "gpa": GPA, "size": self._ram_size, "writable": True}]})
        self.request("INFLIGHT", {"queues": QUEUES, "size": QUEUE_SIZE})
        self.request("FEATURES_OK", {"features": self.features})

    def add_queue(self, index: int = 0, num: int = 256, at: int = 0) -> QueueLayout:
        """Lay a queue out in RAM at offset `at` and have it served."""
        area = Area.allocate(Driver.size())
        driver = Driver(area.address, area)
        layout = QueueLayout(index, num, at, at + 0x8000, at + 0xA000, driver, area=area)
        driver.num = num
        driver.event_idx = int(bool(self.features & bit(Feature.RING_EVENT_IDX)))
        host = self.ram.area.address
        driver.desc, driver.avail, driver.used = host + layout.desc, host + layout.avail, host + layout.used
        driver.transport, driver.queue = Transport.LINK, index
        driver.mine, driver.theirs = self.mine.address, self.theirs.address
        driver.rings = self._kick[1] if self._kick else NO_BELL
        driver.listens = self._call[0] if self._call else NO_BELL
        self.queues[index] = layout
        self.enable(index)
        return layout

    def enable(self, index: int) -> None:
        """RING_SETUP and RING_ENABLE of a queue that was laid out."""
        layout = self.queues[index]
        body: dict[str, Any] = {"queue": index, "size": layout.num, "fresh": layout.fresh}
        for name in ("desc", "avail", "used"):
            body[name] = {"region": 0, "offset": getattr(layout, name)}
        self.request("RING_SETUP", body)
        self.request("RING_ENABLE", {"queue": index, "enabled": True})
        layout.fresh = False

    def driver_ok(self) -> None:
        """The driver is ready."""
        status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
        self.request("STATUS", {"status": int(status)})

    def replay(self) -> None:
        """Tell a successor everything that had been settled."""
        self.negotiate(self.features)
        for index in self.queues:
            self.enable(index)
        self.driver_ok()

    # -- notifications ---------------------------------------------------------------------------------------------

    def kick(self, queue: int = 0) -> None:
        """A KICK message."""
        self.kicks += 1
        self.post("KICK", {"queue": queue})

    def notify(self, layout: QueueLayout) -> None:
        """What the driver published counts; the device is told if it wants to be and sleeps."""
        if self.native.notify(layout.driver) and self.native.send_kick(layout.driver):
            self.kick(layout.index)

    def sleep(self, timeout: float = DEADLINE) -> None:
        """Sleep until the device rings or a message of it comes, as the last hart does."""
        if self._call is not None:
            poller = zmq.Poller()
            poller.register(self.socket, zmq.POLLIN)
            poller.register(self._call[0], zmq.POLLIN)
            if self._call[0] in dict(poller.poll(int(timeout * 1000))):
                self.native.silence_bell(self._call[0])
                return
        self._take(self._receive(timeout if self._call is None else 0))

    def wait_used(self, layout: QueueLayout, timeout: float = DEADLINE) -> tuple[int, int]:
        """The next used element, (head, length)."""
        end = time.monotonic() + timeout
        while True:
            element = self.native.take_used(layout.driver)
            if element != 0xFFFFFFFFFFFFFFFF:
                return element & 0xFFFFFFFF, element >> 32
            if time.monotonic() > end:
                raise DeadlineMissed("nothing was used")
            if self.native.ask_interrupt(layout.driver) and self.native.core_may_sleep(self.mine, self.theirs):
                self.sleep(max(0.01, end - time.monotonic()))
            self.native.take_calls(self.mine, self.theirs)
            self.native.core_wakes(self.mine)

    def run(self, layout: QueueLayout) -> float:
        """Let the driver's closed loop run to its end. Returns seconds."""
        native, driver = self.native, layout.driver
        begun = time.perf_counter()
        while True:
            stop = native.run(driver)
            if stop == 0:
                return time.perf_counter() - begun
            if stop == 1:
                self.kick(layout.index)
            else:
                self.sleep()
                native.take_calls(self.mine, self.theirs)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _await_hello(self) -> Message:
        assert self.socket is not None and self.channel is not None and self.process is not None
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.channel, zmq.POLLIN)
        end = time.monotonic() + self.deadline
        while time.monotonic() < end:
            ready = dict(poller.poll(200))
            if self.channel.fileno() in ready:
                try:
                    self._packet(self.channel.recv(0))
                except ChannelClosed:
                    self.process.wait(DEADLINE)
                    self._disconnect()
                    raise RuntimeError(f"the device ended with status {self.process.returncode}") from None
            if self.socket in ready:
                message = decode(self.socket.recv())
                assert message.name == "HELLO"
                return message
        raise DeadlineMissed("no HELLO")

    def hear(self) -> None:
        """Take what the device has said to its keeper, without waiting: its log, and why it failed."""
        try:
            while self.channel is not None:
                packet = self.channel.recv(0)
                packet.close()
                if packet.kind == "LOG":
                    self.logs.append(packet.body["text"])
                elif packet.kind == "FAILED":
                    self.failure = packet.body["error"]
        except (ChannelClosed, DeadlineMissed):
            return

    def _packet(self, packet: Packet) -> None:
        packet.close()
        if packet.kind == "LOG":
            self.logs.append(packet.body["text"])
        elif packet.kind == "FAILED":
            assert self.process is not None
            self.process.wait(self.deadline)
            self._disconnect()
            raise RuntimeError(f"{packet.body['error']}\n{packet.body['hint']}".strip())

    def _send(self, name: str, body: dict[str, Any], *, seq: int, reply: bool = False, flags: int = 0) -> None:
        assert self.socket is not None
        self.socket.send(encode(name, body, epoch=self.epoch, seq=seq, reply=reply), flags)

    def _receive(self, timeout: float) -> Message:
        assert self.socket is not None
        self.socket.rcvtimeo = int(timeout * 1000)
        try:
            return decode(self.socket.recv())
        except zmq.Again:
            raise DeadlineMissed(f"no message from the device{self._complaint()}") from None

    def _complaint(self) -> str:
        """What the device has found wrong with its driver: then it may never answer."""
        texts = [message.body["text"] for message in self.posted if message.name == "ERR"]
        return f"; it has said: {texts[-1]}" if texts else ""

    def _take(self, message: Message) -> None:
        if message.name == "CALL":
            self.calls += 1
            return
        if MESSAGES[message.name].answer is not None and not message.reply:
            with contextlib.suppress(zmq.Again):  # it may have died since
                self._send(message.name, {}, seq=message.seq, reply=True, flags=zmq.NOBLOCK)
            if (message.epoch, message.seq) in self._answered:
                return  # said again before the answer had come
            self._answered.add((message.epoch, message.seq))
        self.posted.append(message)

    def _disconnect(self) -> None:
        if self.socket is not None:
            self.socket.close(0)
            self.socket = None
        if self.channel is not None:
            self.channel.close()
            self.channel = None
