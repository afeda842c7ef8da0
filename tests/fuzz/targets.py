"""Every fuzz target, by name."""

from __future__ import annotations

from tests.fuzz import command, disk, link, network, ring, shares
from tests.fuzz.harness import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target for module in (ring, link, disk, network, shares, command) for target in module.TARGETS
}
