"""One image behind two disks of a machine: refused before anything starts, when one of the two would write to it.

The locks of images refuse it as well, but can say only that "another machine" has it open. Promises: files are compared
by what they are, not by their names. Does not: look into backing chains; those are read-only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from launcher.machine.options import Given
from proto.errors import ConfigError

__all__ = ["refuse_twice"]

Disk = tuple[str, str | None, dict[str, Any]]  # URI, id, properties


def refuse_twice(given: Sequence[Given], disks: Sequence[Disk]) -> None:
    """Raises ConfigError that names both options."""
    from devproc.blk.uri import files
    from devproc.properties import Property

    flag = Property(bool, False)
    flag.name = "ro"
    seen: dict[object, tuple[Given, bool]] = {}
    for option, (uri, _, properties) in zip(given, disks, strict=True):
        used = {_identity(path): (path, write) for path, write in files(uri, flag.parse(properties.get("ro", False)))}
        for identity, (path, write) in used.items():
            other, others = seen.get(identity, (None, False))
            if other is not None and (write or others):
                name = os.path.basename(path)
                raise ConfigError(
                    f"two disks use {name}, and not both only to read it: {_said(other)} and {_said(option)}",
                    hint=f"Write ,ro after both, or let one write elsewhere:  --disk snapshot:{option.value}",
                )
            seen[identity] = (option, write or others)


def _said(option: Given) -> str:
    return f"{option.source} {option.value}"


def _identity(path: str) -> object:
    """What tells files apart; the path itself for one that is not there yet."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
