"""Where the bundled guest is: the committed ELF of `guest/`, which needs nothing from outside."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from proto.errors import ConfigError

__all__ = ["bundled_guest"]


def bundled_guest() -> Path:
    """The ELF to start with the built-in SBI or without."""
    place = Path(str(resources.files("guest")))
    found = sorted(place.glob("*.elf"))
    if not found:
        raise ConfigError(
            f"the bundled guest is not in {place}",
            hint="Install bulkhead again, or use the Debian guest: bulkhead images",
        )
    return found[0]
