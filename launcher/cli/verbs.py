"""The verbs of `bulkhead`, all of them: the command line, its help, completion and the documentation are made of this.

A verb is declared in the package that does it; a new package is a new name in `PACKAGES`.
"""

from __future__ import annotations

from importlib import import_module

from launcher.cli.verb import Verb

__all__ = ["GROUPS", "VERBS", "Verb", "find_verb"]

PACKAGES = (
    "run",
    "chaos",
    "console",
    "orders",
    "inspect",
    "trace",
    "record",
    "replay",
    "qmp",
    "disks",
)

# As `bulkhead --help` lists them.
GROUPS = {
    "machine": "machines",
    "look": "what they are doing",
    "change": "their devices, while the guest runs",
    "traffic": "what driver and device say: stop, change, record and replay it",
    "remote": "programs and other hosts",
    "host": "images, and this host",
}

# Of the command line itself; and `images`, whose package imports apt and all.
OWN = (
    Verb(
        "images",
        "fetch, check or remove the Debian guest",
        "bulkhead images [--update | --verify | --clean] [--json]",
        "images.cli:run",
        "images.cli:add_arguments",
        "Uses the host's own apt with private lists; signatures are checked; nothing on the host changes.",
        group="host",
    ),
    Verb(
        "doctor",
        "say what this host lacks, and what to do",
        "bulkhead doctor [--json]",
        "cli.doctor:run",
        "cli.doctor:add_arguments",
        sweeps=False,
        group="host",
    ),
    Verb(
        "completion",
        "print a completion script for the shell",
        "bulkhead completion bash|zsh|fish",
        "cli.completion:run",
        "cli.completion:add_arguments",
        examples=(
            ('eval "$(bulkhead completion bash)"', "in ~/.bashrc"),
            ("bulkhead completion zsh > ~/.zfunc/_bulkhead", "where fpath has ~/.zfunc"),
            ("bulkhead completion fish > ~/.config/fish/completions/bulkhead.fish", ""),
        ),
        sweeps=False,
        group="host",
        completes="bash zsh fish",
    ),
    Verb("version", "print the version", "bulkhead version", "cli.main:print_version", sweeps=False, group="host"),
)

VERBS: tuple[Verb, ...] = (
    *(verb for package in PACKAGES for verb in import_module(f"launcher.{package}.verbs").VERBS),
    *OWN,
)


def find_verb(name: str) -> Verb | None:
    """The verb of that name."""
    return next((verb for verb in VERBS if verb.name == name), None)
