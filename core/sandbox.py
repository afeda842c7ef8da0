"""What the core gives up.

It runs the guest's harts and its board, and looks at what devices say: it is trusted with the guest, and keeps its
speed, so its filter only takes away what nothing in a machine needs: other processes, programs, mounts, keys, the
kernel itself. Where a host cannot give a part, the report names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from proto.confine import limits, namespaces, seccomp
from proto.confine.syscalls import NEVER
from proto.errors import ConfigError

__all__ = ["enter"]


def enter(mode: str) -> dict[str, Any]:
    """Bind this process; modes as in `devproc.sandbox`. Returns the report for READY. Raises ConfigError when the mode
    is `require` and something is missing."""
    in_force: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if mode != "off":
        steps: dict[str, Callable[[], object]] = {
            "no new privileges": limits.no_new_privileges,
            "capabilities": lambda: namespaces.forget_capabilities(ports=True),
            "system calls": lambda: seccomp.install(seccomp.denylist(os.getpid(), os.uname().machine)),
        }
        for what, step in steps.items():
            try:
                step()
                in_force[what] = True
            except OSError as error:
                missing[what] = error.strerror or str(error)
        if "system calls" in in_force:
            in_force["system calls"] = -sum(len(names) for names, _ in NEVER)
        if "capabilities" in in_force:
            in_force["capabilities"] = "files" if os.geteuid() == 0 else "none"
    if mode == "require" and missing:
        what = "; ".join(f"{name} ({why})" for name, why in missing.items())
        raise ConfigError(f"the core's sandbox is not complete: {what}", hint="--sandbox on takes what there is.")
    return {"mode": mode, "profile": "core", "in_force": in_force, "missing": missing}
