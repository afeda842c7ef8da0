"""Swapping what is behind a device, or its code, under a running guest: the half of it that is the keeper's.

The order, with the names by which docs/swap.md and the tests know the steps:

    1 start     a spare becomes the new process, of the next epoch; the core binds a second endpoint for it
    2 ready     it has opened its backend and said HELLO, and the core finds that it fits. Until here the old process
                serves, and whatever goes wrong concerns the new one alone
    3 quiesce   the old process finishes what it has taken and takes nothing more (bounded; a late one is killed)
    4 save      its state is asked for; where the new process needs what the old one has locked, the old one lets go
                of it, and only now the new one opens it
    5 load      the new process takes the state over. The last moment at which the old one can go on
    6 fence     the old process is stopped: every thread of it has left the kernel and runs no more. Then it is killed;
                nobody waits until its memory is taken apart, which takes 33 ms a GiB
    7 adopt     the page begins a new epoch; the core tells the new process TAKE_OVER and all that the driver settled
    8 done      the new process has pages and rings; the old one is reaped when its pidfd says so

A stopped process cannot write: SIGSTOP takes effect at the border of the kernel, so that a system call which writes
guest memory has ended, and SIGKILL comes before anybody could let it continue. What does not stop in time (a debugger
holds it) is killed first, and then its pidfd is waited for. The in-flight table makes all of this safe even if the old
process was caught in the middle: what it had taken comes again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devproc.blk.uri import name_overlays, storage
from launcher.keeper.child import Child
from launcher.keeper.member import Member, peer_start
from launcher.keeper.network import has_peer, lay_frames, peer_name
from launcher.machine.description import NETWORK, WINDOW, Device
from proto.channel import Packet
from proto.errors import BulkheadError, ConfigError
from proto.pages import reset_device_page

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Swap", "Swaps"]

DEVICE, PEER = "devproc.main", "devproc.net.peer"  # modules of the processes
START_DEADLINE = 30.0  # seconds for the new process to start, open its backend and fit
QUIESCE_DEADLINE = 0.25  # seconds for the old one to finish what it has taken; the new one does the rest again
SAVE_DEADLINE = 2.0  # the same of a device without queues: what it keeps is nowhere else
LATE_DEADLINE = 15.0  # seconds for the new one to open what the old one has let go, while the guest waits
STOP_DEADLINE = 0.03  # seconds from SIGSTOP until all threads stand
ADOPT_DEADLINE = 15.0  # seconds from TAKE_OVER's sending to CONNECTED
LOOK = 0.001  # seconds between two looks whether it stands
PATIENCE = 0.003  # seconds for which the keeper waits for that itself: its timers are coarse, and it is mostly sooner
NAP = 0.0001
CABLE_OUT = 0.3  # seconds that a network card's link is down, so that the guest notices and renews its address
KEPT_RESULTS = 64


class Swap:
    """One device on its way from one process to another. `state` is a step of the order, or waiting, done, failed."""

    def __init__(
        self,
        swaps: Swaps,
        number: int,
        member: Member,
        device: Device,
        after: Callable[[Swap], None],
        objection: Callable[[], str],
    ) -> None:
        """`after` is called when it is over; `objection` once the old process is quiet: why it must not be, or ""."""
        self.number = number
        self.state = "waiting"
        self._steps: list[tuple[str, float]] = []  # of the pause: when each began
        self.error = self.hint = ""
        self.pause = 0.0  # seconds from QUIESCE to the new process's connection
        self.member = member
        self.front = member  # whose description changes; another one where the device is behind a window
        self._swaps = swaps
        self._supervisor = swaps.supervisor
        self._device = device
        self._after = after
        self._objection = objection
        self._late = False  # the new one opens what it needs when the old one has let go
        self._quiet = False
        self._lost = False  # the old process is gone for good
        self._peer_ready = True
        self._fits = False
        self._began = 0.0
        self.new = Member(member.id, device.role, device, member.log)
        self.peer: Member | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def holds(self) -> bool:
        """Is the device between two processes? Then nobody else starts one."""
        return self.state in ("quiesce", "save", "load", "fence", "adopt")

    def result(self) -> dict[str, Any]:
        """For who asked."""
        return {
            "state": self.state,
            "error": self.error,
            "hint": self.hint,
            "pause_ms": self.pause * 1000,
            "epoch": self.new.epoch,
            "backend": self.front.device.describe() if self.front.device else "",
        }

    # -- 1 start, 2 ready ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the new process. Raises BulkheadError, OSError."""
        member, new, supervisor = self.member, self.new, self._supervisor
        assert member.device is not None
        self.state = "start"
        new.candidate = True
        new.epoch = member.claim_epoch()
        new.late = self._shares_storage()
        new.segments, new.store, new.lent = member.segments, member.store, member.lent
        self._lay_cable()
        supervisor.members[f"{member.id}+"] = new
        supervisor.spawn(new, DEVICE, fresh=True)
        self._tell_core("candidate", endpoint=supervisor.endpoint(new))
        self._deadline(START_DEADLINE, ("start", "ready"), f"it did not start within {START_DEADLINE:.0f} s")

    def _shares_storage(self) -> bool:
        """Would both have the same image open?"""
        old, new = self.front.device, self._device
        if old is None or (old.device, new.device) != ("blk", "blk"):
            return False
        return bool(storage(old.backend) & storage(new.backend))

    def _lay_cable(self) -> None:
        """Another network: what is behind the new one has a process and a cable of its own."""
        old, peer = self.front.device, None
        if old is None or self._device.device != NETWORK or self._device.backend == old.backend:
            return
        if has_peer(self._device):
            id, role = peer_name(self._device)
            self.peer = peer = Member(id, role, None, self._supervisor.directory.log(id))
            peer.next_epoch()
        self.new.lent = lay_frames(self.member.lent, self._device, peer)
        if peer is not None:
            self._peer_ready = False
            self._supervisor.members[f"{peer.id}+"] = peer
            self._supervisor.spawn(peer, PEER)
            assert peer.child is not None
            body = peer_start(self._supervisor.machine, peer, self._device.backend)
            peer.started = peer.child.send("START", body, peer.lent)

    def _check_ready(self) -> None:
        if self.state == "start" and self._fits and self._peer_ready:
            self.state = "ready"
            self._quiesce()

    # -- 3 quiesce, 4 save, 5 load ---------------------------------------------------------------------------------

    def _quiesce(self) -> None:
        member = self.member
        self._began = time.monotonic()
        self._step("quiesce")
        self._tell_core("quiesce", release=self._late)
        if member.child is not None and member.state != "running":  # it starts, or hangs: it has nothing to give
            self._kill_old()
        elif member.child is not None:
            has_queues = self._supervisor.quarantine.known(member)["device_id"]
            deadline = QUIESCE_DEADLINE if has_queues else SAVE_DEADLINE
            self._supervisor.loop.after(deadline, lambda: self._check_quiet(deadline))
        else:
            member.state = "swapping"

    def _check_quiet(self, deadline: float) -> None:
        if self.state == "quiesce" and not self._quiet:
            self._supervisor.log(f"{self.member.id} did not finish within {deadline} s, and is killed")
            self._kill_old()

    def _kill_old(self) -> None:
        self._supervisor.recovery.fence(self.member)

    def _old_is_quiet(self) -> None:
        self._quiet = True
        self._step("load")
        objection = self._objection()
        if objection:
            self.fail(objection)
            return
        if self._late and self.new.child is not None:
            self.new.give()
            self.new.child.send("GO")
            self._deadline(LATE_DEADLINE, ("load",), f"it did not open within {LATE_DEADLINE:.0f} s")

    # -- 6 fence ---------------------------------------------------------------------------------------------------

    def _fence(self) -> None:
        child = self.member.child
        self._step("fence")
        if child is None:
            self._adopt()
            return
        child.signal(signal.SIGSTOP)
        end = time.monotonic() + PATIENCE
        while not child.is_stopped() and time.monotonic() < end:
            time.sleep(NAP)
        self._look_at_old(child, time.monotonic() + STOP_DEADLINE)

    def _look_at_old(self, child: Child, deadline: float) -> None:
        if self.state != "fence" or self.member.child is not child:
            return
        if child.is_stopped():
            child.kill()
            self._swaps.retire(self.member, child)
            self._adopt()
        elif time.monotonic() < deadline:
            self._supervisor.loop.after(LOOK, lambda: self._look_at_old(child, deadline))
        else:
            self._kill_old()  # its pidfd says when

    # -- 7 adopt, 8 done -------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        self._step("adopt")
        self._lost = True
        if self.new.child is None:  # it died in this very moment
            self._give_up()
            return
        reset_device_page(self.member.segments["device_to_core"].view(), self.new.epoch)
        self._supervisor.recordings.tell(self.member, self.new.child)
        self._supervisor.faults.tell(self.member, self.new.child)
        self._tell_core("adopt")
        self._deadline(ADOPT_DEADLINE, ("adopt",), f"it did not take over within {ADOPT_DEADLINE:.0f} s")

    def _finish(self) -> None:
        member, new, supervisor = self.member, self.new, self._supervisor
        assert new.child is not None
        self._step("done")
        self.pause = self._steps[-1][1] - self._began
        supervisor.members.pop(f"{member.id}+", None)
        other_cable = new.lent is not member.lent
        if other_cable:
            os.close(member.lent["frames"])
            self._change_peer()
        member.child, member.epoch, member.lent = new.child, new.epoch, new.lent
        self.front.device, self.front.config = self._device, new.config
        member.ready = member.started = True
        member.wanted, member.young_deaths = False, 0
        member.sandbox = new.sandbox
        supervisor.quarantine.forget(member)
        supervisor.recovery.serves(member)
        supervisor.events.publish(
            "DEVICE_SWAPPED",
            self.front.id,
            pid=new.child.pid,
            epoch=new.epoch,
            backend=self._device.describe(),
            ms=round(self.pause * 1000, 1),
        )
        child, new.child = new.child, None  # the member's from now on, whatever was planned for the new one
        supervisor.watch_child(member, child)
        devices = tuple(self._device if old.id == self.front.id else old for old in supervisor.machine.devices)
        supervisor.machine = dataclasses.replace(supervisor.machine, devices=devices)
        pause = f"{self.pause * 1000:.1f} ms: {self._spent()}"
        supervisor.log(f"{member.id} ({child.pid}) has taken over, after a pause of {pause}")
        if other_cable:
            self._replug(child)
        self._swaps.finished(self)
        self._after(self)

    def _change_peer(self) -> None:
        supervisor, id = self._supervisor, self.front.id
        old = supervisor.peers.pop(id, None)
        if old is not None:
            supervisor.members.pop(old.id, None)
            if old.child is not None:
                old.child.send("STOP")
                self._swaps.retire(old, old.child)
            old.close()
        if self.peer is not None:
            supervisor.members.pop(f"{self.peer.id}+", None)
            supervisor.members[self.peer.id] = supervisor.peers[id] = self.peer

    def _replug(self, child: Child) -> None:
        """As if the cable had been pulled out of one wall and plugged into another."""
        child.send("TELL", {"kind": "link", "up": False})

        def plug_in() -> None:
            if self.member.child is child:
                child.send("TELL", {"kind": "link", "up": True})

        self._supervisor.loop.after(CABLE_OUT, plug_in)

    # -- when it does not work out ---------------------------------------------------------------------------------

    def fail(self, error: str, hint: str = "") -> None:
        """The new process is not wanted: it is killed, and when it is dead the old one goes on."""
        if self.over or self.error:
            return
        self.error, self.hint = error, hint
        for member in (self.new, self.peer):
            if member is not None and member.child is not None:
                member.child.kill()
        self._give_up()

    def _give_up(self) -> None:
        """Once nobody of the new ones lives."""
        if self.over or self.new.child is not None or (self.peer is not None and self.peer.child is not None):
            return
        member, supervisor = self.member, self._supervisor
        self.pause = time.monotonic() - self._began if self._began else 0.0
        self.state = "failed"
        for key, other in ((f"{member.id}+", self.new), (f"{self.peer.id}+" if self.peer else "", self.peer)):
            if other is not None and supervisor.members.get(key) is other:
                del supervisor.members[key]
        if self.new.lent is not member.lent and "frames" in self.new.lent:
            os.close(self.new.lent["frames"])
        if self.peer is not None:
            self.peer.close()
        self._tell_core("abandon")
        supervisor.log(f"{member.id} is not swapped: {self.error}")
        if member.child is None and supervisor.phase == "running" and member.state != "restarting":
            supervisor.recovery.restart(member, 0.0, f"a swap failed: {self.error}")
        self._swaps.finished(self)
        self._after(self)

    # -- what is heard ---------------------------------------------------------------------------------------------

    def hear_core(self, packet: Packet) -> None:
        """A report of the core about the new process."""
        kind, body = packet.kind, packet.body
        if self.over or self.error:
            return
        if kind == "DEVICE_READY":
            self.new.ready = True
            self._supervisor.start_device(self.new)
        elif kind == "CANDIDATE":
            self._fits = True
            self._check_ready()
        elif kind == "QUIET":
            self._old_is_quiet()
        elif kind == "LOADED" and self.state == "load":
            self._fence()
        elif kind == "CONNECTED":
            self.new.config = body.get("config", b"")
            self._finish()
        elif kind == "REFUSED":
            self.fail(body["error"], body.get("hint", ""))

    def hear_new(self, member: Member, packet: Packet) -> bool:
        """A packet of the new process, or of the one behind it. False: it means what it means from any other."""
        if packet.kind == "FAILED":
            self.fail(packet.body.get("error", "it failed"), packet.body.get("hint", ""))
        elif packet.kind == "READY" and member is self.peer:
            member.state, self._peer_ready = "running", True
            self._check_ready()
        elif packet.kind == "WAITING":
            self._late = self._fits = True
            self._check_ready()
        else:
            return False
        return True

    def died(self, member: Member, what: str) -> bool:
        """A process is dead. True when that is the swap's affair."""
        if member is self.new or member is self.peer:
            if not self.error:
                self.fail(f"the new process {what}", f"See: bulkhead logs {member.id}")
            self._give_up()
            return True
        if not self.holds:
            return False  # before step 3: its successor is started as ever, and is then the old one
        self._lost = True
        self._supervisor.tell_core(member, "dead")
        member.state, member.reason = "swapping", what
        if self.state == "fence":
            self._adopt()
        return True

    def _step(self, state: str) -> None:
        self.state = state
        self._steps.append((state, time.monotonic()))

    def _spent(self) -> str:
        """Where the pause went, for the log and the benchmark."""
        pairs = itertools.pairwise(self._steps)
        return ", ".join(f"{state} {(end - begin) * 1000:.1f}" for (state, begin), (_, end) in pairs)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _tell_core(self, state: str, **more: Any) -> None:
        core = self._supervisor.core.child
        body = {"id": self.member.id, "epoch": self.new.epoch, "state": state, "endpoint": "", **more}
        if core is not None and not core.send("DEVICE", body):
            core.kill()

    def _deadline(self, seconds: float, states: tuple[str, ...], error: str) -> None:
        def look() -> None:
            if self.state in states:
                self.fail(error, f"See: bulkhead logs {self.member.id}")

        self._supervisor.loop.after(seconds, look)


