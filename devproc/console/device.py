"""virtio-console (virtio 1.2, 5.3): ports between a guest and the host. Port 0 is a console, hvc0 in Linux; the others
are streams with names, /dev/vportXpY.

A port's host end is read only while the guest has posted a buffer for it (its queue is on demand), and, but for the
console, only while somebody has the port open in the guest, since Linux discards what comes before. What a host end
does not take waits in its queue, and so does the guest's writer. A console must not, because Linux writes it with a
lock held: a reader that does not read for CONSOLE_PATIENCE loses what comes until it does.

What the two sides had settled, and how far each port is (`devproc.console.note`), outlives the process.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections.abc import Mapping
from typing import Any

from devproc.console.ends import End, FileEnd, SocketEnd, make_end
from devproc.console.note import INCOMING_MAX, Note
from devproc.console.spec import Port, parse_ports
from devproc.device import Queue, State, VirtioDevice
from devproc.kept import Kept
from devproc.request import Request
from native import Record, u16, u32
from proto.errors import ConfigError
from proto.virtio import ConsoleEvent, ConsoleFeature, DeviceId, bit

__all__ = ["ConsoleDevice"]

QUEUE_SIZE = 128
IOV_MAX = 1024
CHUNK = 1 << 16  # bytes of one write
CONSOLE_PATIENCE = 200  # milliseconds
CONTROL_IN, CONTROL_OUT = 2, 3  # 5.3.2
CONTROL = struct.Struct("<IHH")  # 5.3.6.2: struct virtio_console_control
EMERGENCY = 8  # offset of emerg_wr
GONE = (BrokenPipeError, ConnectionResetError)


class ConsoleConfig(Record):
    """5.3.4: struct virtio_console_config."""

    cols: u16
    rows: u16
    max_nr_ports: u32
    emerg_wr: u32


class _Port:
    """A port as it is now."""

    def __init__(self, number: int, spec: Port, end: End, note: Note) -> None:
        self.number, self.spec, self.end, self.note = number, spec, end, note
        self.receive = 0 if number == 0 else 2 + 2 * number  # 5.3.2
        self.transmit = self.receive + 1
        self.wanted = False  # a buffer of the guest is wanted
        self.held: Request | None = None  # one that was taken for nothing: it waits for bytes
        self.sending: Request | None = None  # one whose bytes wait for room
        self.over = spec.kind == "file" and not spec.input  # nothing more will be read
        self.hung = False  # the client has closed, and what it said is still to be read
        self.stuck = False  # a console's reader does not read
        self.uncertain = bool(note.data or note.given >= 0)  # did what was given last arrive?
        self.watched = -1, 0  # descriptor and events


class ConsoleDevice(VirtioDevice):
    """A console and named ports: virtio-console."""

    device_id = DeviceId.CONSOLE
    Config = ConsoleConfig
    waits = True
    starts_late = True  # in a swap: two processes do not read one end

    ready = State([])  # numbers of the ports that the driver has
    opened = State([])  # and of those that somebody in the guest has open
    pending = State([])  # control messages for the driver, [port, event, value], the oldest first
    said = State([])  # the one given last: it may not have arrived

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self._specs = parse_ports(backend)
        queues = []
        for name in ("0", "-control", *(str(number) for number in range(1, len(self._specs)))):
            queues += [Queue(f"receive{name}", QUEUE_SIZE, in_order=True, passive=True, on_demand=True)]
            queues += [Queue(f"transmit{name}", QUEUE_SIZE)]
        self.queues = tuple(queues)
        self._ports: list[_Port] = []
        self._released = False  # a successor has the descriptors

    def start(self) -> None:
        if "kept" not in self.descriptors:
            raise ConfigError(f"{self.id} was given no place for its state")
        self._kept = Kept(self.descriptors["kept"])
        fresh = not self._kept.load()
        for number, spec in enumerate(self._specs):
            end = make_end(spec.kind, number, self.descriptors)
            note = Note(self.descriptors[f"port{number}.note"])
            if fresh:
                note.begin_anew()
            self._ports.append(_Port(number, spec, end, note))
        self._by_queue = {queue: port for port in self._ports for queue in (port.receive, port.transmit)}
        self.features = bit(ConsoleFeature.MULTIPORT) | bit(ConsoleFeature.EMERG_WRITE)
        first = self._specs[0]
        if first.columns:
            self.features |= bit(ConsoleFeature.SIZE)
        self.config.cols, self.config.rows, self.config.max_nr_ports = first.columns, first.rows, len(self._specs)
        if not fresh:
            self.load(self.state_version, self._kept.load())
        self._restore()

    def taken_over(self) -> None:
        self._restore()

    def negotiated(self) -> None:
        """5.3.3: without MULTIPORT there is one port, and nobody to say so."""
        if not self.driver_features & bit(ConsoleFeature.MULTIPORT) and 0 not in self.ready:
            self.ready = [0]
        self._settle()

    def reset(self) -> None:
        self.ready, self.opened, self.pending, self.said = [], [], [], []
        for port in self._ports:
            port.held = port.sending = None
            port.wanted = port.uncertain = False
            port.note.begin_anew()
            self.want(port.receive, False)
            self.want(port.transmit, True)
        self._settle()

    def release(self) -> None:
        self._released = True
        for port in self._ports:
            self._look(port)

    def reclaim(self) -> None:
        self._released = False
        for port in self._ports:
            self._look(port)

    def stop(self) -> None:
        for port in self._ports:
            if isinstance(port.end, FileEnd):
                with contextlib.suppress(OSError):
                    os.fsync(port.end.fd)

    def handle(self, request: Request) -> None:
        if request.queue == CONTROL_IN:
            self._say(request)
        elif request.queue == CONTROL_OUT:
            self._heard(request.read(CONTROL.size))
        else:
            port = self._by_queue[request.queue]
            (self._give if request.queue == port.receive else self._take)(port, request)

    def config_written(self, offset: int, data: bytes) -> None:
        """5.3.5: emerg_wr, a character for port 0, at once or not at all."""
        end = self._ports[0].end
        if offset == EMERGENCY and end.fd >= 0:
            with contextlib.suppress(OSError):
                note = self._ports[0].note
                end.stored(note, end.write(note, [memoryview(data[:1])]))
                note.store()

    # -- the control queues (5.3.6.2) ------------------------------------------------------------------------------

    def _heard(self, message: bytes) -> None:
        """What the driver says. What means nothing is ignored."""
        if len(message) < CONTROL.size:
            return
        number, event, value = CONTROL.unpack(message)
        if event == ConsoleEvent.DEVICE_READY and value:
            for port in self._ports:
                self._tell(port, ConsoleEvent.DEVICE_ADD, 0)
        elif number < len(self._ports) and event == ConsoleEvent.PORT_READY and value:
            self.ready = sorted({*self.ready, number})
            self._introduce(self._ports[number])
        elif number < len(self._ports) and event == ConsoleEvent.PORT_OPEN:
            self.opened = sorted({*self.opened, number} if value else {*self.opened} - {number})
        self._settle()

    def _introduce(self, port: _Port) -> None:
        if port.number == 0:
            self._tell(port, ConsoleEvent.CONSOLE_PORT, 1)
        if port.spec.columns:
            self._tell(port, ConsoleEvent.RESIZE, 0)
        if port.spec.name:
            self._tell(port, ConsoleEvent.PORT_NAME, 1)
        self._tell(port, ConsoleEvent.PORT_OPEN, int(port.end.fd >= 0))

    def _tell(self, port: _Port, event: ConsoleEvent, value: int) -> None:
        """Say this when there is a buffer, in place of what was to be said of the same matter."""
        others = [message for message in self.pending if message[:2] != [port.number, int(event)]]
        self.pending = [*others, [port.number, int(event), value]]

    def _say(self, request: Request) -> None:
        if self.pending:
            self.said = self.pending[0]
            self.pending = self.pending[1:]
            request.write(self._encode(*self.said))
        self._settle()

    def _encode(self, number: int, event: int, value: int) -> bytes:
        spec = self._ports[number].spec
        extra = {
            ConsoleEvent.PORT_NAME: spec.name.encode(),
            ConsoleEvent.RESIZE: struct.pack("<HH", spec.columns, spec.rows),
        }
        return CONTROL.pack(number, event, value) + extra.get(ConsoleEvent(event), b"")

    def _settle(self) -> None:
        """Keep how things are, and wait for what may come now."""
        self._kept.store(self.save())
        self.want(CONTROL_IN, bool(self.pending))
        for port in self._ports:
            self._look(port)

    def _restore(self) -> None:
        """A predecessor was here: what it said last may not have arrived, and saying it twice does no harm."""
        if self.said and self.said not in self.pending:
            self.pending = [self.said, *self.pending]

    # -- towards the guest -----------------------------------------------------------------------------------------

    def _is_open(self, port: _Port) -> bool:
        return port.number in self.ready and (port.number == 0 or port.number in self.opened)

    def _give(self, port: _Port, request: Request) -> None:
        """A buffer of the guest's, because something has come."""
        port.wanted = port.uncertain = False
        self.want(port.receive, False)
        if not request.writable:
            self._look(port)
            return
        earlier = port.note.earlier.get(request.number)
        if earlier is not None:  # it got this from a process before, which was killed; those after it come again, too
            request.write(earlier[: request.writable])
            port.uncertain = True
            self._look(port)
            return
        port.note.settle(request.number)
        if not self._fill(port, request):
            port.held = request
            request.park()
        self._look(port)

    def _fill(self, port: _Port, request: Request) -> bool:
        """Put bytes into a buffer. False when there are none."""
        note = port.note
        if not note.data and self._is_open(port) and port.end.fd >= 0 and not port.over:
            try:
                note.data = port.end.read(note, INCOMING_MAX)
            except BlockingIOError:
                return False
            except OSError as error:
                if not isinstance(error, GONE):
                    self.log(f"{self.id}: port {port.number}: {error}", 30)
            if not note.data:
                self._ended(port)
        if not note.data:
            return False
        request.write(note.give(request.number, request.writable))
        return True

    def _ended(self, port: _Port) -> None:
        """Nothing more comes from this end: a client has gone, or a file is read."""
        if isinstance(port.end, SocketEnd):
            self._hang_up(port, port.end)
        else:
            port.over = True

    # -- towards the host ------------------------------------------------------------------------------------------

    def _take(self, port: _Port, request: Request) -> None:
        start = port.note.start_of(request.number, again=request.again)
        if start is None:
            return
        port.note.done = start
        if not self._write(port, request):
            port.sending = request
            request.park()
            self.want(port.transmit, False)
            self._look(port)

    def _write(self, port: _Port, request: Request) -> bool:
        """Write what is left of a request. False when that has to wait."""
        note = port.note
        while note.done < request.readable and port.end.fd >= 0:
            try:
                written = port.end.write(note, request.views_readable(note.done, CHUNK)[:IOV_MAX])
            except BlockingIOError:
                if port.number:
                    return False
                if port.stuck or not select.select([], [port.end.fd], [], CONSOLE_PATIENCE / 1000)[1]:
                    port.stuck = True
                    break
                continue
            except GONE:
                self._ended(port)
                break
            except OSError as error:
                self.log(f"{self.id}: port {port.number}: {error}", 30)
                request.failed = True
                break
            port.stuck = False
            note.done += written
            port.end.stored(note, written)
            note.store()
        return True

    def _go_on(self, port: _Port) -> None:
        """There may be room for the bytes that wait."""
        request = port.sending
        if request is not None and self._write(port, request):
            port.sending = None
            self.want(port.transmit, True)
            request.finish()

    # -- descriptors -----------------------------------------------------------------------------------------------

    def _look(self, port: _Port) -> None:
        """Want a buffer for bytes that are here, and watch for what can happen now."""
        note = port.note
        due = port.uncertain or len(note.data) > note.count
        if due and not port.wanted and port.held is None and port.number in self.ready:
            self._want_buffer(port)
        now = self._interest(port) if not self._released else (-1, 0)
        if now == port.watched:
            return
        if port.watched[1]:
            self.unwatch(port.watched[0])
        port.watched = now
        if now[1]:
            self.watch(now[0], lambda: self._happened(port), now[1])

    def _interest(self, port: _Port) -> tuple[int, int]:
        """A descriptor, and poll's events."""
        fd, events = port.end.fd, 0
        if fd < 0:
            return port.end.listener, select.POLLIN
        if self._is_open(port) and not port.wanted and not port.over:
            events |= select.POLLIN
        if port.sending is not None:
            events |= select.POLLOUT
        if not events & select.POLLIN and port.end.listener >= 0 and not port.hung:
            events |= select.POLLRDHUP
        return fd, events

    def _happened(self, port: _Port) -> None:
        end = port.end
        if isinstance(end, SocketEnd) and end.fd < 0:
            if end.accept():
                self.store(f"port{port.number}.client", end.fd)
                self._tell_open(port)
            return
        self._go_on(port)
        if isinstance(end, SocketEnd) and end.fd >= 0 and end.is_closed():
            self._hang_up(port, end)
        elif self._is_open(port) and not port.over and not port.wanted:
            self._readable(port)
        else:
            port.hung = port.sending is None  # what is left to read is read later
        self._look(port)

    def _readable(self, port: _Port) -> None:
        if port.held is not None:
            self._fill_held(port, port.held)
        elif select.select([port.end.fd], [], [], 0)[0]:
            self._want_buffer(port)

    def _want_buffer(self, port: _Port) -> None:
        port.wanted = True
        self.want(port.receive, True)

    def _fill_held(self, port: _Port, request: Request) -> None:
        if self._fill(port, request):
            port.held = None
            request.finish()

    def _hang_up(self, port: _Port, end: SocketEnd) -> None:
        """The client has gone; what the guest still has for it is lost."""
        if port.watched[1]:
            self.unwatch(port.watched[0])
        port.watched = -1, 0
        self.unstore(f"port{port.number}.client")
        end.hang_up()
        port.hung = False
        self._tell_open(port)
        self._go_on(port)

    def _tell_open(self, port: _Port) -> None:
        if port.number in self.ready:
            self._tell(port, ConsoleEvent.PORT_OPEN, int(port.end.fd >= 0))
        self._settle()
