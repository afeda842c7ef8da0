"""The console of `bulkhead run`: the user's terminal at one end, the guest's serial line at the other.

One loop moves bytes both ways, each only as fast as the other side takes them, so that pasting a large text or printing
one loses nothing. It hears the keeper (RUNNING, RESET, EXIT), and signals.

In a terminal, Ctrl-A begins a command, as in QEMU:

    Ctrl-A h        this help
    Ctrl-A x        quit: end the machine
    Ctrl-A c        turn to the monitor, and back to the guest
    Ctrl-A d        detach: leave the machine running (`bulkhead attach`)
    Ctrl-A Ctrl-A   send Ctrl-A to the guest

With COMMAND only its output is shown, and input waits until it has begun. A pipe that ends is told to the guest as
Ctrl-D, the terminal's end of file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.console.frame import CommandOutput, PanicWatch
from launcher.console.terminal import RawTerminal
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed

if TYPE_CHECKING:
    from launcher.qmp.prompt import Prompt

__all__ = ["HELP", "Console", "Escape", "Outcome", "ending_signals"]

CHUNK = 4096
MOST_OUTPUT = 1 << 16  # bytes waiting for a slow reader until the guest has to wait
MOST_INPUT = 1 << 20  # bytes waiting for a slow guest; above that input is left where it is, Ctrl-A x with it
SMALL_WRITE = 1024  # a terminal that says it is ready takes that much without blocking
QUIT_DEADLINE = 10.0  # seconds from asking the keeper to end until leaving it alone; asked again, at once
CTRL_A, CTRL_D = b"\x01", b"\x04"
IN, OUT, GONE = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR | select.POLLNVAL

HELP = "".join(
    f"\r\n{keys:<14} {meaning}"
    for keys, meaning in (
        ("Ctrl-A h", "this help"),
        ("Ctrl-A x", "quit: end the machine"),
        ("Ctrl-A c", "turn to the monitor (registers, memory, devices), and back"),
        ("Ctrl-A d", "leave the machine running (of `bulkhead attach`)"),
        ("Ctrl-A Ctrl-A", "send Ctrl-A to the guest"),
        ("", "After resizing the window, run `resize` in the guest."),
    )
)


class Escape:
    """Finds Ctrl-A commands in what is typed, in pieces of any size."""

    def __init__(self) -> None:
        self._pending = False

    def feed(self, data: bytes) -> tuple[bytes, list[str]]:
        """What goes to the guest, and the commands found: "quit", "monitor", "detach", "help"."""
        through = bytearray()
        commands: list[str] = []
        for byte in data:
            if not self._pending:
                if byte == CTRL_A[0]:
                    self._pending = True
                else:
                    through.append(byte)
                continue
            self._pending = False
            if byte == CTRL_A[0]:
                through.append(byte)
            elif byte in b"xX":
                commands.append("quit")
            elif byte in b"cC":
                commands.append("monitor")
            elif byte in b"dD":
                commands.append("detach")
            elif byte in b"hH?":
                commands.append("help")
        return bytes(through), commands


@dataclass
class Outcome:
    """How the machine ended: the keeper's EXIT, and what the console saw itself."""

    reason: str
    code: int = 0
    error: str = ""
    hint: str = ""
    process: str = ""
    status: int | None = None  # of COMMAND
    panic: str = ""  # the kernel's message
    before: bytes = b""  # what the guest said last, when COMMAND never began