class Swaps:
    """All swaps of a machine, one a device at a time, and the processes that they leave behind."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._active: dict[str, Swap] = {}  # by the device's id
        self._results: dict[int, Swap] = {}
        self._retired: dict[str, Member] = {}  # key among the members → a process that is being killed
        self._count = 0
        disks = [device for device in supervisor.machine.devices if device.device == "blk" and device.backend]
        self._overlays = {
            (disk.id, storage(disk.backend, overlays=False)): str(supervisor.directory.scratch / disk.id)
            for disk in disks
        }

    def backend(self, member: Member, backend: str) -> str:
        """A disk's URI with a file for each overlay that has none: the same one for the same disk below."""
        key = member.id, storage(backend, overlays=False)
        number = len(self._overlays)
        path = self._overlays.setdefault(key, str(self.supervisor.directory.scratch / f"{member.id}.{number}"))
        return name_overlays(backend, path)

    def start(
        self,
        member: Member,
        device: Device,
        after: Callable[[Swap], None] = lambda swap: None,
        objection: Callable[[], str] = lambda: "",
    ) -> Swap:
        """Begin to put `device` in the place of a member. Raises ConfigError when that cannot be now."""
        if device.relay not in ("", WINDOW):
            hint = (
                "Stop `bulkhead serve` there, and serve another one of its kind: the guest waits, and goes on with it."
            )
            raise ConfigError(f"{member.id} is behind a relay to another host: it is not swapped here", hint=hint)
        if device.relay == WINDOW:
            member = self.supervisor.windows.member(member.id)
        if member.id in self._active:
            raise ConfigError(f"{member.id} is just being swapped", hint="Try again when that is done.")
        if self.supervisor.phase != "running":
            raise ConfigError(f"{member.id} cannot be swapped now", hint="The guest must run.")
        self._count += 1
        kind: type[Swap] = Swap
        if device.relay == WINDOW:
            from launcher.keeper.window_swap import WindowSwap as kind
        swap = kind(self, self._count, member, device, after, objection)
        self._active[member.id] = self._results[swap.number] = swap
        self._results.pop(swap.number - KEPT_RESULTS, None)
        self._begin_if_free(swap)
        return swap

    def active(self, id: str) -> Swap | None:
        """The swap of a device that is under way."""
        return self._active.get(id)

    def find(self, number: int) -> Swap | None:
        """A swap by its number; the last few are remembered."""
        return self._results.get(number)

    def holds(self, member: Member) -> bool:
        """Is a device between two processes? Then recovery keeps its hands off."""
        swap = self._active.get(member.id)
        return swap is not None and swap.member is member and swap.holds

    def finished(self, swap: Swap) -> None:
        self._active.pop(swap.member.id, None)

    def retire(self, member: Member, child: Child) -> None:
        """A process that is no longer the member: it is dying, and its pidfd will say when."""
        key = f"{member.id}-{child.pid}"
        retired = self._retired[key] = self.supervisor.members[key] = Member(member.id, member.role, None, member.log)
        retired.child, retired.state, retired.epoch = child, "stopping", member.epoch
        self.supervisor.watch_child(retired, child)
        member.child = None

    def is_hidden(self, key: str) -> bool:
        """Is this member no process that people should be shown as the device?"""
        return key in self._retired or key.endswith("+")

    # -- hooks of the supervisor -----------------------------------------------------------------------------------

    def hears(self, member: Member, packet: Packet) -> bool:
        """A packet. True when it was of a swap, and is dealt with."""
        if member is self.supervisor.core:
            swap = self._active.get(packet.body.get("id", ""))
            if swap is None or packet.body.get("epoch") != swap.new.epoch or packet.kind in ("LOG", "OVERDUE"):
                return False
            swap.hear_core(packet)
            return True
        for swap in list(self._active.values()):
            if member is swap.new or member is swap.peer:
                return swap.hear_new(member, packet)
        return False

    def died(self, member: Member, what: str) -> bool:
        """A process is dead, and reaped. True when recovery has nothing to do with that."""
        for key, retired in list(self._retired.items()):
            if retired is member:
                del self._retired[key]
                del self.supervisor.members[key]
                for swap in list(self._active.values()):
                    if swap.state == "waiting":
                        self._begin_if_free(swap)
                return True
        return any(
            swap.died(member, what)
            for swap in list(self._active.values())
            if member in (swap.new, swap.peer, swap.member)
        )

    def _begin_if_free(self, swap: Swap) -> None:
        """The process that the last swap left behind may still hold locks."""
        if any(retired.id == swap.member.id for retired in self._retired.values()):
            return
        try:
            swap.begin()
        except BulkheadError as error:
            swap.fail(error.message, error.hint)
        except OSError as error:
            swap.fail(f"a process cannot be started: {error.strerror}")
