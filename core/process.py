"""The core process: memory, board, harts and sessions put together, and the link thread that serves them.

START describes one machine and brings its memory as descriptors. The link thread is the only one that touches a
socket, the keeper's channel, the console and Python objects; harts run native code and reach it through the event
queue. The end of a machine is a POWER event, an order of the keeper, or the keeper's death, whichever comes first;
the keeper learns how it ended (EXIT).
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import zmq

from core.assembly import Machine, assemble
from core.console import Console, open_console
from core.events import Event, EventKind, PowerReason
from core.link import DeviceLink
from core.powerdown import Powerdown
from core.sandbox import enter as confine
from native import Area
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed
from proto.messages import message_fields
from proto.pages import CoreState
from proto.trace import NO_QUEUE, WINDOW_SLOT, TracePoint

if TYPE_CHECKING:
    from core.gdb.server import GdbServer

LOOP_PERIOD = 0.5  # seconds between two looks at the clock: statistics, deadlines, heartbeat
EXIT_REASON = {
    PowerReason.POWEROFF: "poweroff",
    PowerReason.RESET: "reset",
    PowerReason.FINISHER: "finisher",
    PowerReason.PANIC: "panic",
}
POLL_BITS = (zmq.POLLIN, select.POLLIN, zmq.POLLOUT, select.POLLOUT, zmq.POLLERR, select.POLLERR)
log = logging.getLogger("core")


class CoreProcess:
    """One machine, from START to EXIT."""

    def __init__(self, channel: Channel, start: Packet) -> None:
        """Put the machine together and tell the keeper READY. Raises BulkheadError when it cannot be."""
        self.channel = channel
        report = confine(start.body.get("sandbox", {}).get("mode", "on"))
        self.context = zmq.Context()
        self.machine: Machine = assemble(start, lambda text: channel.send("STATE", {"state": text}))
        engine, board = self.machine.engine, self.machine.board
        self.engine, self.board = engine, board
        self.queue = self.machine.queue
        self.console: Console = open_console(
            self.machine.serial_port, start.body["serial"], start.fds.pop("serial", None)
        )
        self.gdb = self._open_gdb(start)
        self._powerdown = Powerdown(self.machine.serial_port.send_break, self.machine.serial_port.give)
        self.links: dict[str, DeviceLink] = {}
        self.by_slot: dict[int, DeviceLink] = {}
        self.by_window: dict[int, DeviceLink] = {}
        self.sequences: dict[int, int] = {}  # of each window: accesses forwarded
        for device in self.machine.devices:
            link = DeviceLink(
                self.context, device.name, device.port, self.machine.regions, self._report, device.queue_size
            )
            self.links[device.name] = link
            (self.by_slot if device.virtio else self.by_window)[device.index] = link
            self._trace_link(link, device.index + (0 if device.virtio else WINDOW_SLOT))
            link.expect(device.epoch, device.endpoint)
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] | None = None
        self._console_interests: dict[int, int] = {}
        self._gdb_interests: dict[int, int] = {}
        self._stop = threading.Event()
        self._ended: tuple[str, int] | None = None
        self._event_area = Area.allocate(Event.size())
        self._event = Event(self._event_area.address)
        channel.send("READY", {"pid": os.getpid(), "sandbox": report, "serial": self.console.location})

    def _open_gdb(self, start: Packet) -> GdbServer | None:
        descriptor = start.fds.pop("gdb", None)
        if descriptor is None:
            return None
        from core.gdb.server import GdbServer
        from core.inspect import make_target

        server = GdbServer(socket.socket(fileno=descriptor), make_target(self.machine), self.stop)
        if start.body["machine"].get("gdb_wait"):
            server.start_held()
        return server

    def _trace_link(self, link: DeviceLink, slot: int) -> None:
        """Let a session write into the core's trace ring, if there is one."""
        ring, engine = self.board.trace, self.engine
        if ring == 0:
            return

        def message(point: TracePoint, data: bytes) -> None:
            number, seq, a, flags = message_fields(data)
            engine.trace(ring, time.monotonic_ns(), point, NO_QUEUE, slot, number, seq, a, flags, 0, 0)

        def session(epoch: int, up: bool) -> None:
            engine.trace(ring, time.monotonic_ns(), TracePoint.SESSION, NO_QUEUE, slot, 0, epoch, int(up), 0, 0, 0)

        link.trace_message, link.trace_session = message, session

    def stop(self) -> None:
        """Ask the machine to end; callable from a signal handler."""
        self._stop.set()
        os.eventfd_write(self.queue.wakeup, 1)

    def run(self) -> int:
        """Serve until the end. Returns the exit status of the process."""
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                self._serve()
            except BaseException as error:
                log.exception("the link thread failed")
                failure.append(error)

        thread = threading.Thread(target=serve, name="link", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(1.0)  # short, so that the main thread runs signal handlers
        self.machine.stop_harts()
        self.console.close()
        for link in self.links.values():
            link.close()
        self.context.destroy(0)
        if failure:
            self._tell("EXIT", {"reason": "error", "code": 1, "error": f"{type(failure[0]).__name__}: {failure[0]}"})
            return 1
        reason, code = self._ended or ("stopped", 0)
        if self.gdb is not None:
            self.gdb.ended(code)
        self.machine.publish(CoreState.HALTED)
        self._tell("EXIT", {"reason": reason, "code": code, "instret": self.machine.instret()})
        return 0

    # -- the loop --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        if not self.links:
            self._start()
        next_look = time.monotonic() + LOOP_PERIOD
        while self._ended is None and not self._stop.is_set():
            self._drain_events()
            self._serve_ready(0 if self._busy() else max(0.0, next_look - time.monotonic()))
            now = time.monotonic()
            if now >= next_look:
                next_look = now + LOOP_PERIOD
                self.machine.publish(self.machine.state())
                for link in self.links.values():
                    link.overdue(now)
                    link.port.take_calls()  # the CALL may have been lost, with its process too
            self._powerdown.look(now)
            if self.gdb is not None:
                self.gdb.look()
        self._drain_events()

    def _busy(self) -> bool:
        """True when events came while we were about to sleep."""
        return not self.engine.may_sleep(self.queue)

    def _serve_ready(self, timeout: float) -> None:
        ready = dict(self._watch().poll(math.ceil(timeout * 1000)))
        if self.queue.wakeup in ready:
            os.eventfd_read(self.queue.wakeup)
        for descriptor in [item for item in ready if item in self._console_interests]:
            self.console.ready(descriptor, _translate(ready[descriptor], *POLL_BITS))
        for descriptor in [item for item in ready if item in self._gdb_interests]:
            assert self.gdb is not None
            self.gdb.ready(descriptor, _translate(ready[descriptor], *POLL_BITS))
        for link in self.links.values():
            if link.socket in ready:
                link.receive()
            if link.handover.socket in ready:
                link.handover.receive()
        if self.channel.fileno() in ready:
            self._obey(self.channel)

    def _watch(self) -> zmq.Poller:
        """The poller of everything that can wake us; made anew only when that has changed."""
        interests = dict(self.console.interests())
        gdb = dict(self.gdb.interests()) if self.gdb is not None else {}
        open_sockets = [socket for link in self.links.values() for socket in (link.socket, link.handover.socket)]
        sockets = [socket for socket in open_sockets if socket is not None]
        if (interests, gdb, sockets) != (self._console_interests, self._gdb_interests, self._sockets):
            self._console_interests, self._gdb_interests, self._sockets = interests, gdb, sockets
            self._poller = zmq.Poller()
            for source in (self.queue.wakeup, self.channel.fileno(), *sockets):
                self._poller.register(source, zmq.POLLIN)
            for descriptor, wanted in (interests | gdb).items():
                self._poller.register(
                    descriptor, _translate(wanted, select.POLLIN, zmq.POLLIN, select.POLLOUT, zmq.POLLOUT)
                )
        return self._poller

    # -- events of harts -------------------------------------------------------------------------------------------

    def _drain_events(self) -> None:
        while self.engine.take_event(self.queue, self._event):
            self._handle(self._event.kind, self._event.slot, self._event.a, self._event.b)

    def _handle(self, kind: int, slot: int, a: int, b: int) -> None:
        if kind == EventKind.NOTIFY:
            self.by_slot[slot].notify(a)
        elif kind == EventKind.CONSOLE_TX:
            self.console.transmit()
        elif kind == EventKind.CONSOLE_RX:
            self.console.receive()
        elif kind == EventKind.STATUS:
            self.by_slot[slot].status_written(a)
        elif kind == EventKind.QUEUE:
            self.by_slot[slot].queue_written(a, bool(b))
        elif kind == EventKind.CONFIG_WRITE:
            self.by_slot[slot].config_written(a & 0xFFFFFFFF, a >> 32, b)
        elif kind == EventKind.MMIO_READ:
            self.by_window[slot].mmio_read(a & 0xFFFFFFFF, a >> 32, self._sequence(slot))
        elif kind == EventKind.MMIO_WRITE:
            self.by_window[slot].mmio_write(a & 0xFFFFFFFF, a >> 32, self._sequence(slot), b)
        elif kind == EventKind.HART_HELD and self.gdb is not None:
            self.gdb.hart_held()
        elif kind == EventKind.POWER:
            self._ended = (EXIT_REASON[PowerReason(a)], b)

    def _sequence(self, window: int) -> int:
        """Accesses of a window are numbered in the order in which harts posted them, from 1."""
        self.sequences[window] = self.sequences.get(window, 0) + 1
        return self.sequences[window]

    # -- the keeper ------------------------------------------------------------------------------------------------

    def _obey(self, channel: Channel) -> None:
        try:
            packet = channel.recv(0)
        except ChannelClosed:
            self._ended = ("keeper", 1)
            return
        if packet.kind == "DEVICE":
            self._device(packet.body)
        elif packet.kind == "POWERDOWN":
            self._powerdown.begin(time.monotonic())
        elif packet.kind == "INSPECT":
            from core.inspect import inspect  # rarely needed

            self._tell("INSPECTED", {"number": packet.body.get("number", 0), **inspect(self.machine, packet.body)})
        elif packet.kind in ("PAUSE", "CONT"):
            self._pause(packet.kind == "PAUSE")
        elif packet.kind == "STOP":
            self._stop.set()
        packet.close()

    def _pause(self, pause: bool) -> None:
        """The guest stands still, or goes on; sessions with devices are served all the while."""
        if pause:
            self.machine.pause_harts()
        else:
            self.machine.resume_harts()
        self.machine.publish(self.machine.state())
        self._tell("STATE", {"state": "paused" if pause else "running"})

    def _device(self, body: dict[str, Any]) -> None:
        link = self.links.get(body["id"])
        if link is None:
            return
        epoch, handover = body["epoch"], link.handover
        if body["state"] == "dead":
            link.gone()
        elif body["state"] == "quiesce":
            handover.quiesce(epoch, body["release"])
        elif body["state"] == "adopt":
            handover.adopt(epoch)
        elif body["state"] == "abandon":
            handover.abandon(epoch)
        elif body["state"] == "noise":
            link.noise(*(int(body[name]) for name in ("lost", "garbled", "doubled", "seed")))
        elif body["state"] in ("starting", "candidate"):
            expect = link.expect if body["state"] == "starting" else handover.candidate
            try:
                expect(epoch, body["endpoint"])
            except zmq.ZMQError as error:
                self._report("REFUSED", {"id": link.name, "epoch": body["epoch"], "error": str(error)})
                return
            self._report("DEVICE_READY", {"id": link.name, "epoch": body["epoch"]})

    def _report(self, kind: str, body: dict[str, Any]) -> None:
        self._tell(kind, body)
        if kind == "CONNECTED" and not self.machine.started and all(link.up for link in self.links.values()):
            self._start()

    def _start(self) -> None:
        """Every device is there: the guest may look."""
        self.machine.start_harts()
        self._tell("STARTED", {})

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        try:
            self.channel.send(kind, body)
        except BulkheadError:
            log.warning("the keeper is gone")


def _translate(bits: int, *pairs: int) -> int:
    """Replace bits by bits: `pairs` is from, to, from, to, …"""
    return sum(to for of, to in zip(pairs[::2], pairs[1::2], strict=True) if bits & of)
