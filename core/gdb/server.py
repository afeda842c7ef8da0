"""The conversation with gdb: one client at a time, in the link thread, never waiting (gdb manual, appendix E).

The machine is all-stop: when one hart stops, all are held. gdb's threads are the harts, numbered from 1. A step runs
one hart alone, without interrupts. Standing on a breakpoint, a hart first steps over it while the others are still
held. A watchpoint stops before the access; the hart then finishes the instruction, as gdb expects of RISC-V.

When gdb leaves, or its connection breaks, breakpoints go and the machine runs on; `kill` ends the machine.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator

from core.gdb.packet import INTERRUPT, Packets, escape, frame, unescape
from core.gdb.registers import GENERAL, target_description
from core.gdb.target import Access, BadAccess, Stop, Target, Why

__all__ = ["GdbServer"]

HOLD_DEADLINE = 1.0  # seconds until harts that wait for a device count as held
PACKET_SIZE = 0x4000  # bytes of a packet that we take; half of it as memory
SIGINT, SIGTRAP = 2, 5
WATCHES = {"2": Access.WRITE, "3": Access.READ, "4": Access.ANY}  # Z packets
WATCH_WORDS = {Access.WRITE: "watch", Access.READ: "rwatch", Access.ANY: "awatch"}
ERROR_ARGUMENT, ERROR_MEMORY, ERROR_RUNNING = b"E22", b"E14", b"E16"  # EINVAL, EFAULT, EBUSY
NEEDS_HELD = frozenset("gGpPmMXZzcs")
HELP = "monitor commands of the core: help, harts. Devices, disks and the machine are `bulkhead`'s.\n"
log = logging.getLogger("gdb")


class GdbServer:
    """Serves a listening socket. `kill` ends the machine."""

    def __init__(self, listener: socket.socket, target: Target, kill: Callable[[], None]) -> None:
        self._listener = listener
        listener.setblocking(False)
        self._target = target
        self._kill = kill
        self._client: socket.socket | None = None
        self._packets = Packets()
        self._outgoing = bytearray()
        self._holding_since: float | None = None  # all harts were asked to stop, and not all have
        self._running = True
        self._interrupted = False
        self._owed = False  # gdb waits to hear why the machine stops
        self._over: list[int] = []  # harts that still have to step over a breakpoint before all go on
        self._stepping_over = False
        self._seen_watch: Stop | None = None  # its instruction is being finished
        self._registers_of = 0  # the hart that g, p, m … speak of
        self._stop = Stop(0, Why.ASKED)
        self._xml = target_description().encode()

    # -- for the link thread ---------------------------------------------------------------------------------------

    def interests(self) -> Iterator[tuple[int, int]]:
        """The descriptors to poll now, with their events."""
        yield self._listener.fileno(), select.POLLIN
        if self._client is not None:
            yield self._client.fileno(), select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def ready(self, descriptor: int, events: int) -> None:
        """A descriptor of `interests` is ready."""
        if descriptor == self._listener.fileno():
            self._accept()
        elif self._client is not None and descriptor == self._client.fileno():
            if events & select.POLLOUT:
                self._flush()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._receive()

    def start_held(self) -> None:
        """The machine begins with every hart held, until gdb lets it go."""
        self._running = False
        self._target.hold()

    def hart_held(self) -> None:
        """A hart has stopped by itself, or because it was asked to."""
        if self._running and self._holding_since is None and self._target.some_held():  # the news may be old
            self._hold()
        self.look()

    def look(self) -> None:
        """Go on as soon as every hart is held. Called now and then."""
        since = self._holding_since
        if since is not None and (self._target.held() or time.monotonic() - since > HOLD_DEADLINE):
            self._holding_since = None
            self._running = False
            self._all_held()

    def ended(self, code: int) -> None:
        """The machine has ended: tell gdb, as far as it listens."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.send(frame(b"W%02x" % (code & 0xFF)))
        self.close()

    def close(self) -> None:
        """Hang up and stop listening."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._listener.close()

    # -- the connection --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = self._listener.accept()
            if self._client is not None:
                self._receive()  # perhaps it has gone just before
            if self._client is not None:
                client.close()  # one debugger at a time
                return
            client.setblocking(False)
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client = client
            self._packets = Packets()
            self._outgoing.clear()
            self._owed = False
            if self._running:
                self._hold()

    def _receive(self) -> None:
        assert self._client is not None
        try:
            data = self._client.recv(PACKET_SIZE)
            packets = self._packets.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._hang_up(str(error))
            return
        if not data:
            self._hang_up("")
            return
        self._outgoing += self._packets.answers
        self._packets.answers = b""
        for packet in packets:
            if self._client is not None:
                self._obey(packet)
        if self._client is not None:
            self._flush()

    def _hang_up(self, why: str) -> None:
        """gdb has gone: the machine runs on without it."""
        if why:
            log.warning("gdb is gone: %s", why)
        if self._client is not None:
            self._client.close()
            self._client = None
        self._over.clear()
        self._seen_watch, self._stepping_over = None, False
        if self._holding_since is not None:
            return  # as soon as they are held
        if self._running:
            self._hold()
        else:
            self._release()

    def _release(self) -> None:
        self._target.let_go()
        self._running = True

    def _send(self, payload: bytes) -> None:
        self._outgoing += frame(payload)

    def _flush(self) -> None:
        assert self._client is not None
        try:
            sent = self._client.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(str(error))
            return
        del self._outgoing[:sent]

    # -- stopping and going on -------------------------------------------------------------------------------------

    def _hold(self) -> None:
        self._holding_since = time.monotonic()
        self._target.hold()
        self.look()

    def _all_held(self) -> None:
        """Every hart is held: go on by ourselves, or say why."""
        stop = self._target.settle()
        if self._client is None:  # it left meanwhile
            self._release()
            return
        if stop.why is Why.WATCHPOINT and self._seen_watch is None:
            self._seen_watch = stop
            self._run_one(stop.hart, skip_watches=True)
            return
        if self._stepping_over and stop.why is Why.STEP and not self._interrupted:
            self._go_on()
            return
        if self._seen_watch is not None:
            stop, self._seen_watch = self._seen_watch, None
        self._over.clear()
        self._stepping_over = False
        self._stop = stop
        self._registers_of = stop.hart
        self._interrupted = False
        if self._owed:
            self._owed = False
            self._send(self._stop_reply())
            self._flush()

    def _run_one(self, hart: int, *, skip_watches: bool = False) -> None:
        self._running = True
        self._holding_since = time.monotonic()  # the others are held already: wait for this one
        self._target.step(hart, skip_watches=skip_watches)

    def _continue(self) -> None:
        self._over = self._target.at_breakpoint()
        self._go_on()

    def _go_on(self) -> None:
        if self._over:
            self._stepping_over = True
            self._run_one(self._over.pop())
        else:
            self._stepping_over = False
            self._running = True
            self._target.go()

    def _stop_reply(self) -> bytes:
        stop = self._stop
        signal = SIGINT if stop.why is Why.ASKED else SIGTRAP
        detail = f"{WATCH_WORDS[stop.access]}:{stop.address:x};" if stop.why is Why.WATCHPOINT else ""
        return f"T{signal:02x}thread:{stop.hart + 1:x};{detail}".encode()

    # -- packets ---------------------------------------------------------------------------------------------------

    def _obey(self, packet: bytes) -> None:
        if packet == INTERRUPT:
            self._interrupted = True
            if self._running and self._holding_since is None:
                self._hold()
            return
        name = chr(packet[0]) if packet else ""
        handler = self._COMMANDS.get(name)
        if handler is None:
            self._send(b"")
            return
        if self._running and name in NEEDS_HELD:
            self._send(ERROR_RUNNING)
            return
        try:
            answer = handler(self, packet[1:])
        except BadAccess:
            answer = ERROR_MEMORY
        except (ValueError, IndexError, UnicodeDecodeError):
            answer = ERROR_ARGUMENT
        if answer is not None:
            self._send(answer)

    def _why(self, rest: bytes) -> bytes | None:
        if not self._running:
            return self._stop_reply()
        self._owed = True  # as soon as all are held
        return None

    def _read_registers(self, rest: bytes) -> bytes:
        values = (self._target.read_register(self._registers_of, number) for number in range(GENERAL))
        return b"".join(value.to_bytes(8, "little").hex().encode() for value in values)

    def _write_registers(self, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode())
        for number in range(min(GENERAL, len(data) // 8)):
            value = int.from_bytes(data[8 * number : 8 * number + 8], "little")
            self._target.write_register(self._registers_of, number, value)
        return b"OK"

    def _read_register(self, rest: bytes) -> bytes:
        value = self._target.read_register(self._registers_of, int(rest, 16))
        return value.to_bytes(8, "little").hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        self._target.write_register(
            self._registers_of, int(number, 16), int.from_bytes(bytes.fromhex(value.decode()), "little")
        )
        return b"OK"

    def _read_memory(self, rest: bytes) -> bytes:
        address, size = (int(word, 16) for word in rest.split(b","))
        return self._target.read(self._registers_of, address, min(size, PACKET_SIZE // 2)).hex().encode()

    def _write_memory(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        return self._write(where, bytes.fromhex(data.decode()))

    def _write_binary(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        return self._write(where, unescape(data))

    def _write(self, where: bytes, data: bytes) -> bytes:
        address, size = (int(word, 16) for word in where.split(b","))
        if size != len(data):
            return ERROR_ARGUMENT
        self._target.write(self._registers_of, address, data)
        return b"OK"

    def _insert(self, rest: bytes) -> bytes:
        kind, address, length = self._place(rest)
        if kind in "01":
            self._target.add_breakpoint(address)
        elif kind in WATCHES:
            self._target.add_watch(address, length, WATCHES[kind])
        else:
            return b""
        return b"OK"

    def _remove(self, rest: bytes) -> bytes:
        kind, address, length = self._place(rest)
        if kind in "01":
            self._target.breakpoints.discard(address)
        elif kind in WATCHES:
            self._target.watches.discard((address, length, WATCHES[kind]))
        else:
            return b""
        return b"OK"

    @staticmethod
    def _place(rest: bytes) -> tuple[str, int, int]:
        kind, address, length = rest.decode().split(";")[0].split(",")
        return kind, int(address, 16), int(length, 16)

    def _go(self, rest: bytes) -> None:
        if rest:
            self._target.write_register(self._registers_of, 32, int(rest, 16))
        self._owed = True
        self._continue()

    def _step(self, rest: bytes) -> None:
        if rest:
            self._target.write_register(self._registers_of, 32, int(rest, 16))
        self._owed = True
        self._run_one(self._registers_of)

    def _verbose(self, rest: bytes) -> bytes | None:
        if rest == b"Cont?":
            return b"vCont;c;C;s;S"
        if rest.startswith(b"Cont;"):
            self._resume(rest[5:].decode())
            return None
        if rest.startswith(b"Kill"):
            self._kill()
            return b"OK"
        return b""

    def _resume(self, actions: str) -> None:
        """vCont: a step of one hart, or all go on. With both, the step comes first, alone."""
        self._owed = True
        for action in actions.split(";"):
            what, _, thread = action.partition(":")
            if what[:1] in ("s", "S"):
                self._run_one(self._thread(thread) if thread else self._registers_of)
                return
        self._continue()

    def _select(self, rest: bytes) -> bytes:
        """H: which hart the next packets speak of; 0 and -1 leave the choice to us."""
        thread = rest[1:].decode()
        if rest[:1] == b"g" and thread not in ("0", "-1"):
            self._registers_of = self._thread(thread)
        return b"OK"

    def _alive(self, rest: bytes) -> bytes:
        self._thread(rest.decode())
        return b"OK"

    def _thread(self, text: str) -> int:
        number = int(text, 16) - 1
        if not 0 <= number < len(self._target.harts):
            raise ValueError(f"no thread {text}")
        return number

    def _detach(self, rest: bytes) -> None:
        self._send(b"OK")
        self._flush()
        self._hang_up("")

    def _end(self, rest: bytes) -> None:
        self._kill()

    def _query(self, rest: bytes) -> bytes | None:
        for prefix, handler in self._QUERIES.items():
            if rest == prefix or rest.startswith((prefix + b":", prefix + b",")):
                return handler(self, rest[len(prefix) + 1 :])
        return b""

    def _supported(self, rest: bytes) -> bytes:
        return b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+" % PACKET_SIZE

    def _transfer(self, rest: bytes) -> bytes:
        annex, _, span = rest.partition(b":read:")[2].partition(b":")
        if not rest.startswith(b"features") or annex != b"target.xml":
            return b"E00"
        first, size = (int(word, 16) for word in span.split(b","))
        part = self._xml[first : first + min(size, PACKET_SIZE // 2)]
        return (b"m" if first + len(part) < len(self._xml) else b"l") + escape(part)

    def _threads(self, rest: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (number + 1) for number in range(len(self._target.harts)))

    def _no_more_threads(self, rest: bytes) -> bytes:
        return b"l"

    def _thread_info(self, rest: bytes) -> bytes:
        return self._target.describe(self._thread(rest.decode())).encode().hex().encode()

    def _current(self, rest: bytes) -> bytes:
        return b"QC%x" % (self._registers_of + 1)

    def _attached(self, rest: bytes) -> bytes:
        return b"1"

    def _monitor(self, rest: bytes) -> bytes:
        command = bytes.fromhex(rest.decode()).decode(errors="replace").strip()
        text = HELP
        if command == "harts":
            text = "".join(f"{self._target.describe(number)}\n" for number in range(len(self._target.harts)))
        return text.encode().hex().encode()

    def _symbols(self, rest: bytes) -> bytes:
        return b"OK"  # we look none up

    def _set(self, rest: bytes) -> bytes:
        if rest != b"StartNoAckMode":
            return b""
        self._packets.acknowledge = False
        return b"OK"

    _COMMANDS: dict[str, Callable[[GdbServer, bytes], bytes | None]] = {
        "?": _why,
        "g": _read_registers,
        "G": _write_registers,
        "p": _read_register,
        "P": _write_register,
        "m": _read_memory,
        "M": _write_memory,
        "X": _write_binary,
        "Z": _insert,
        "z": _remove,
        "c": _go,
        "s": _step,
        "v": _verbose,
        "H": _select,
        "T": _alive,
        "D": _detach,
        "k": _end,
        "q": _query,
        "Q": _set,
    }
    _QUERIES: dict[bytes, Callable[[GdbServer, bytes], bytes | None]] = {
        b"Supported": _supported,
        b"Xfer": _transfer,
        b"fThreadInfo": _threads,
        b"sThreadInfo": _no_more_threads,
        b"ThreadExtraInfo": _thread_info,
        b"C": _current,
        b"Attached": _attached,
        b"Rcmd": _monitor,
        b"Symbol": _symbols,
    }
