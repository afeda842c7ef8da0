"""What a device process gives up before the device's own code runs.

    map the memory · `begin` · ZeroMQ's threads, and its connection to the core · `seal` · the device's code

`begin`, while the process has one thread: no new privileges, namespaces, capabilities, Landlock, limits. `seal` binds
all threads to the system-call filter, in which there is no socket, connection, process or program any more. What of it
this host does not give is left out and named: the report goes to the keeper in READY, and `bulkhead ps --sandbox` shows
it. With the mode `require` something missing is an error instead; with `off` nothing is given up.

It does not keep a device from its guest's memory, all of which it may write: docs/sandbox.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from devproc.needs import Needs, libraries, needs_of
from proto.confine import landlock, limits, namespaces, seccomp
from proto.confine.syscalls import NETWORKED, PROFILES
from proto.errors import ConfigError

__all__ = ["MODES", "Sandbox", "prepare"]

MODES = ("on", "off", "require")
LOG_SIZE = 64 << 20  # bytes of the longest file, of a device that serves none


_early: list[str] = []  # namespaces that this process made before it was any device


def prepare(mode: str = "off") -> None:
    """What a process that waits to become a device may do beforehand: the time of START is the guest's. A network
    namespace is made slowly while others are being taken down, as after a death."""
    libraries()
    if mode != "off" and not any((host := namespaces.probe()).values()):
        kinds = [kind for kind in host if kind != "mount"]
        namespaces.enter(kinds)
        _early.extend(kinds)
    machine = os.uname().machine
    for groups in PROFILES.values():
        seccomp.allowlist(groups, os.getpid(), machine)
        seccomp.count_allowed(groups, machine)


class Sandbox:
    """One process's. START's `sandbox` is {mode, namespaces: {kind: why not}, needs}; without it the mode is on, and
    what the device needs is computed here."""

    def __init__(self, body: Mapping[str, Any], needs: Needs | None = None) -> None:
        order = dict(body.get("sandbox") or {})
        self.mode: str = order.get("mode", "on")
        self._host: dict[str, str] | None = order.get("namespaces")
        if needs is not None:
            self.needs = needs
        elif "needs" in order:
            self.needs = Needs.from_dict(order["needs"])
        else:
            self.needs = needs_of(body.get("device", ""), body.get("backend") or "", body.get("properties"))
        self.in_force: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def begin(self) -> None:
        """Everything but the filter. Raises ConfigError."""
        if self.mode == "off":
            return
        self._prepare_overlays()
        for step in (self._privileges, self._namespaces, self._capabilities, self._landlock, self._limits):
            step()

    def seal(self) -> None:
        """The filter, for all threads. Raises ConfigError when the mode is `require` and something is missing."""
        if self.mode == "off":
            return
        self._attempt("system calls", self._filter)
        if self.mode == "require" and self.missing:
            what = "; ".join(f"{name} ({why})" for name, why in self.missing.items())
            raise ConfigError(
                f"the sandbox is not complete: {what}", hint="--sandbox on takes what this host can give."
            )

    def report(self) -> dict[str, Any]:
        """For READY."""
        return {
            "mode": self.mode,
            "profile": self.needs.profile if self.mode != "off" else "",
            "in_force": self.in_force,
            "missing": self.missing,
        }

    # -- the steps -------------------------------------------------------------------------------------------------

    def _prepare_overlays(self) -> None:
        """Files that a disk makes for itself are made while that is still possible."""
        for path in self.needs.create:
            with contextlib.suppress(OSError):  # the device will say so
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if self.needs.nameless:
            from devproc.blk.snapshot import prepare_nameless

            prepare_nameless(self.needs.nameless)

    def _privileges(self) -> None:
        def step() -> None:
            limits.no_new_privileges()
            self.in_force["no new privileges"] = True

        self._attempt("no new privileges", step)

    def _namespaces(self) -> None:
        root = os.geteuid() == 0
        kinds = [kind for kind in namespaces.KINDS if not (root and kind == "user")]
        if self.needs.profile in NETWORKED:
            kinds = [kind for kind in kinds if kind != "net"]
        if not self.needs.writable:
            kinds = [kind for kind in kinds if kind != "mount"]
        later = [kind for kind in kinds if kind not in _early]
        if threading.active_count() > 1:
            self.missing["namespaces"] = "the process has threads"
            return
        host = self._host if self._host is not None else namespaces.probe() if later else {}
        refused = {kind: host[kind] for kind in later if host.get(kind)}
        later = [kind for kind in later if kind not in refused]
        self.missing |= {f"{kind} namespace": why for kind, why in refused.items()}

        def step() -> None:
            if later:
                namespaces.enter(later, self.needs.writable, inside=bool(_early))
            self.in_force["namespaces"] = [kind for kind in kinds if kind not in refused]

        self._attempt("namespaces", step)

    def _capabilities(self) -> None:
        def step() -> None:
            namespaces.forget_capabilities(ports=self.needs.profile in NETWORKED)
            self.in_force["capabilities"] = "files" if os.geteuid() == 0 else "none"

        self._attempt("capabilities", step)

    def _landlock(self) -> None:
        version = landlock.abi()
        if version == 0:
            self.missing["Landlock"] = "this kernel has none, or it is switched off"
            return
        if version == 1 and self.needs.profile not in ("device", "served"):
            self.missing["Landlock"] = "version 1 would forbid moving files between directories"
            return
        self.missing |= {f"Landlock, {what}": f"the kernel has version {version}" for what in landlock.missing(version)}
        network = self.needs.profile in NETWORKED

        def step() -> None:
            count = landlock.restrict([*libraries(), *self.needs.rules], version, network=network)
            self.in_force["Landlock"] = {"version": version, "rules": count}

        self._attempt("Landlock", step)

    def _limits(self) -> None:
        def step() -> None:
            self.in_force["limits"] = limits.set_limits(
                limits.DATA + self.needs.memory,
                own_users="user" in self.in_force.get("namespaces", ()),
                file_size=None if self.needs.writes else LOG_SIZE,
            )

        self._attempt("limits", step)

    def _filter(self) -> None:
        machine = os.uname().machine
        groups = PROFILES[self.needs.profile]
        program = seccomp.allowlist(groups, os.getpid(), machine)
        seccomp.install(program)
        self.in_force["system calls"] = seccomp.count_allowed(groups, machine)

    def _attempt(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", 0) or 0
            if number == errno.ENOSYS:
                self.missing[what] = "this kernel has none"
            else:
                self.missing[what] = getattr(error, "strerror", None) or str(error)
