"""What a verb of `bulkhead` is, declared. Each package of the launcher has a table of its own, `verbs.py`.

A row names the function that adds the verb's arguments and the one that does it; their module is imported only when the
verb is used. The tables themselves import nothing but this.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Verb"]


@dataclass(frozen=True)
class Verb:
    """One verb. `arguments` and `action` are MODULE:FUNCTION, below `launcher`."""

    name: str
    summary: str  # one line, for `bulkhead --help`
    usage: str
    action: str
    arguments: str = ""
    details: str = ""  # for the verb's own help
    examples: tuple[tuple[str, str], ...] = ()
    takes_command: bool = False  # `-- COMMAND` may follow
    sweeps: bool = True  # removes what dead machines left before it begins
    group: str = "machine"  # of `launcher.cli.verbs.GROUPS`: where `bulkhead --help` lists it
    completes: str = ""  # its own words, for shells: choices between blanks; "processes" of machines, and "files", too;
    # what stands before " / " is for the first word alone, and the rest for those after it

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        if self.arguments:
            _load(self.arguments)(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it. Returns the exit code."""
        code: int = _load(self.action)(arguments)
        return code


def _load(where: str) -> Callable[..., Any]:
    module, name = where.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(f"launcher.{module}"), name)
    return loaded
