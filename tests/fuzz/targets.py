"""Every fuzz target, by name."""

from __future__ import annotations

from tests.fuzz import command, console, disk, encrypted, link, network, recordings, relay, ring, shares, traces
from tests.fuzz.harness import Target

__all__ = ["TARGETS"]

MODULES = (ring, link, relay, disk, encrypted, network, console, shares, traces, command, recordings)
TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
