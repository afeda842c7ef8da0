"""The control socket: how commands in other terminals talk to the keeper of a running machine.

`control` in the run directory is a SEQPACKET Unix socket that speaks `proto.channel`: a client sends a packet {kind,
body} and gets one back, OK with the answer, or ERROR{error, hint}. The directory's mode (0700) is the access control.

    PS {}            → machine, phase, guest, uptime, kips, serial, processes (the rows of `bulkhead ps`)
    WATCH {}         → nothing; EVENT{name, id, time, …} packets from then on, and LOST{count} where some are missing
    STOP {reason?}   → nothing; end-of-file when the machine has ended and everything of it is removed
    RESTART {id}     → epoch: of the process to come
    SWAP {id, backend?, device?, properties?}   → swap: its number; backend: what it is now
    SWAPPED {swap}   → state (done, failed, or a step on the way), error, hint, pause_ms, epoch, backend
    MIRROR {id, to, rate?, pivot?}              → as MIRRORED; joins one that is under way
    MIRRORED {id}    → state (done, cancelled, failed, or on the way), bytes, left, copied, source, target, error, …
    COMMIT {id, rate?, pivot?}                  → as MIRRORED; an overlay is written to what it stands on
    MIRROR_CANCEL {id}                          → as MIRRORED; the disk goes back to its source
    MIRROR_COMPLETE {id} MIRROR_LIMIT {id, rate} → as MIRRORED; the copy is used as soon as both are equal; another rate
    TRACE {generation?} → machine, generation, rings (id, role, device, slot, epoch), and a descriptor for reading each
    RECORD {ids, size?, block?} → devices (their descriptions), and descriptors: the tap of each, and `alive`, a pipe:
                     when that is closed, the recording is over (`launcher.keeper.recordings`)
    TRACE_LISTEN {endpoint, keys?, payload?}   → state: starting or running; pid: of the tap
    TRACE_SILENCE {endpoint} → nothing; the tap ends
    DESCRIBE {}      → machine: its description, as `launcher.machine.description` has it
    RESET {} POWERDOWN {} → nothing; the guest starts again, or is asked to shut down
    INSPECT {what, hart, address, size, physical} → inspect: a number; INSPECTED {inspect} → waiting, or what was seen
    BREAK {rules}    → rules: device and number of each (`proto.faults`); BREAK_CLEAR {id?, number?} → removed: how many
    BREAKS {}        → rules: with matched, taken, in_force, text; held: those requests; more: how many more; now
    HOLD {id, then, keys?, count?, data?, offset?} → keys: of the requests that go, drop, fail or change
    QUEUE {id}       → queues: rings, requests and what is wrong with them (`launcher.keeper.queues`); state, epoch, pid
    DEBUG {id} DEBUGGED {id, pid} → put a device's process under a debugger (`launcher.keeper.debug`)
    NOISE {id, lost?, garbled?, doubled?, seed?} → nothing; so many of a thousand messages between core and device are
                     lost, garbled, come twice; with none of them, no more (`core.noise`; for tests)
    PAUSE {} CONT {} → nothing; the guest stands still, or goes on, as soon as PS says so (phase)
"""

from __future__ import annotations

import argparse
import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from launcher.run.rundir import machines, run_base
from proto.channel import Channel, Packet
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed
from proto.suggest import did_you_mean

__all__ = ["Line", "choose_machine", "connect", "events", "exchange", "machine_arguments", "reach", "request"]

ANSWER_DEADLINE = 5.0  # seconds


class Line(Protocol):
    """What orders need of a connection: a `Channel` to the keeper, or to a tap that passes them on."""

    def send(self, kind: str, body: Mapping[str, Any] | None = None) -> None:
        """One packet. Raises ChannelClosed."""

    def recv(self, timeout: float | None = None) -> Packet:
        """The next packet. Raises DeadlineMissed, ChannelClosed."""

    def close(self) -> None:
        """Hang up."""


def machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Which machine a verb means, here or elsewhere."""
    parser.add_argument("--machine", metavar="NAME", help="the machine")
    parser.add_argument("--connect", metavar="URI", help="or the one behind this tap: tcp://HOST:PORT")
    parser.add_argument("--keys", metavar="DIR", type=Path, help="with control.secret and server.public, for --connect")


@contextlib.contextmanager
def reach(arguments: argparse.Namespace) -> Iterator[Line]:
    """A connection to the machine that `machine_arguments` name, closed afterwards. Raises ConfigError."""
    line: Line
    if arguments.connect:
        from launcher.trace.elsewhere import Elsewhere

        if arguments.machine:
            raise ConfigError("--machine and --connect name two machines", hint="A tap belongs to one machine.")
        line = Elsewhere(arguments.connect, arguments.keys)
    else:
        line = connect(choose_machine(arguments.machine))
    try:
        yield line
    finally:
        line.close()


def choose_machine(name: str | None) -> str:
    """The machine meant: `name`, or the only one that runs. Raises ConfigError."""
    running = machines()
    if name is not None:
        if name not in running:
            raise ConfigError(
                f"no machine named {name} is running{did_you_mean(name, running)}",
                hint=f"Running: {', '.join(running)}." if running else "Start one with: bulkhead run",
            )
        return name
    if not running:
        raise ConfigError("no machine is running", hint="Start one with: bulkhead run")
    if len(running) > 1:
        raise ConfigError(
            f"{len(running)} machines are running: {', '.join(running)}", hint=f"Say which: --machine {running[0]}"
        )
    return running[0]


def connect(name: str) -> Channel:
    """A connection to the keeper of a machine. Raises ConfigError when it has just ended."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(run_base() / name / "control"))
    except OSError as error:
        connection.close()
        raise ConfigError(f"the machine {name} does not answer: {error.strerror}", hint="Has it just ended?") from error
    return Channel(connection)


def exchange(channel: Line, kind: str, within: float = ANSWER_DEADLINE, **body: Any) -> Packet:
    """Ask the keeper, and wait `within` seconds; descriptors of the answer are the caller's to close. Raises
    ConfigError with its refusal, or when the machine has ended meanwhile."""
    try:
        channel.send(kind, body)
        answer = channel.recv(within)
    except ChannelClosed as error:
        raise ConfigError("the machine has just ended") from error
    except DeadlineMissed as error:
        raise ConfigError(f"the keeper did not answer within {within:.0f} s") from error
    if answer.kind == "ERROR":
        raise ConfigError(answer.body.get("error", "refused"), hint=answer.body.get("hint", ""))
    return answer


def request(channel: Line, kind: str, **body: Any) -> dict[str, Any]:
    """The same, for what is answered without descriptors: the body."""
    answer = exchange(channel, kind, **body)
    answer.close()
    return answer.body


def events(channel: Channel, timeout: float | None = None) -> Iterator[dict[str, Any]]:
    """What happens to the machine from now on (`launcher.keeper.events`), first WATCHING; a connection that watches is
    asked nothing else. Ends with the machine. Raises ConfigError when nothing happens for `timeout` seconds."""
    request(channel, "WATCH")
    yield {"name": "WATCHING", "id": ""}
    while True:
        try:
            packet = channel.recv(timeout)
        except ChannelClosed:
            return
        except DeadlineMissed as error:
            raise ConfigError(f"nothing happened for {timeout} s") from error
        packet.close()
        yield {"name": packet.kind, "id": "", **packet.body}
