"""The tables of docs/sandbox.md, made from the table of system calls: `python -m proto.confine.reference PAGE`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from proto.confine.syscalls import ABSENT, ALLOWED, ARGUMENTS, NEVER, PROFILES
from proto.reference import update

__all__ = ["BLOCKS"]


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`{'*' if name in ARGUMENTS else ''}" for name in names)


def calls() -> str:
    """Every call, by group."""
    lines = ["| group | system calls (* for some arguments only) | because a device |", "| --- | --- | --- |"]
    lines += [f"| {row.group} | {_names(row.names)} | {row.reason} |" for row in ALLOWED]
    lines += [f"| refused with ENOSYS | {_names(names)} | {reason} |" for names, reason in ABSENT]
    return "\n".join(lines)


def profiles() -> str:
    """Which groups each profile has."""
    groups = list(dict.fromkeys(row.group for row in ALLOWED))
    lines = [f"| profile | {' | '.join(groups)} |", f"| --- |{' --- |' * len(groups)}"]
    for name, has in PROFILES.items():
        lines.append(f"| {name} | {' | '.join('yes' if group in has else '' for group in groups)} |")
    return "\n".join(lines)


def never() -> str:
    """What the core gives up."""
    lines = ["| refused to the core too | what it is about |", "| --- | --- |"]
    lines += [f"| {_names(names)} | {reason} |" for names, reason in NEVER]
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {"profiles": profiles, "calls": calls, "never": never}


def main() -> int:
    """Make the page's tables anew."""
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text(), BLOCKS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
