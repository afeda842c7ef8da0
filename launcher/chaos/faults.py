"""Carrying out faults on a running machine, one after the other, and seeing each device come back.

A fault is over when the device serves again; a device that does not, in time, is a finding. Before the next fault the
device must have answered something, or have nothing to answer: a request that is in flight, alone, at three crashes in
a row is condemned by design (docs/crashes.md), and would be no loss.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.chaos import stepped
from launcher.chaos.machines import Lost, Running
from launcher.chaos.plan import Fault, Target
from launcher.chaos.stalls import Rings, now
from proto.errors import ConfigError

__all__ = ["Done", "Hand", "Stage"]

BACK = 45.0  # seconds that a device may be away: hosts under load are slow
REACHED = 1.0  # seconds until a step that is not reached is given up
MIRRORED = 120.0
PROGRESS = 5.0
NOISY = 1.0
LOOK = 0.01
GONE = "its process was gone already"


@dataclass
class Done:
    """What came of a fault."""

    fault: Fault
    kills: int = 0  # processes that died of it
    swaps: int = 0
    stall: float | None = None  # seconds; None: no request met it
    away: float | None = None  # seconds, as the keeper tells
    note: str = ""


class Stage:
    """Files that faults need: the device whose steps are numbered, and its trap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "stepped.py"
        shutil.copyfile(stepped.__file__, self.code)
        self.image = folder / "stepped.image"
        self.image.write_bytes(stepped.image())

    def device(self) -> str:
        """As `swap` takes it."""
        return f"{self.code}:SteppedDisk"


