"""What all benchmarks share: samples, ratios of alternated runs, goals, and figures to print.

A host is never quiet, and what it does next to us changes from minute to minute. So a figure is not "ours today against
theirs last week": the two sides take turns, and the ratio is taken turn by turn. Of the ratios the median counts;
lowest and highest are shown beside it.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Comparison", "Figure", "Goal", "Missing", "Run", "Sample", "alternate", "compare", "geometric_mean", "host"]


class Missing(Exception):
    """This host lacks what a benchmark needs; the text says what, and how to get it."""


@dataclass(frozen=True)
class Sample:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Raises ValueError when there are none."""
        if not values:
            raise ValueError("a sample of nothing")
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Comparison:
    """Two sides measured in turn; `ratio` is ours by theirs, of each turn."""

    ours: Sample
    theirs: Sample
    ratio: Sample


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: `Goal(">=", 0.3)`."""

    relation: str
    value: float

    def met(self, value: float) -> bool:
        """Is it?"""
        return {"<=": value <= self.value, ">=": value >= self.value}[self.relation]

    def __str__(self) -> str:
        return f"{ {'<=': '≤', '>=': '≥'}[self.relation] } {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """One line of a table. The goal is about the ratio if there is a peer's value, else about ours."""

    what: str
    unit: str
    ours: Sample
    theirs: Sample | None = None
    ratio: Sample | None = None
    goal: Goal | None = None
    note: str = ""

    @classmethod
    def compared(cls, what: str, unit: str, comparison: Comparison, goal: Goal | None = None, note: str = "") -> Figure:
        """Of a comparison."""
        return cls(what, unit, comparison.ours, comparison.theirs, comparison.ratio, goal, note)

    @property
    def decisive(self) -> Sample:
        """What the goal is about."""
        return self.ratio or self.ours

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.met(self.decisive.median)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = asdict(self)
        fields["goal"] = str(self.goal) if self.goal else None
        fields["met"] = self.met
        return fields


@dataclass(frozen=True)
class Run:
    """How much to measure, and where to say what is being done."""

    quick: bool = False
    progress: Callable[[str], None] = lambda _: None

    def rounds(self, full: int, quick: int = 1) -> int:
        """How many."""
        return quick if self.quick else full


def alternate(
    *sides: Callable[[], float], rounds: int, progress: Callable[[str], None] = lambda _: None
) -> list[list[float]]:
    """Let the sides measure in turn, `rounds` times each, the order turned round every time. A list for each side."""
    values: list[list[float]] = [[] for _ in sides]
    order = list(enumerate(sides))
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        for number_of_side, side in order:
            values[number_of_side].append(side())
        order.reverse()
    return values


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Of two lists of `alternate`."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Comparison(Sample.of(ours), Sample.of(theirs), Sample.of(ratios))


def geometric_mean(values: Sequence[float]) -> float:
    """The mean for ratios: ten times faster and ten times slower make one."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def number(value: float) -> str:
    """With three significant digits, and no more of them than that."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text and digits > 2 else text


def host() -> str:
    """The machine, in one line."""
    model = platform.machine()
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
