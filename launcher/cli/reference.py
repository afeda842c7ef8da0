"""The list of verbs in docs/command-line.md, made from their tables: `python -m launcher.cli.reference PAGE`.

What stands between `<!-- begin verbs -->` and `<!-- end verbs -->` is replaced; a test checks that it is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from launcher.cli.verbs import GROUPS, VERBS
from proto.reference import update

__all__ = ["BLOCKS"]


def verbs() -> str:
    """One row a verb, in the order of `bulkhead --help`."""
    rows = ["| verb | what it does |", "| --- | --- |"]
    for group, title in GROUPS.items():
        rows.append(f"| **{title}** | |")
        rows += [f"| `bulkhead {verb.name}` | {verb.summary} |" for verb in VERBS if verb.group == group]
    return "\n".join(rows)


BLOCKS: dict[str, Callable[[], str]] = {"verbs": verbs}


def main() -> int:
    """`python -m launcher.cli.reference PAGE`."""
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text(), BLOCKS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