class Hand:
    """Does what the plan says to one machine."""

    def __init__(self, machine: Running, targets: Sequence[Target], stage: Stage) -> None:
        self._machine = machine
        self._stage = stage
        self._rings = Rings(machine.channel)
        self._bases = {target.id: str(machine.row(target.id)["backend"]).partition(", ")[0] for target in targets}
        self._original = dict(self._bases)
        self._images = 0
        self._traps: dict[str, mmap.mmap] = {}
        self._busy = threading.Lock()  # a round's checks and a fault exclude each other
        for target in targets:
            if "step" in target.fit:
                self._make_stepped(target.id)
        self._doing: dict[str, Callable[[Fault], Done]] = {
            "kill": lambda fault: self._signal(fault, signal.SIGKILL),
            "segv": lambda fault: self._signal(fault, signal.SIGSEGV),
            "stop": lambda fault: self._signal(fault, signal.SIGSTOP),
            "restart": self._restart,
            "step": self._step,
            "exception": self._exception,
            "swap": self._swap,
            "noise": self._noise,
            "cut": self._cut,
            "replug": self._replug,
            "mirror": self._mirror,
        }

    def perform(self, fault: Fault) -> Done:
        """Do it, and wait until the device serves again. Raises Lost when it does not."""
        self._await_progress(fault.id)
        began = now()
        done = self._doing[fault.kind](fault)
        if fault.id in self._traps:
            self._arm(fault.id, 0, 0)
        if done.kills or done.swaps:
            done.stall = self._rings.longest(fault.id, began, now())
            if done.stall is None and self._machine.row(fault.id)["queue"]:
                done.stall = done.away  # something waits, and the rings do not tell
        return done

    def backend(self, id: str) -> str:
        """What is behind a disk now, without filters."""
        return self._bases[id]

    def close(self) -> None:
        """Let the mappings go."""
        self._rings.close()
        for trap in self._traps.values():
            trap.close()

    # -- deaths ----------------------------------------------------------------------------------------------------

    def _signal(self, fault: Fault, number: int) -> Done:
        row = self._running(fault.id)
        mark = self._machine.mark()
        if not self._send(fault.id, row, number):
            return Done(fault, note=GONE)
        back = self._await_back(fault, mark, row["epoch"])
        return Done(fault, kills=1, away=back["ms"] / 1000)

    def _noise(self, fault: Fault) -> Done:
        """A bad line for a while. A device that did not hear the core may be replaced, also a little later."""
        self._running(fault.id)
        mark = self._machine.mark()
        self._machine.ask("NOISE", id=fault.id, lost=20, garbled=20, doubled=40, seed=fault.parameter)
        time.sleep(NOISY)
        self._machine.ask("NOISE", id=fault.id)
        self._running(fault.id)
        died = [e for e in self._machine.told()[mark:] if e["name"] == "DEVICE_DIED" and e["id"] == fault.id]
        return Done(fault, kills=len(died))

    def _cut(self, fault: Fault) -> Done:
        """The process behind the card dies, and its connections with it; the card goes on."""
        id = f"{fault.id}.{str(self._bases[fault.id]).partition(':')[0].partition(',')[0]}"
        self._running(fault.id)
        row, mark = self._running(id), self._machine.mark()
        self._machine.cuts += 1
        if not self._send(id, row, signal.SIGKILL):
            return Done(fault, note=GONE)
        back = self._await_back(Fault(fault.number, id, fault.kind, 0, 0.0), mark, row["epoch"])
        return Done(fault, kills=1, away=back["ms"] / 1000, note=id)

    def _replug(self, fault: Fault) -> Done:
        """Into a network of its own, and back."""
        self._running(fault.id)
        self._machine.cuts += 1
        self._do_swap(fault.id, backend=f"hub:{self._stage.folder}/segment")
        outcome = self._do_swap(fault.id, backend=self._bases[fault.id])
        return Done(fault, swaps=2, away=outcome["pause_ms"] / 1000, note="to hub and back")

    def _send(self, id: str, row: dict[str, Any], number: int) -> bool:
        """To the process that the row tells of, and to no other. False when it is gone."""
        try:
            pidfd = os.pidfd_open(row["pid"])
        except ProcessLookupError:
            return False
        try:
            if self._machine.row(id)["pid"] != row["pid"]:
                return False
            signal.pidfd_send_signal(pidfd, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)

    def _restart(self, fault: Fault) -> Done:
        row = self._running(fault.id)
        mark, began = self._machine.mark(), now()
        self._machine.ask("RESTART", id=fault.id)
        self._await_back(fault, mark, row["epoch"])
        return Done(fault, kills=1, away=now() - began)

    def _step(self, fault: Fault) -> Done:
        step = stepped.steps()[fault.parameter - 1]
        name = f"{step.number} ({step.function})"
        row = self._running(fault.id)
        epoch, mark = row["epoch"], self._machine.mark()
        if step.phase != "recover":
            self._arm(fault.id, epoch, step.number)
            if not self._died(mark, fault.id, epoch, REACHED):
                return self._unreached(fault, mark, epoch, name)
            back = self._await_back(fault, mark, epoch)
            return Done(fault, kills=1, away=back["ms"] / 1000, note=f"died at step {name}")
        self._arm(fault.id, epoch + 1, step.number)
        if not self._send(fault.id, row, signal.SIGKILL):
            return Done(fault, note=GONE)
        if not self._died(mark, fault.id, epoch + 1, REACHED + self._until_back(mark, fault, epoch)):
            return self._unreached(fault, mark, epoch, name, kills=1)
        back = self._await_back(fault, mark, epoch + 1)
        return Done(fault, kills=2, away=back["ms"] / 1000, note=f"died at step {name}")

    def _until_back(self, mark: int, fault: Fault, epoch: int) -> float:
        """Seconds until the first successor is there, or dead."""
        began = now()
        wanted = ("DEVICE_RESTARTED", "DEVICE_DIED")
        self._machine.news(
            mark, lambda e: e["name"] in wanted and e["id"] == fault.id and e.get("epoch", 0) > epoch, BACK
        )
        return now() - began

    def _unreached(self, fault: Fault, mark: int, epoch: int, name: str, kills: int = 0) -> Done:
        """Nothing passed that step: the trap is taken away, unless somebody falls into it just now."""
        self._arm(fault.id, 0, 0)
        armed = epoch + kills
        if self._died(mark, fault.id, armed, 0.2):
            self._await_back(fault, mark, armed)
            return Done(fault, kills=kills + 1, note=f"died at step {name}")
        if kills:
            self._await_back(fault, mark, epoch)
        return Done(fault, kills=kills, note=f"step {name} was not reached")

    def _exception(self, fault: Fault) -> Done:
        row = self._running(fault.id)
        mark = self._machine.mark()
        self._arm(fault.id, row["epoch"], stepped.EXCEPTION)
        if not self._died(mark, fault.id, row["epoch"], 5.0):
            return self._unreached(fault, mark, row["epoch"], "exception")
        back = self._await_back(fault, mark, row["epoch"])
        return Done(fault, kills=1, away=back["ms"] / 1000)

    def _arm(self, id: str, epoch: int, number: int) -> None:
        struct.pack_into("<Q", self._traps[id], 0, epoch << 32 | number)

    def _died(self, mark: int, id: str, epoch: int, timeout: float) -> bool:
        """Did the process of that epoch die?"""
        found = self._machine.news(
            mark, lambda e: e["name"] == "DEVICE_DIED" and e["id"] == id and e["epoch"] == epoch, timeout
        )
        return found is not None

    # -- swaps -----------------------------------------------------------------------------------------------------

    def _make_stepped(self, id: str) -> None:
        path = self._stage.folder / f"{id}.trap"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with open(path, "r+b") as file:
            self._traps[id] = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._do_swap(id, device=self._stage.device(), properties=self._stepped_properties(id))

    def _stepped_properties(self, id: str) -> dict[str, Any]:
        return {"trap": str(self._stage.folder / f"{id}.trap"), "image": str(self._stage.image)}

    def _swap(self, fault: Fault) -> Done:
        self._running(fault.id)
        base = self._bases[fault.id]
        if fault.id in self._traps:
            body: dict[str, Any] = {"device": self._stage.device(), "properties": self._stepped_properties(fault.id)}
            what = "code"
        elif base.partition(":")[0] in ("file", "qcow2"):
            delayed = fault.parameter % 3 == 0
            body = {"backend": f"delay:ms=1:{base}" if delayed else base}
            what = "delay filter" if delayed else "plain"
            if fault.parameter % 3 == 1:
                body, what = {"properties": {"serial": f"chaos{fault.parameter}"}}, "property"
        elif base.partition(":")[0] == "user":
            body, what = {"properties": {"speed": 1000 + fault.parameter % 1000}}, "property"
        else:
            body, what = {"backend": base}, "folder"
        outcome = self._do_swap(fault.id, **body)
        return Done(fault, swaps=1, away=outcome["pause_ms"] / 1000, note=what)

    def _do_swap(self, id: str, **body: Any) -> dict[str, Any]:
        number = self._machine.ask("SWAP", id=id, **{"properties": {}, **body})["swap"]
        end = time.monotonic() + BACK
        while (outcome := self._machine.ask("SWAPPED", swap=number))["state"] not in ("done", "failed"):
            if time.monotonic() > end:
                raise Lost(f"a swap of {id} is still at its step {outcome['state']!r} after {BACK:.0f} s")
            time.sleep(LOOK)
        if outcome["state"] == "failed":
            raise Lost(f"a swap of {id} failed: {outcome['error']}", hint=outcome["hint"])
        return outcome

    def _mirror(self, fault: Fault) -> Done:
        """To the other format; its process is killed once while it copies, and the copy goes on."""
        from launcher.disks.actions import create

        row = self._running(fault.id)
        source = self._bases[fault.id]
        self._images += 1
        scheme = "file" if source.startswith("qcow2:") else "qcow2"
        path = self._stage.folder / f"{fault.id}-{self._images}.{'img' if scheme == 'file' else 'qcow2'}"
        target = f"{scheme}:{path}"
        create(target, str(row["size"]), progress=lambda what, fraction: None)
        self._machine.ask("MIRROR", id=fault.id, to=target, rate=0, pivot=True)
        end, kill_at, kills = time.monotonic() + MIRRORED, time.monotonic() + fault.parameter % 1000 / 1000, 0
        while (status := self._machine.ask("MIRRORED", id=fault.id))["state"] not in ("done", "failed", "cancelled"):
            if time.monotonic() > end:
                raise Lost(f"a mirror of {fault.id} is still {status['state']} after {MIRRORED:.0f} s")
            if not kills and time.monotonic() > kill_at:
                row = self._machine.row(fault.id)
                if row["state"] == "running" and row["pid"]:
                    kills = int(self._send(fault.id, row, signal.SIGKILL))
            time.sleep(LOOK)
        if status["state"] != "done":
            raise Lost(f"a mirror of {fault.id} to {target}: {status['state']}: {status['error']}", hint=status["hint"])
        self._bases[fault.id] = target
        if source != self._original[fault.id]:
            os.unlink(source.partition(":")[2])
        return Done(fault, kills=kills, swaps=2, away=status["pause_ms"] / 1000, note=f"to {scheme}")

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _running(self, id: str) -> dict[str, Any]:
        """The device's row, once it runs. Raises Lost when it does not."""
        end = time.monotonic() + BACK
        while (row := self._machine.row(id))["state"] not in ("running", "waiting") or not row["pid"]:
            if time.monotonic() > end:
                raise Lost(f"{id} is {row['state']} for {BACK:.0f} s: {row['reason']}")
            time.sleep(LOOK)
        return row

    def _await_back(self, fault: Fault, mark: int, epoch: int) -> dict[str, Any]:
        """DEVICE_RESTARTED of a later epoch."""
        back = self._machine.news(
            mark, lambda e: e["name"] == "DEVICE_RESTARTED" and e["id"] == fault.id and e["epoch"] > epoch, BACK
        )
        if back is None:
            raise Lost(f"after fault {fault}, {fault.id} did not come back within {BACK:.0f} s")
        return back

    def _await_progress(self, id: str) -> None:
        """Until the device has answered something, or has nothing to answer."""
        first = self._running(id)
        end = time.monotonic() + PROGRESS
        while first["queue"] and (row := self._machine.row(id))["queue"] and row["requests"] == first["requests"]:
            if time.monotonic() > end:
                return
            time.sleep(LOOK)


def await_quiet(machine: Running, ids: Sequence[str], deadline: float) -> None:
    """Until the devices run. Raises ConfigError."""
    end = time.monotonic() + deadline
    while any(machine.row(id)["state"] not in ("running", "waiting") for id in ids):
        if time.monotonic() > end:
            raise ConfigError(f"{machine.name}: not all devices run")
        time.sleep(LOOK)
