"""The supervisor: starts, watches, restarts and ends the processes of one machine. Runs in the keeper's process.

One selector serves channels, pidfds, signals, timers and the control socket (`launcher.keeper.control`).

* A device's death is what its pidfd says, nothing else. Then its page is reset, the core is told (DEVICE dead), and a
  successor of the next epoch is started, after a back-off when they die young. The core binds the new endpoint
  (DEVICE starting → DEVICE_READY) before the successor gets its START.
* A device may leave descriptors with us (STORE{} with named descriptors → STORED{names}; UNSTORE{names}). Its successor
  gets them back in STORED packets before its START.
* A network device may have a peer, a process behind it (`launcher.keeper.network`), restarted like a device; the core
  does not know of it.
* The core's end is the machine's. So is the end of the client that started it, unless detached; SIGTERM and SIGINT;
  an order over the control socket. Everything is asked to stop, and killed when it does not within a second.
* A guest's reset starts the whole machine again, in new memory, unless the client, which has seen what the guest said
  last, answers RESET with STOP and a reason.
* The run directory is removed before anybody is told that the machine has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from launcher.console.terminal import restore
from launcher.keeper.child import Child, is_traced
from launcher.keeper.confinement import Confinement
from launcher.keeper.consoles import Console
from launcher.keeper.control import ControlServer
from launcher.keeper.debug import Adopted, Debugs
from launcher.keeper.events import Events
from launcher.keeper.faults import Faults
from launcher.keeper.hang import LOOK, Hangs
from launcher.keeper.heard import check, line_of, report_of
from launcher.keeper.inspections import Inspections
from launcher.keeper.listeners import Listener
from launcher.keeper.loop import Loop
from launcher.keeper.member import (
    Member,
    core_start,
    device_start,
    make_device_memory,
    make_machine_memory,
    peer_start,
    row_of,
)
from launcher.keeper.mirror import Mirrors
from launcher.keeper.network import has_cable, has_peer, lay_cable, peer_name
from launcher.keeper.pause import Pause
from launcher.keeper.quarantine import Quarantine
from launcher.keeper.recordings import Recordings
from launcher.keeper.recovery import DEVICE, Recovery
from launcher.keeper.requests import answer
from launcher.keeper.segments import Segment
from launcher.keeper.services import Services
from launcher.keeper.spares import Spares
from launcher.keeper.swap import Swaps
from launcher.keeper.traces import Traces
from launcher.keeper.windows import Windows
from launcher.machine.description import CONSOLE, WINDOW, Machine
from launcher.run.rundir import RunDirectory
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed, ProtocolError

__all__ = ["CORE", "DEVICE", "Supervisor"]

CORE, PEER = "core.main", "devproc.net.peer"  # modules of the processes
STOP_DEADLINE = 0.7  # seconds that a process has between STOP and SIGKILL
CHANNEL_GRACE = 1.0  # seconds between a process's end-of-file and SIGKILL
PATIENCE = 1.0  # seconds until the client is told which devices a start waits for
START_DEADLINE = 60.0  # seconds from START until a device serves
LOG_TAIL = 2000  # bytes of a log that an error brings along


class Supervisor:
    """The supervisor of one machine."""

    def __init__(
        self,
        machine: Machine,
        directory: RunDirectory,
        client: Channel,
        fds: dict[str, int],
        early: dict[str, Child] | None = None,
    ) -> None:
        """`fds` may have the serial line; `early` are processes that were started beforehand, by module."""
        self.machine = machine
        self.directory = directory
        self.client: Channel | None = client
        self.serial = fds.pop("serial", None)  # kept for the next start, after a reset
        self.stream = fds.pop("console", None)  # the client's, of a console's port that is stdio
        self.consoles: dict[str, Console] = {}
        self.serial_location = ""
        self.gdb: Listener | None = None
        self._terminal: tuple[int, list[Any]] | None = None
        self.phase = "starting"  # running, resetting, ending, ended
        self.began = time.monotonic()
        self.outcome: dict[str, Any] = {}
        self.resetting = False  # the core has ended because the guest asked for a reset
        self.core = Member("core", "core", None, directory.log("core"))
        self.devices = [Member(device.id, device.role, device, directory.log(device.id)) for device in machine.devices]
        self.peers: dict[str, Member] = {}  # device id → the process behind it
        for device in machine.devices:
            if has_peer(device):
                id, role = peer_name(device)
                self.peers[device.id] = Member(id, role, None, directory.log(id))
        self.windows = Windows(self)
        behind = (*self.peers.values(), *self.windows.members())
        self.members = {member.id: member for member in (self.core, *self.devices, *behind)}
        self.shared: dict[str, Segment] = {}
        self.loop = Loop()
        self._early = early or {}
        self.spares = Spares(self.loop, machine, directory.log("spare"), self.log, self._continue_if_all_dead)
        self.events = Events()
        self.traces: Traces = Traces(self)
        self.recordings: Recordings = Recordings(self)
        self.confinement = Confinement(self)
        self.recovery = Recovery(self)
        self.hangs = Hangs(self)
        self.swaps = Swaps(self)
        self.mirrors = Mirrors(self)
        self.pause = Pause(self)
        self.quarantine = Quarantine(self)
        self.services = Services(self)
        self.faults: Faults = Faults(self)
        self.debugs: Debugs = Debugs(self)
        self.inspections = Inspections()
        self._control = ControlServer(directory.control, self.loop, partial(answer, self), self.events)

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the machine and serve until it has ended."""
        self.loop.on_signals((signal.SIGTERM, signal.SIGINT), self._signalled)
        self._watch_client()
        self.attempt(self._open_and_start)
        self.loop.after(LOOK, self.hangs.watch)
        while self.phase != "ended":
            self.loop.turn()

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something that may not be possible; if it is not, the machine ends with the reason."""
        try:
            action()
        except BulkheadError as error:
            self.end("error", error=error.message, hint=error.hint)
        except OSError as error:
            self.end("error", error=f"cannot start a process: {error.strerror}")

    def _signalled(self, number: signal.Signals) -> None:
        self.end("killed", error=f"the keeper got {number.name}")

    # -- the client that started the machine -----------------------------------------------------------------------

    def _watch_client(self) -> None:
        assert self.client is not None
        os.set_blocking(self.client.fileno(), False)
        self.loop.watch(self.client, self._hear_client)

    def _hear_client(self) -> None:
        assert self.client is not None
        try:
            packet = self.client.recv(0)
        except (BulkheadError, DeadlineMissed):
            self.loop.unwatch(self.client)
            self.client.close()
            self.client = None
            self.events.publish("CLIENT_GONE")
            if not (self.machine.detach and self.phase == "running"):
                self._restore_terminal()
                self.end("killed", error="the command that started the machine is gone")
            return
        packet.close()
        if packet.kind == "STOP":
            self.end(packet.body.get("reason", "stopped"))
        elif packet.kind == "RESET" and self.phase in ("starting", "running"):
            self._wind_down("resetting")

    def reset(self) -> None:
        """Start the guest again, in new memory."""
        self.events.publish("GUEST_RESET")
        self._wind_down("resetting")

    def restore_terminal_of_client(self, fd: int, saved: list[Any]) -> None:
        """The client has put this terminal into raw mode: should it be killed, undo it."""
        self._terminal = (fd, saved)

    def _restore_terminal(self) -> None:
        if self._terminal is not None and self.phase != "ended":
            restore(*self._terminal)

    def _tell(self, kind: str, **body: Any) -> None:
        if self.client is not None:
            with contextlib.suppress(ChannelClosed, BlockingIOError):
                self.client.send(kind, body)

    def tell_client(self, kind: str, **body: Any) -> None:
        """Say something to the command that started the machine, if it is still there."""
        self._tell(kind, **body)

    # -- starting --------------------------------------------------------------------------------------------------

    def _open_and_start(self) -> None:
        self.services.open()
        for device in self.machine.devices:
            if device.device == CONSOLE:
                self.consoles[device.id] = Console(device, self.stream, self.directory.path)
        if self.stream is not None:
            os.close(self.stream)
            self.stream = None
        self._start_machine()

    def _start_machine(self) -> None:
        """Make memory and start every process; the core comes first, and the devices once it listens."""
        self.resetting = False
        self.pause.begin_anew()
        self.quarantine.begin_anew()
        self.faults.begin_anew()
        self.shared = make_machine_memory(self.machine)
        for member in self.devices:
            make_device_memory(member, self.machine)
            if member.device is not None and has_cable(member.device):
                lay_cable(member, self.peers.get(member.id))
            if member.id in self.consoles:
                self.consoles[member.id].lend(member)
            self.windows.lend(member)
            member.next_epoch()
        self.spawn(self.core, CORE)
        self._start_core()
        for member in self.devices:
            self.spawn(member, DEVICE)
        for member in (*self.peers.values(), *self.windows.members()):
            member.next_epoch()
            self.start_peer(member)

    def start_peer(self, member: Member) -> None:
        """It waits for nobody: START comes with the process."""
        if self.confinement.owns(member):
            self.confinement.start(member)
            return
        if self.windows.owns(member):
            self.windows.start(member)
            return
        self.spawn(member, PEER)
        (device,) = (device for device in self.machine.devices if self.peers.get(device.id) is member)
        assert member.child is not None
        member.started = member.child.send("START", peer_start(self.machine, member, device.backend), member.lent)

    def spawn(self, member: Member, module: str, *, fresh: bool = False) -> None:
        """Give `member` a process: one that has already started, or a new one; with `fresh`, none that has imported
        code which has changed since."""
        child = self._early.pop(module, None)
        if child is None and module == DEVICE:
            child = self.debugs.take(member)
        if (
            child is None
            and module == DEVICE
            and not _is_elsewhere(member)
            and (child := self.spares.take(fresh=fresh)) is not None
        ):
            child.become(member.log)
        if child is None:
            child = Child(module, member.log)
        member.child = child
        self.watch_child(member, child)
        self.traces.started(member, child)

    def watch_child(self, member: Member, child: Child) -> None:
        """From now on, what is heard of a process concerns this member."""
        for source, action in ((child.channel, self._hear), (child.pidfd, self._dead)):
            self.loop.unwatch(source)
            self.loop.watch(source, partial(action, member, child))

    def _start_core(self) -> None:
        assert self.core.child is not None
        endpoints = {member.id: self.endpoint(member) for member in self.devices}
        body, fds = core_start(self.machine, self.devices, endpoints)
        fds |= {name: segment.fd for name, segment in self.shared.items()}
        if self.serial is not None:
            fds["serial"] = self.serial
        if self.machine.gdb:
            self.gdb = self.gdb or Listener(self.machine.gdb, "--gdb")
            fds["gdb"] = self.gdb.socket.fileno()
        self.core.started = self.core.child.send("START", body, fds)  # False: it is dead, as its pidfd will say

    def start_device(self, member: Member) -> None:
        """Send START, once both the process and the core's endpoint are there."""
        if member.child is None or not member.ready or member.started or self.phase not in ("starting", "running"):
            return
        member.give()
        child = member.child
        assert member.device is not None
        relay, curve = self.windows.relay(member.device)
        outlet = self.confinement.lend(member.device) if not relay else {}
        with (
            device_start(self.machine, member, self.shared, self.endpoint(member)) as (body, fds),
            child.log_descriptor() as log,
        ):
            body["sandbox"] = {"mode": "off"} if child.debugged else self.confinement.order(member.device)
            body.update(relay)
            body.update(self.quarantine.start_body(member))
            rules, tally = self.faults.start_body(member)
            body.update(rules)
            member.started = child.send("START", body, fds | log | outlet | curve | tally)
        for fd in curve.values():
            os.close(fd)
        self.loop.after(START_DEADLINE, lambda: self._check_started(member, child))

    def _check_started(self, member: Member, child: Child) -> None:
        """A device whose own start waits for ever, or loops, is given up; not one under a debugger."""
        if member.child is not child or member.state != "starting" or child.debugged or is_traced(child.pid):
            return
        late = f"did not start within {START_DEADLINE:.0f} s"
        self.log(f"{member.id} ({child.pid}) {late}")
        if self.phase == "starting":
            self.quarantine.failed(member, {"crash": True})
            self.end("error", error=f"{member.id} {late}", hint=_tail(child.log), process=member.id)
        elif self.phase == "running":
            member.reason = late
            self.recovery.fence(member)

    def endpoint(self, member: Member) -> str:
        return self.directory.endpoint(member.id, member.epoch)

    # -- what processes say ----------------------------------------------------------------------------------------

    def _hear(self, member: Member, child: Child) -> bool:
        """Take one packet. False when there is none, or none that is right."""
        try:
            packet = child.channel.recv(0)
        except DeadlineMissed:
            return False
        except ChannelClosed:
            self.loop.unwatch(child.channel)
            if not child.debugged:  # which may want to look at what is left
                self.loop.after(CHANNEL_GRACE, lambda: child.kill() if member.child is child else None)
            return False
        except BulkheadError as error:
            self.log(f"{member.id}: {error.describe()}")
            child.kill()
            return False
        try:
            if member is not self.core:
                check(packet.kind, packet.body)
            if self.swaps.hears(member, packet):
                return True
            handler = (self._CORE if member is self.core else self._DEVICE).get(packet.kind)
            if handler is None:
                self._log_of(member, f"{member.id} says {packet.kind[:80]!r}, which means nothing here")
            else:
                handler(self, member, packet)
        except (ProtocolError, TypeError, ValueError, KeyError, AttributeError) as error:
            if member is self.core:
                raise
            self.log(f"{member.id} sends what is no {packet.kind[:80]!r}: {error}")
            child.kill()
        finally:
            packet.close()
        return True

    def _core_ready(self, member: Member, packet: Packet) -> None:
        member.sandbox = _report(packet)
        member.state = "starting guest"
        self.serial_location = packet.body.get("serial") or ""
        for device in self.devices:
            device.ready = True
            self.start_device(device)
        self.loop.after(PATIENCE, self._say_who_is_awaited)

    def _say_who_is_awaited(self) -> None:
        if self.phase == "starting":
            for member in self.devices:
                if member.state == "starting":
                    self._tell("STATE", id=member.id, text=member.reason or "has not started yet")

    def _core_state(self, member: Member, packet: Packet) -> None:
        if self.pause.heard(packet.body.get("state", "")):
            return
        self._tell("STATE", id=member.id, text=packet.body.get("state", ""))

    def _core_started(self, member: Member, packet: Packet) -> None:
        member.state = "running"
        self.phase = "running"
        self.spares.open()
        gdb = self.gdb.location if self.gdb else ""
        self._tell("RUNNING", serial=self.serial_location, gdb=gdb, processes=self.processes())

    def _core_exit(self, member: Member, packet: Packet) -> None:
        if self.phase == "resetting":
            return  # it was told to end; another takes its place
        body = packet.body
        reason = body.get("reason", "error")
        if reason == "reset" and self.machine.reboot and self.phase in ("starting", "running"):
            self.log("the guest asks for a reset")
            self.events.publish("GUEST_RESET")
            self.resetting = True
            if self.client is not None and not self.machine.detach:
                self._tell("RESET")  # it answers RESET, or STOP with a reason
            else:
                self._wind_down("resetting")
            return
        extra = {"error": body["error"]} if body.get("error") else {}
        self.end(reason, int(body.get("code", 0)), instret=body.get("instret", 0), **extra)

    def _connected(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None and device.epoch == packet.body["epoch"]:
            device.config = packet.body.get("config", b"")
            self.recovery.serves(device)

    def _seen(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None:
            (self.quarantine.seen if packet.kind == "SEEN" else self.quarantine.rings)(device, packet.body)

    def _device_bound(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None and device.epoch == packet.body["epoch"]:
            device.ready = True
            self.start_device(device)

    def _refused(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is None or device.epoch != packet.body["epoch"]:
            return
        self.log(f"the core refuses {device.id}: {packet.body['error']}")
        if self.phase == "starting":
            self.end("error", error=f"{device.id} does not fit: {packet.body['error']}")
        else:
            device.reason = packet.body["error"]
            self.recovery.fence(device)

    def _overdue(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None and device.epoch == packet.body["epoch"]:
            if device.child is None or device.child.debugged or is_traced(device.child.pid):
                return
            if not packet.body.get("held") and (device.waits or self.hangs.silent(device)):
                return  # it may be about to; the core will say so again if it does not
            self.log(f"{device.id} did not answer {packet.body['request']} in time")
            device.reason = f"did not answer {packet.body['request']}"
            self.recovery.fence(device)

    def _failed(self, member: Member, packet: Packet) -> None:
        error, hint = packet.body.get("error", "failed"), packet.body.get("hint", "")
        self.log(f"{member.id} failed: {error}")
        self.quarantine.failed(member, packet.body)
        if self.phase == "starting":
            self.end("error", error=error, hint=hint, process=member.id)
        elif self.phase == "running":
            member.reason = error

    def _ready(self, member: Member, packet: Packet) -> None:
        self.quarantine.ready(member, packet.body)
        if isinstance(member.child, Adopted):
            member.child.found(int(packet.body.get("pid", 0)))
        member.sandbox = report_of(packet.body)
        self.windows.ready(member, packet.body)
        if member.device is None:  # a device runs when the core has accepted its HELLO
            self.recovery.serves(member)

    def _device_state(self, member: Member, packet: Packet) -> None:
        member.reason = packet.body.get("state", "")
        member.away = packet.body.get("away", False)

    def _log_packet(self, member: Member, packet: Packet) -> None:
        """A line for a log: the process's own, or (the core speaks of it) a device's."""
        about = self.members.get(packet.body.get("id", ""), member) if member is self.core else member
        line = line_of(str(packet.body.get("text", "")), member.lines)
        if line is None:
            return
        with contextlib.suppress(OSError), open(about.log, "a", encoding="utf-8") as log:
            log.write(f"{time.monotonic() - self.began:9.3f} {line}\n")

    def _store(self, member: Member, packet: Packet) -> None:
        if member.child is not None:
            member.child.send("STORED", {"names": member.keep(packet.fds)})

    def _unstore(self, member: Member, packet: Packet) -> None:
        member.drop([str(name) for name in packet.body.get("names", [])])

    def _held(self, member: Member, packet: Packet) -> None:
        self.faults.heard(member, packet)

    def _alive(self, member: Member, packet: Packet) -> None:
        member.answers += 1

    def _inspected(self, member: Member, packet: Packet) -> None:
        self.inspections.answered(packet.body)

    def _nothing(self, member: Member, packet: Packet) -> None:
        """Known, and of no consequence here."""

    _CORE: dict[str, Callable[[Supervisor, Member, Packet], None]] = {
        "READY": _core_ready,
        "STATE": _core_state,
        "STARTED": _core_started,
        "BOOTED": _nothing,
        "EXIT": _core_exit,
        "FAILED": _failed,
        "CONNECTED": _connected,
        "SEEN": _seen,
        "RINGS": _seen,
        "DEVICE_READY": _device_bound,
        "REFUSED": _refused,
        "OVERDUE": _overdue,
        "INSPECTED": _inspected,
        "LOG": _log_packet,
    }
    _DEVICE: dict[str, Callable[[Supervisor, Member, Packet], None]] = {
        "PREPARED": _nothing,  # a spare that was needed before it had done
        "READY": _ready,
        "STATE": _device_state,
        "FAILED": _failed,
        "LOG": _log_packet,
        "STORE": _store,
        "UNSTORE": _unstore,
        "HELD": _held,
        "ALIVE": _alive,
    }

    # -- death -----------------------------------------------------------------------------------------------------

    def _dead(self, member: Member, child: Child) -> None:
        """The pidfd says that the process is dead: nobody writes its pages or the guest's memory any more."""
        while self._hear(member, child):  # its last words first: EXIT, FAILED
            pass
        self.loop.unwatch(child.channel)
        self.loop.unwatch(child.pidfd)
        if self.debugs.outlives(member, child):
            return
        member.wanted = member.wanted or child.debugged
        status = child.reap()
        self.faults.died(member)
        self.traces.ended(member, child, status)
        member.child = None
        lived = time.monotonic() - child.started
        what = _how_it_ended(status)
        self.log(f"{member.id} ({child.pid}) {what} after {lived:.2f} s")
        if self.phase in ("ending", "resetting"):
            bundle = self.quarantine.died_starting(member, child, status, what, lived)
            if bundle:
                self.outcome["hint"] = _with_bundle(self.outcome.get("hint", ""), bundle)
            member.state = "dead"
            self._continue_if_all_dead()
        elif member is self.core:
            self._core_died(status, what)
        elif self.phase == "starting":
            bundle = self.quarantine.died_starting(member, child, status, what, lived)
            hint = _with_bundle(_tail(child.log), bundle)
            self.end("error", error=f"{member.id} {what} while starting", hint=hint, process=member.id)
        elif not self.swaps.died(member, what):
            self.quarantine.died(member, child, status, what, lived)
            self.recovery.restart(member, lived, what)
            self.quarantine.look(member)

    def await_inner(self, member: Member, child: Child, pidfd: int) -> None:
        """A command is dead whose child is the device's process: that one's death is what counts."""

        def died() -> None:
            self.loop.unwatch(pidfd)
            self._dead(member, child)

        self.loop.watch(pidfd, died)

    def _core_died(self, status: int, what: str) -> None:
        """The core is gone without EXIT: the machine has ended with it."""
        member = self.core
        member.state = "dead"
        if self.resetting and status == 0:
            return  # as it should be: its client is being asked
        reason = "killed" if status == -signal.SIGKILL else "error"
        self.end(reason, error=f"the core {what}", hint=_tail(member.log), process="core")

    def tell_core(self, member: Member, state: str) -> None:
        if member.device is None:
            return  # a peer is nothing to the core
        body = {"id": member.id, "epoch": member.epoch, "state": state, "endpoint": self.endpoint(member)}
        if self.core.child is not None and not self.core.child.send("DEVICE", body):
            self.log("the core does not read its channel")
            self.core.child.kill()

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, reason: str, code: int = 0, **detail: Any) -> None:
        """Wind everything down; the first reason given is the one that is told."""
        if self.phase in ("ending", "ended"):
            return
        self.outcome = {"reason": reason, "code": code, **detail}
        self.events.publish("ENDING", reason=reason, code=code)
        self._wind_down("ending")

    def _wind_down(self, phase: str) -> None:
        self.phase = phase
        if phase == "ending":
            self.spares.close()
        for member in self.members.values():
            if member.child is not None:
                member.state = "stopping"
                if not (member.started and member.child.send("STOP")):
                    member.child.kill()  # it has nothing yet that it could lose, or it does not listen
        self.loop.after(STOP_DEADLINE, self._kill_all)
        self._continue_if_all_dead()

    def _kill_all(self) -> None:
        if self.phase in ("ending", "resetting"):
            for member in self.members.values():
                if member.child is not None:
                    member.child.kill()

    def _continue_if_all_dead(self) -> None:
        if self.phase not in ("ending", "resetting") or any(member.child for member in self.members.values()):
            return
        if self.phase == "ending" and self.spares.alive():
            return
        self._release_memory()
        if self.phase == "resetting":
            self.phase = "starting"
            self.core.started = False
            self.attempt(self._start_machine)
        else:
            self._finish()

    def _release_memory(self) -> None:
        for member in self.members.values():
            member.close()
        self.confinement.forget()
        while self.shared:
            self.shared.popitem()[1].close()

    def _finish(self) -> None:
        """Everything is dead: remove what is left, then say how it ended."""
        self.phase = "ended"
        self.services.close()
        self.windows.close()
        self.recordings.close()
        self.traces.close()
        self.faults.close()
        self.debugs.close()
        for console in self.consoles.values():
            console.close()
        self.directory.remove()
        self._control.close()  # now `stop` comes back: the name is free
        if self.gdb is not None:
            self.gdb.close()
        if self.serial is not None:
            os.close(self.serial)
            self.serial = None
        self._tell("EXIT", **self.outcome)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def processes(self) -> list[dict[str, Any]]:
        """One row a process, the core first; counters since the machine started."""
        return [self._row(member) for key, member in self.members.items() if not self.swaps.is_hidden(key)] + [
            *self.spares.rows(),
            *self.services.rows(),
        ]

    def _row(self, member: Member) -> dict[str, Any]:
        row = row_of(member, self.shared)
        return row | {"terminals": self.consoles[member.id].locations} if member.id in self.consoles else row

    def _log_of(self, member: Member, text: str) -> None:
        """A line that a process causes, which may cause many."""
        if (line := line_of(text, member.lines)) is not None:
            self.log(line)

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:9.3f} {text}", flush=True)  # standard output is the keeper's log


def _is_elsewhere(member: Member) -> bool:
    """Must its process keep the host's network, which a spare has given up?"""
    return member.device is not None and member.device.relay not in ("", WINDOW)


def _report(packet: Packet) -> dict[str, Any] | None:
    """What a process says of its sandbox, if that is what it looks like; nothing depends on it."""
    report = packet.body.get("sandbox")
    return report if isinstance(report, dict) else None


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _with_bundle(hint: str, bundle: str) -> str:
    return f"{hint}\nSee: bulkhead crashes {bundle}".strip() if bundle else hint


def _tail(log: Path) -> str:
    """The end of a log: what a process said before it died."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL))
        return file.read().decode(errors="replace").strip()
    return ""
