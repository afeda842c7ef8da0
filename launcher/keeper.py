"""The keeper: one single-threaded process a machine, which starts, watches and ends every other process of it.

    python -m launcher.keeper NAME RUN_DIRECTORY SCRATCH_DIRECTORY CLIENT_FD LOCK_FD…

It is started by `bulkhead run` with an inherited channel, over which it gets one packet, MACHINE (the description, and
the descriptor of the serial line), and says STATE, RUNNING, RESET, and at the end EXIT{reason, code, error, hint}. It
holds guest RAM, control pages and in-flight tables, so that no other process's death takes them along. One selector
serves channels, pidfds, signals, timers and the control socket (`launcher.control`).

* A device's death is what its pidfd says, nothing else. Then its page is reset, the core is told (DEVICE dead), and a
  successor of the next epoch is started, after a back-off when they die young. The core binds the new endpoint
  (DEVICE starting → DEVICE_READY) before the successor gets its START.
* The core's end is the machine's. So is the end of the client that started it, unless detached; SIGTERM and SIGINT;
  an order over the control socket. Everything is asked to stop, and killed when it does not within a second.
* A guest's reset starts the whole machine again, in new memory, unless the client, which has seen what the guest said
  last, answers RESET with STOP and a reason.
* The run directory is removed before anybody is told that the machine has ended.
* When the keeper itself is killed, the kernel kills its children, and the next `bulkhead` command sweeps.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.child import Child
from launcher.control import ControlServer
from launcher.machine import RAM_BASE, Device, Machine
from launcher.rundir import RunDirectory
from launcher.segments import Segment
from launcher.terminal import restore
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed
from proto.inflight import region_size
from proto.pages import (
    MAX_QUEUES,
    PAGE_SIZE,
    CoreStats,
    LinkMode,
    format_core_page,
    format_device_page,
    format_stats_page,
    queue_statistics,
    read_word,
    reset_device_page,
)

__all__ = ["Keeper", "main"]

QUEUE_SIZE = 1024  # the largest ring an in-flight table has room for
START_DEADLINE = 30.0  # seconds for the client's description
STOP_DEADLINE = 0.7  # seconds that a process has between STOP and SIGKILL
FENCE_DEADLINE = 1.0  # seconds after SIGKILL until a process is called stuck
CHANNEL_GRACE = 1.0  # seconds between a process's end-of-file and SIGKILL
BACKOFF_FIRST = 0.05  # seconds before the second quick restart; doubles
BACKOFF_LIMIT = 5.0
YOUNG = 10.0  # a process that lived this long starts with a clean record
SECTOR = 512
LOG_TAIL = 2000  # bytes of a log that an error brings along


class Member:
    """A process of the machine, through all its lives: the core, or one device."""

    def __init__(self, id: str, role: str, device: Device | None) -> None:
        self.id = id
        self.role = role
        self.device = device
        self.child: Child | None = None
        self.state = "starting"
        self.epoch = 0
        self.restarts = 0
        self.young_deaths = 0  # in a row
        self.reason = ""  # why it is in a state that is not "running"
        self.ready = False  # the core has bound this epoch's endpoint
        self.started = False  # START was sent in this epoch
        self.wanted = False  # its death is an order, not a failure
        self.segments: dict[str, Segment] = {}

    def close(self) -> None:
        """Let the segments go."""
        while self.segments:
            self.segments.popitem()[1].close()


class Keeper:
    """The supervisor of one machine."""

    def __init__(self, machine: Machine, directory: RunDirectory, client: Channel, fds: dict[str, int]) -> None:
        self.machine = machine
        self.directory = directory
        self.client: Channel | None = client
        self.serial = fds.pop("serial", None)  # kept for the next start, after a reset
        self.serial_location = ""
        self._terminal: tuple[int, list[Any]] | None = None
        self.phase = "starting"  # running, resetting, ending, ended
        self.began = time.monotonic()
        self.outcome: dict[str, Any] = {}
        self.resetting = False  # the core has ended because the guest asked for a reset
        self.core = Member("core", "core", None)
        self.devices = [Member(device.id, device.role, device) for device in machine.devices]
        self.members = {member.id: member for member in (self.core, *self.devices)}
        self.shared: dict[str, Segment] = {}
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._control = ControlServer(directory.control, self._selector, self._ask)

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the machine and serve until it has ended."""
        self._watch_signals()
        self._watch_client()
        self._attempt(self._start_machine)
        while self.phase != "ended":
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, _ in self._selector.select(timeout):
                if key.fileobj in self._selector.get_map():  # not unregistered by an earlier event of this round
                    key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something that may not be possible; if it is not, the machine ends with the reason."""
        try:
            action()
        except BulkheadError as error:
            self.end("error", error=error.message, hint=error.hint)
        except OSError as error:
            self.end("error", error=f"cannot start a process: {error.strerror}")

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ticket), action))

    def _watch_signals(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._signals = (ours, theirs)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def received() -> None:
            numbers = ours.recv(64)
            self.end("killed", error=f"the keeper got {signal.Signals(numbers[0]).name}")

        self._selector.register(ours, selectors.EVENT_READ, received)

    # -- the client that started the machine -----------------------------------------------------------------------

    def _watch_client(self) -> None:
        assert self.client is not None
        os.set_blocking(self.client.fileno(), False)
        self._selector.register(self.client, selectors.EVENT_READ, self._hear_client)

    def _hear_client(self) -> None:
        assert self.client is not None
        try:
            packet = self.client.recv(0)
        except (BulkheadError, DeadlineMissed):
            self._selector.unregister(self.client)
            self.client.close()
            self.client = None
            if not (self.machine.detach and self.phase == "running"):
                self._restore_terminal()
                self.end("killed", error="the command that started the machine is gone")
            return
        packet.close()
        if packet.kind == "STOP":
            self.end(packet.body.get("reason", "stopped"))
        elif packet.kind == "RESET" and self.phase in ("starting", "running"):
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

    # -- starting --------------------------------------------------------------------------------------------------

    def _start_machine(self) -> None:
        """Make memory and start every process; the core comes first, and the devices once it listens."""
        self.resetting = False
        memory = self.machine.memory
        self.shared = {
            "ram0": Segment(memory, "guest memory"),
            "dirty0": Segment(-(-memory // PAGE_SIZE), "the dirty map"),
            "stats": Segment(PAGE_SIZE, "the statistics page"),
        }
        format_stats_page(self.shared["stats"].view())
        mode = LinkMode.MESSAGES if self.machine.link == "messages" else LinkMode.WORDS
        for member in self.devices:
            member.segments = {
                "core_to_device": Segment(PAGE_SIZE, "a control page"),
                "device_to_core": Segment(PAGE_SIZE, "a control page"),
                "inflight": Segment(region_size(MAX_QUEUES, QUEUE_SIZE), "an in-flight table"),
            }
            format_core_page(member.segments["core_to_device"].view(), mode)
            format_device_page(member.segments["device_to_core"].view())
            self._next_epoch(member)
        self._spawn(self.core, "core.main")
        self._start_core()
        for member in self.devices:
            self._spawn(member, "devproc.main")

    def _next_epoch(self, member: Member) -> None:
        member.epoch += 1
        member.ready = member.started = member.wanted = False
        member.state, member.reason = "starting", ""
        reset_device_page(member.segments["device_to_core"].view(), member.epoch)

    def _spawn(self, member: Member, module: str) -> None:
        """Start a process for `member`; a later pool of spares gives one that has already started."""
        child = member.child = Child(member.id, module, self.directory.log(member.id))
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._hear(member, child))
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._dead(member, child))

    def _start_core(self) -> None:
        assert self.core.child is not None
        machine, places = self.machine, self.machine.places()
        fds = {name: segment.fd for name, segment in self.shared.items()}
        devices = []
        for member in self.devices:
            assert member.device is not None
            devices.append(
                {
                    "id": member.id,
                    "kind": member.device.kind,
                    **places[member.id],
                    "epoch": member.epoch,
                    "endpoint": self.directory.endpoint(member.id, member.epoch),
                    "queue_size": QUEUE_SIZE,
                }
            )
            for name in ("core_to_device", "device_to_core"):
                fds[f"{member.id}.{name}"] = member.segments[name].fd
        if self.serial is not None:
            fds["serial"] = self.serial
        body: dict[str, Any] = {
            "id": "core",
            "machine": {key: value for key, value in machine.as_dict().items() if key not in ("devices", "serial")},
            "devices": devices,
            "serial": {"kind": machine.serial.kind, "path": machine.serial.path},
        }
        if machine.boot == "disk":
            body["machine"]["boot_sector"] = _boot_sector(machine)
        if not self.core.child.send("START", body, fds):
            raise ConfigError("the core ended before it was started")
        self.core.started = True

    def _start_device(self, member: Member) -> None:
        """Send START, once both the process and the core's endpoint are there."""
        if member.child is None or not member.ready or member.started or self.phase not in ("starting", "running"):
            return
        assert member.device is not None
        body = {
            "id": member.id,
            "role": member.role,
            "epoch": member.epoch,
            "machine": self.machine.name,
            "device": member.device.device,
            "properties": dict(member.device.properties),
            "backend": member.device.backend,
            "endpoint": self.directory.endpoint(member.id, member.epoch),
            "regions": [{"id": 0, "gpa": RAM_BASE, "size": self.machine.memory}],
            "queues_max": MAX_QUEUES,
            "queue_size": QUEUE_SIZE,
            "log_level": logging.DEBUG if self.machine.verbose else logging.INFO,
        }
        segments = member.segments
        with segments["core_to_device"].read_only() as core_page:
            fds = {
                "region0": self.shared["ram0"].fd,
                "dirty0": self.shared["dirty0"].fd,
                "core_to_device": core_page,
                "device_to_core": segments["device_to_core"].fd,
                "inflight": segments["inflight"].fd,
            }
            member.started = member.child.send("START", body, fds)

    # -- what processes say ----------------------------------------------------------------------------------------

    def _hear(self, member: Member, child: Child) -> None:
        try:
            packet = child.channel.recv(0)
        except DeadlineMissed:
            return
        except ChannelClosed:
            self._selector.unregister(child.channel)
            self._after(CHANNEL_GRACE, lambda: child.kill() if member.child is child else None)
            return
        except BulkheadError as error:
            self._log(f"{member.id}: {error.describe()}")
            child.kill()
            return
        try:
            handler = (self._CORE if member is self.core else self._DEVICE).get(packet.kind)
            if handler is None:
                self._log(f"{member.id} says {packet.kind}, which means nothing here")
            else:
                handler(self, member, packet)
        finally:
            packet.close()

    def _core_ready(self, member: Member, packet: Packet) -> None:
        member.state = "starting guest"
        self.serial_location = packet.body.get("serial") or ""
        for device in self.devices:
            device.ready = True
            self._start_device(device)

    def _core_state(self, member: Member, packet: Packet) -> None:
        self._tell("STATE", id=member.id, text=packet.body.get("state", ""))

    def _core_started(self, member: Member, packet: Packet) -> None:
        member.state = "running"
        self.phase = "running"
        self._tell("RUNNING", serial=self.serial_location, processes=self.processes())

    def _core_exit(self, member: Member, packet: Packet) -> None:
        body = packet.body
        reason = body.get("reason", "error")
        if reason == "reset" and self.machine.reboot and self.phase in ("starting", "running"):
            self._log("the guest asks for a reset")
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
            device.state, device.reason = "running", ""

    def _device_bound(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None and device.epoch == packet.body["epoch"]:
            device.ready = True
            self._start_device(device)

    def _refused(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is None or device.epoch != packet.body["epoch"]:
            return
        self._log(f"the core refuses {device.id}: {packet.body['error']}")
        if self.phase == "starting":
            self.end("error", error=f"{device.id} does not fit: {packet.body['error']}")
        else:
            device.reason = packet.body["error"]
            self._fence(device)

    def _overdue(self, member: Member, packet: Packet) -> None:
        device = self.members.get(packet.body["id"])
        if device is not None and device.epoch == packet.body["epoch"]:
            self._log(f"{device.id} did not answer {packet.body['request']} in time")
            self._fence(device)

    def _failed(self, member: Member, packet: Packet) -> None:
        error, hint = packet.body.get("error", "failed"), packet.body.get("hint", "")
        self._log(f"{member.id} failed: {error}")
        if self.phase == "starting":
            self.end("error", error=error, hint=hint, process=member.id)
        elif self.phase == "running":
            member.reason = error

    def _device_state(self, member: Member, packet: Packet) -> None:
        member.reason = packet.body.get("state", "")

    def _log_packet(self, member: Member, packet: Packet) -> None:
        self._log(f"{packet.body.get('id', member.id)}: {packet.body.get('text', '')}")

    def _nothing(self, member: Member, packet: Packet) -> None:
        """Known, and of no consequence here."""

    _CORE: dict[str, Callable[[Keeper, Member, Packet], None]] = {
        "READY": _core_ready,
        "STATE": _core_state,
        "STARTED": _core_started,
        "BOOTED": _nothing,
        "EXIT": _core_exit,
        "FAILED": _failed,
        "CONNECTED": _connected,
        "DEVICE_READY": _device_bound,
        "REFUSED": _refused,
        "OVERDUE": _overdue,
        "LOG": _log_packet,
    }
    _DEVICE: dict[str, Callable[[Keeper, Member, Packet], None]] = {
        "READY": _nothing,  # "running" is when the core has accepted its HELLO
        "STATE": _device_state,
        "FAILED": _failed,
        "LOG": _log_packet,
    }

    # -- death -----------------------------------------------------------------------------------------------------

    def _dead(self, member: Member, child: Child) -> None:
        """The pidfd says that the process is dead: nobody writes its pages or the guest's memory any more."""
        while child.channel in self._selector.get_map():  # its last words first: EXIT, FAILED
            self._hear(member, child)
        self._selector.unregister(child.pidfd)
        status = child.reap()
        member.child = None
        lived = time.monotonic() - child.started
        what = _how_it_ended(status)
        self._log(f"{member.id} ({child.pid}) {what} after {lived:.2f} s")
        if self.phase in ("ending", "resetting"):
            member.state = "dead"
            self._continue_if_all_dead()
        elif member is self.core:
            self._core_died(status, what)
        elif self.phase == "starting":
            hint = _tail(child.log)
            self.end("error", error=f"{member.id} {what} while starting", hint=hint, process=member.id)
        else:
            self._restart(member, lived, what)

    def _core_died(self, status: int, what: str) -> None:
        """The core is gone without EXIT: the machine has ended with it."""
        member = self.core
        member.state = "dead"
        if self.resetting and status == 0:
            return  # as it should be: its client is being asked
        reason = "killed" if status == -signal.SIGKILL else "error"
        self.end(reason, error=f"the core {what}", hint=_tail(self.directory.log("core")), process="core")

    def _restart(self, member: Member, lived: float, what: str) -> None:
        """A device is dead: a successor of the next epoch takes its place, soon."""
        if not member.reason:
            member.reason = what
        reason = member.reason
        self._tell_core(member, "dead")
        if member.wanted:
            member.young_deaths = 0
        else:
            member.young_deaths = member.young_deaths + 1 if lived < YOUNG else 1
        member.restarts += 1
        member.wanted = False
        member.state = "restarting"
        quick = member.young_deaths - 1
        delay = min(BACKOFF_LIMIT, BACKOFF_FIRST * 2 ** (quick - 1)) if quick > 0 else 0.0

        def start() -> None:
            if self.phase != "running" or member.child is not None:
                return
            self._next_epoch(member)
            member.reason = reason
            self._tell_core(member, "starting")
            self._attempt(lambda: self._spawn(member, "devproc.main"))

        if delay:
            self._after(delay, start)
        else:
            start()

    def _tell_core(self, member: Member, state: str) -> None:
        endpoint = self.directory.endpoint(member.id, member.epoch)
        body = {"id": member.id, "epoch": member.epoch, "state": state, "endpoint": endpoint}
        if self.core.child is not None and not self.core.child.send("DEVICE", body):
            self._log("the core does not read its channel")
            self.core.child.kill()

    def _fence(self, member: Member) -> None:
        """Make sure that a process is dead; its pidfd will say so. One that cannot be killed is shown as stuck."""
        child = member.child
        if child is None:
            return
        child.kill()

        def look() -> None:
            if member.child is child:
                member.state, member.reason = "stuck", "cannot be killed; its requests stay pending"
                self._tell_core(member, "stuck")

        self._after(FENCE_DEADLINE, look)

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, reason: str, code: int = 0, **detail: Any) -> None:
        """Wind everything down; the first reason given is the one that is told."""
        if self.phase in ("ending", "ended"):
            return
        self.outcome = {"reason": reason, "code": code, **detail}
        self._wind_down("ending")

    def _wind_down(self, phase: str) -> None:
        self.phase = phase
        for member in self.members.values():
            if member.child is not None:
                member.state = "stopping"
                if not (member.started and member.child.send("STOP")):
                    member.child.kill()  # it has nothing yet that it could lose, or it does not listen
        self._after(STOP_DEADLINE, self._kill_all)
        self._continue_if_all_dead()

    def _kill_all(self) -> None:
        if self.phase in ("ending", "resetting"):
            for member in self.members.values():
                if member.child is not None:
                    member.child.kill()

    def _continue_if_all_dead(self) -> None:
        if any(member.child is not None for member in self.members.values()):
            return
        self._release_memory()
        if self.phase == "resetting":
            self.phase = "starting"
            self.core.started = False
            self._attempt(self._start_machine)
        else:
            self._finish()

    def _release_memory(self) -> None:
        for member in self.members.values():
            member.close()
        while self.shared:
            self.shared.popitem()[1].close()

    def _finish(self) -> None:
        """Everything is dead: remove what is left, then say how it ended."""
        self.phase = "ended"
        self._control.close()
        self.directory.remove()
        if self.serial is not None:
            os.close(self.serial)
            self.serial = None
        self._tell("EXIT", **self.outcome)

    # -- questions -------------------------------------------------------------------------------------------------

    def _ask(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request of the control socket. Raises BulkheadError."""
        handler = self._REQUESTS.get(kind)
        if handler is None:
            raise ConfigError(f"the keeper knows no request {kind}", hint=f"It knows: {', '.join(self._REQUESTS)}.")
        return handler(self, body)

    def _ask_ps(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "machine": self.machine.name,
            "phase": self.phase,
            "guest": self.machine.guest,
            "uptime": time.monotonic() - self.began,
            "kips": self._core_word("kips"),
            "serial": self.serial_location,
            "processes": self.processes(),
        }

    def _ask_stop(self, body: dict[str, Any]) -> dict[str, Any]:
        self.end("stopped")
        return {}

    def _ask_restart(self, body: dict[str, Any]) -> dict[str, Any]:
        member = self.members.get(body.get("id", ""))
        if member is None:
            known = ", ".join(self.members)
            raise ConfigError(f"{self.machine.name} has no process {body.get('id')}", hint=f"It has: {known}.")
        if member is self.core or self.phase != "running":
            raise ConfigError(
                f"{member.id} cannot be restarted {'' if member is self.core else 'now'}".rstrip(),
                hint="The guest lives in the core: `bulkhead stop` ends it." if member is self.core else "",
            )
        child = member.child
        if child is None:
            return {"epoch": member.epoch + 1}  # on its way
        member.wanted = True
        if not (member.started and child.send("STOP")):
            self._fence(member)
        self._after(STOP_DEADLINE, lambda: self._fence(member) if member.child is child else None)
        return {"epoch": member.epoch + 1}

    _REQUESTS: dict[str, Callable[[Keeper, dict[str, Any]], dict[str, Any]]] = {
        "PS": _ask_ps,
        "STOP": _ask_stop,
        "RESTART": _ask_restart,
    }

    def processes(self) -> list[dict[str, Any]]:
        """One row a process, the core first; counters since the machine started."""
        return [self._row(member) for member in self.members.values()]

    def _row(self, member: Member) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": member.id,
            "role": member.role,
            "pid": member.child.pid if member.child else None,
            "state": member.state,
            "epoch": member.epoch or None,
            "restarts": member.restarts if member.device else None,
            "reason": member.reason,
            "log": str(self.directory.log(member.id)),
        }
        if member.device is not None:
            row["backend"] = member.device.describe()
            row |= self._counters(member)
        else:
            row["instructions"] = self._core_word("instret")
        return row

    def _counters(self, member: Member) -> dict[str, int]:
        counters = {"requests": 0, "bytes": 0, "errors": 0, "queue": 0}
        if member.segments:
            page = member.segments["device_to_core"].view()
            for queue in range(MAX_QUEUES):
                seen = queue_statistics(page, queue)
                counters["requests"] += seen.requests
                counters["bytes"] += seen.bytes_read + seen.bytes_written
                counters["errors"] += seen.errors
                counters["queue"] += seen.in_flight
        return counters

    def _core_word(self, field: str) -> int:
        return read_word(self.shared["stats"].view(), CoreStats, field) if "stats" in self.shared else 0

    def _log(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:9.3f} {text}", flush=True)  # standard output is the keeper's log


def _boot_sector(machine: Machine) -> bytes:
    """Sector 0 of the first disk, as it is now. Raises ConfigError."""
    disk = next((device for device in machine.devices if device.backend), None)
    if disk is None:
        raise ConfigError("--boot disk without a disk", hint="Add one: --disk FILE")
    scheme, _, path = disk.backend.partition(":")
    if scheme != "file":
        raise ConfigError(f"--boot disk cannot start from {disk.backend}", hint="The first disk must be a raw file.")
    try:
        with open(path, "rb") as image:
            return image.read(SECTOR)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {(error.strerror or '').lower()}") from error


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _tail(log: Path) -> str:
    """The end of a log: what a process said before it died."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL))
        return file.read().decode(errors="replace").strip()
    return ""


def main(arguments: list[str]) -> int:
    """Entry of the keeper's process."""
    name, path, scratch, client_fd, *locks = arguments
    directory = RunDirectory(name, Path(path), Path(scratch), [int(lock) for lock in locks])
    for descriptor in (int(client_fd), *directory.locks):
        os.set_inheritable(descriptor, False)
    client = Channel(socket.socket(fileno=int(client_fd)))
    try:
        packet = client.recv(START_DEADLINE)
        saved = packet.body.pop("terminal", None)
        keeper = Keeper(Machine.from_dict(packet.body), directory, client, packet.fds)
        if saved is not None:
            keeper.restore_terminal_of_client(packet.fds["terminal"], saved)
        keeper.run()
    except ChannelClosed:  # the client ended before it had said anything
        directory.remove()
        return 1
    except Exception as error:
        traceback.print_exc()
        hint = traceback.format_exc()
        with contextlib.suppress(BulkheadError, OSError):
            client.send("EXIT", {"reason": "error", "error": f"the keeper failed: {error}", "hint": hint})
        directory.remove()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
