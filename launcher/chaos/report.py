"""What a run of chaos did and found: for the screen, as JSON, and as a page."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from launcher import __version__
from launcher.chaos.faults import Done
from launcher.chaos.plan import KINDS
from launcher.chaos.stalls import percentile
from launcher.cli import show

__all__ = ["Report"]


@dataclass
class Report:
    """Counts up while it runs."""

    seed: int
    command: str
    began: float = field(default_factory=time.monotonic)
    done: list[tuple[str, Done]] = field(default_factory=list)  # with the guest's name
    rounds: Counter[str] = field(default_factory=Counter)
    verified: dict[str, dict[str, tuple[int, str]]] = field(
        default_factory=dict
    )  # guest → work → how often, and the last
    lost: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def kills(self) -> int:
        return sum(done.kills for _, done in self.done)

    @property
    def swaps(self) -> int:
        return sum(done.swaps for _, done in self.done)

    def verify(self, guest: str, found: dict[str, str]) -> None:
        """A round, or a look from the host, that found everything right."""
        known = self.verified.setdefault(guest, {})
        for name, text in found.items():
            known[name] = (known.get(name, (0, ""))[0] + 1, text)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "version": __version__,
            "seed": self.seed,
            "command": self.command,
            "seconds": round(time.monotonic() - self.began, 1),
            "stopped": self.stopped,
            "lost": self.lost,
            "faults": len(self.done),
            "kills": self.kills,
            "swaps": self.swaps,
            "kinds": dict(Counter(done.fault.kind for _, done in self.done)),
            "steps_reached": sorted(self._steps()),
            "rounds": dict(self.rounds),
            "verified": {
                guest: {name: {"times": times, "last": text} for name, (times, text) in found.items()}
                for guest, found in self.verified.items()
            },
            "stalls": [
                {"guest": guest, "device": id, "what": what, **figures}
                for (guest, id, what), figures in self._stalls().items()
            ],
        }

    def text(self) -> str:
        """For people."""
        took = time.monotonic() - self.began
        nothing = "nothing lost, doubled or corrupted" if self.rounds else "no round was finished, nothing verified"
        verdict = f"{len(self.lost)} FINDINGS" if self.lost else nothing
        lines = [
            f"{self.kills} kills and {self.swaps} swaps in {took / 60:.1f} minutes: {verdict}",
            *(f"  {text}" for text in self.lost),
            "",
            "faults     " + " · ".join(f"{KINDS[kind].what} {count}" for kind, count in self._kinds()),
            f"steps      died at {len(self._steps())} numbered steps of pop, complete and recover",
        ]
        for guest, found in self.verified.items():
            lines.append(f"verified   {guest}, {self.rounds[guest]} rounds")
            lines += [f"             {name}: {times} times; last: {text}" for name, (times, text) in found.items()]
        lines += ["", *self._table(), "", f"seed {self.seed}; the same faults again: {self.command}"]
        return "\n".join(lines)

    def page(self) -> str:
        """As Markdown."""
        return f"# A run of chaos\n\n```\n{self.text()}\n```\n"

    def _kinds(self) -> list[tuple[str, int]]:
        return Counter(done.fault.kind for _, done in self.done).most_common()

    def _steps(self) -> set[int]:
        return {done.fault.parameter for _, done in self.done if done.fault.kind == "step" and "died" in done.note}

    def _stalls(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """By guest, device and what was done: milliseconds."""
        found: dict[tuple[str, str, str], list[float]] = {}
        unnoticed: Counter[tuple[str, str, str]] = Counter()
        for guest, done in self.done:
            if not (done.kills or done.swaps):
                continue
            what = "hang" if done.fault.kind == "stop" else done.fault.kind if done.swaps else "kill"
            key = (guest, done.fault.id, what)
            values = found.setdefault(key, [])
            if done.stall is None:
                unnoticed[key] += 1
            else:
                values.append(done.stall * 1000)
        return {
            key: {"count": len(values) + unnoticed[key], "unnoticed": unnoticed[key], **_figures(sorted(values))}
            for key, values in sorted(found.items())
        }

    def _table(self) -> list[str]:
        header = ("GUEST", "DEVICE", "WHAT", "COUNT", "UNNOTICED", "P50 ms", "P99 ms", "MAX ms")
        rows = [
            (*key, str(row["count"]), str(row["unnoticed"]), *(_ms(row[name]) for name in ("p50", "p99", "max")))
            for key, row in self._stalls().items()
        ]
        return show.table(header, rows, header[3:])


def _figures(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p99": None, "max": None}
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": values[-1]}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
