"""docs/performance.md: text written by hand, and between two marks for each benchmark the table of its last full run.

    <!-- mips -->
    …
    <!-- /mips -->

A run replaces what is between the marks of the benchmarks it ran, and leaves everything else as it is.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Figure, Sample, host, number

__all__ = ["PAGE", "replace", "table", "update"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def value(sample: Sample, unit: str) -> str:
    """Median and unit."""
    return f"{number(sample.median)} {unit}".rstrip()


def spread(sample: Sample) -> str:
    """Lowest to highest."""
    return f"{number(sample.low)} to {number(sample.high)}" if sample.count > 1 else "one"


def row(figure: Figure) -> list[str]:
    """The cells of one figure."""
    goal = ""
    if figure.goal is not None:
        goal = f"{figure.goal}{'' if figure.ratio else f' {figure.unit}'.rstrip()}{'' if figure.met else ' **missed**'}"
    return [
        figure.what,
        value(figure.ours, figure.unit),
        value(figure.theirs, figure.unit) if figure.theirs else "",
        f"**{number(figure.ratio.median)}**" if figure.ratio else "",
        spread(figure.decisive),
        goal,
        figure.note,
    ]


def table(peer: str, figures: Sequence[Figure]) -> str:
    """The figures as a table; columns that nobody uses are left out."""
    rows = [["", "Bulkhead", peer, "ratio", "spread", "goal", "beside it"], *map(row, figures)]
    used = [column for column in range(len(rows[0])) if column == 0 or any(line[column] for line in rows[1:])]
    lines = ["| " + " | ".join(line[column] for column in used) + " |" for line in rows]
    lines.insert(1, "|" + " --- |" * len(used))
    return "\n".join(lines)


def section(name: str, peer: str, figures: Sequence[Figure], load: float) -> str:
    """What stands between the marks; `load` is what the host was doing before."""
    rounds = max(figure.decisive.count for figure in figures)
    when = datetime.date.today().isoformat()
    first = "chrt -r 1 " if os.sched_getscheduler(0) == os.SCHED_RR else ""  # before whatever else the host runs
    again = f"`{first}python -m bench --only {name}`"
    return f"{table(peer, figures)}\n\n{again}; {when}, up to {rounds} rounds, on {host()}, load {load:.1f} before."


def replace(text: str, name: str, new: str) -> str:
    """The page with one section replaced. Raises ValueError when it has no such marks."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE.name} has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{new}\n{end}", text)


def update(name: str, peer: str, figures: Sequence[Figure], load: float) -> None:
    """Put a benchmark's figures into the page."""
    PAGE.write_text(replace(PAGE.read_text(), name, section(name, peer, figures, load)))
