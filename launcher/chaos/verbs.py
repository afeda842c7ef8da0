"""Faults at random: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "chaos",
        "faults at random under a working guest: nothing may get lost",
        "bulkhead chaos [--seed N] [--minutes M | --kills N --swaps N] [--only WORDS] [--guest NAME] [--report FILE]",
        "chaos.cli:run",
        "chaos.cli:add_arguments",
        "Starts machines of its own. Faults: signals, hangs, exceptions, a death at each step of the ring's code,\n"
        "restarts, swaps, mirrors. Work: disks that are verified, ext4, SQLite, git on shares, TCP. The same seed\n"
        "gives the same faults. Exit code 0 only if nothing was lost, doubled or corrupted.",
        (
            ("bulkhead chaos --minutes 10", ""),
            ("bulkhead chaos --seed 7 --only disk,kill,step --guest bundled", "the disk of the bundled guest alone"),
            ("bulkhead chaos --kills 1000 --swaps 200 --report chaos.md", "until there were as many"),
        ),
        group="machine",
    ),
)