class Console:
    """One run's console. `run` returns when the machine has ended."""

    def __init__(
        self,
        keeper: Channel,
        serial: socket.socket | None,
        signals: socket.socket,
        *,
        stdin: int | None,
        stdout: int,
        terminal: RawTerminal | None,
        command: CommandOutput | None = None,
        machine: str = "",
    ) -> None:
        """`serial` is our end of the serial line, or None when it goes elsewhere; `signals` is from `ending_signals`;
        `stdin` None: no input. With a `terminal`, it is put into raw mode once the guest takes input, and Ctrl-A is
        looked for."""
        self.keeper = keeper
        self.serial = serial
        self._signals = signals
        self.stdin = stdin if serial is not None else None
        self.stdout = stdout
        self.terminal = terminal
        self.command = command
        self.panic = PanicWatch()
        self.outcome: Outcome | None = None
        self.running = False
        self.machine = machine
        self._prompt: Prompt | None = None
        self._at_monitor = False
        self._escape = Escape() if terminal is not None else None
        self._to_guest = b""
        self._to_user = b""
        self._at_line_start = True  # of what was typed
        self._leave_at: float | None = None
        self._abandoned = False
        self._last_byte = b"\n"
        if serial is not None:
            serial.setblocking(False)

    def run(self) -> Outcome:
        """Serve until the machine has ended and all it has said is written."""
        with self.terminal or contextlib.nullcontext():
            while not self._finished():
                self._turn()
        return self._conclude()

    def heard(self, packet: Packet) -> None:
        """Called for every packet of the keeper that is not the console's business; subclasses show progress."""

    # -- the loop --------------------------------------------------------------------------------------------------

    def _finished(self) -> bool:
        if self._abandoned:
            return True
        return self.outcome is not None and self.serial is None and not self._to_user

    def _turn(self) -> None:
        poll = select.poll()
        handlers: dict[int, Any] = {}

        def watch(fd: int, events: int, handler: Any) -> None:
            poll.register(fd, events)
            handlers[fd] = handler

        watch(self._signals.fileno(), IN, lambda events: self._hear_signals())
        if self.outcome is None:
            watch(self.keeper.fileno(), IN, lambda events: self._hear_keeper())
        if self.serial is not None:
            begun = self.running or self.outcome is not None  # first comes RUNNING, which makes the terminal raw
            wanted = IN if begun and len(self._to_user) < MOST_OUTPUT else 0
            wanted |= OUT if self._to_guest else 0
            watch(self.serial.fileno(), wanted, self._serve_serial)
        if self._takes_input():
            assert self.stdin is not None
            watch(self.stdin, IN, lambda events: self._read_stdin())
        if self._to_user:
            watch(self.stdout, OUT, lambda events: self._write_stdout())
        for fd, events in poll.poll(self._timeout()):
            handlers[fd](events)
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self._abandoned = True

    def _timeout(self) -> float | None:
        """Milliseconds until something is to be done though nothing has come."""
        limits = [limit for limit in [self.patience()] if limit is not None]
        if self._leave_at is not None:
            limits.append(max(0.0, self._leave_at - time.monotonic()))
        return min(limits) * 1000 if limits else None

    def _takes_input(self) -> bool:
        if self.stdin is None or self.serial is None or len(self._to_guest) >= MOST_INPUT:
            return False
        return self.command.begun if self.command is not None else self.running

    # -- bytes -----------------------------------------------------------------------------------------------------

    def _serve_serial(self, events: int) -> None:
        assert self.serial is not None
        if events & OUT and self._to_guest:
            try:
                self._to_guest = self._to_guest[self.serial.send(self._to_guest) :]
            except BlockingIOError:
                pass
            except OSError:
                self._to_guest = b""
        if events & (IN | GONE):
            self._read_serial()

    def _read_serial(self) -> bool:
        """Take what is there; False when there is nothing (more)."""
        if self.serial is None:
            return False
        try:
            data = self.serial.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.serial.close()
            self.serial = None
            self._show(self.command.rest() if self.command is not None else b"")
            return False
        self.panic.feed(data)
        if self.command is not None:
            begun = self.command.begun
            data = self.command.feed(data)
            if self.command.begun and not begun:
                self._open_input()
        self._show(data)
        return True

    def _show(self, data: bytes) -> None:
        self._to_user += data

    def _write_stdout(self) -> None:
        try:
            written = os.write(self.stdout, self._to_user[:SMALL_WRITE])
        except BlockingIOError:
            return
        except OSError:  # the reader has gone, or the terminal
            self._to_user = b""
            self.stdout = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            self.quit("killed")
            return
        self._last_byte = self._to_user[written - 1 : written]
        self._to_user = self._to_user[written:]

    def _open_input(self) -> None:
        if self.terminal is not None:
            self.terminal.enter()

    def _read_stdin(self) -> None:
        assert self.stdin is not None
        try:
            data = os.read(self.stdin, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.stdin = None
            if self.terminal is not None:
                self.quit("killed")
            elif self.command is not None:
                self._to_guest += CTRL_D if self._at_line_start else 2 * CTRL_D
            return
        if self._escape is not None:
            data, commands = self._escape.feed(data)
            for command in commands:
                if command == "quit":
                    self.quit("killed" if self.command is not None else "quit")
                elif command == "monitor":
                    self._turn_to_monitor()
                elif command == "detach":
                    self.leave()
                else:
                    self._to_user += HELP.encode() + b"\r\n"
        if self._at_monitor and self._prompt is not None:
            self._to_user += self._prompt.feed(data)
            return
        if data:
            self._at_line_start = data.endswith(b"\n")
        self._to_guest += data

    def _turn_to_monitor(self) -> None:
        """Ctrl-A c: what is typed goes to the monitor, until the next one. What the guest says is shown either way."""
        from launcher.qmp.prompt import Prompt  # only for those who ask for it

        self._at_monitor = not self._at_monitor
        self._prompt = self._prompt or Prompt(self.machine)
        self._to_user += self._prompt.begin() if self._at_monitor else b"\r\n"

    # -- the keeper, and signals -----------------------------------------------------------------------------------

    def quit(self, reason: str) -> None:
        """Ask the keeper to end the machine; asked again, or not heard in time, leave it to notice that we are gone."""
        if self._leave_at is not None:
            self._abandoned = True
            return
        self._leave_at = time.monotonic() + QUIT_DEADLINE
        self._tell("STOP", {"reason": reason})

    def leave(self) -> None:
        """Ctrl-A d: leave the machine running. This one ends with its console."""
        self._to_user += b"\r\nthis machine ends with its console: start it with --detach, then bulkhead attach\r\n"

    def patience(self) -> float | None:
        """The longest wait, in seconds, if there is one."""
        return None

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        with contextlib.suppress(ChannelClosed):
            self.keeper.send(kind, body)

    def _hear_keeper(self) -> None:
        try:
            packet = self.keeper.recv(0)
        except DeadlineMissed:
            return
        except BulkheadError:
            self.outcome = Outcome("error", error="the keeper of the machine died")
            return
        packet.close()
        if packet.kind == "EXIT":
            body = packet.body
            known = {name: body[name] for name in ("reason", "code", "error", "hint", "process") if name in body}
            self.outcome = Outcome(**known)
            self._leave_at = None
        elif packet.kind == "RESET":
            self._guest_resets()
        else:
            if packet.kind == "RUNNING":
                self.running = True
                if self.command is None and self.serial is not None and self.stdin is not None:
                    self._open_input()
            self.heard(packet)

    def _guest_resets(self) -> None:
        """The guest wants to start again. Its last words are in the serial line already: did its kernel panic?"""
        while self._read_serial():
            pass
        if self.panic.message:
            self._tell("STOP", {"reason": "panic"})
        else:
            self._tell("RESET", {})

    def _hear_signals(self) -> None:
        for number in self._signals.recv(64):
            if number in _ENDING:
                self.quit("killed")

    def _conclude(self) -> Outcome:
        outcome = self.outcome or Outcome("killed", error="the machine did not end in time")
        if self.command is not None:
            outcome.status = self.command.status
            outcome.before = self.command.before if not self.command.begun else b""
        outcome.panic = self.panic.message
        if self._last_byte != b"\n" and os.isatty(self.stdout):
            with contextlib.suppress(OSError):
                os.write(self.stdout, b"\r\n")
        return outcome


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def ending_signals() -> Iterator[socket.socket]:
    """A socket on which the numbers of ending signals arrive, instead of what they would do."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in _ENDING}
    try:
        yield ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        ours.close()
        theirs.close()
