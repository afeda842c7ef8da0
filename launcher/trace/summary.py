"""What `bulkhead trace --summary` counts: latencies by device and operation, as percentiles and a histogram.

Latencies go into buckets of a sixteenth of a power of two, so that memory does not grow and a percentile is
right to 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from launcher.cli.show import table

__all__ = ["Latencies", "Summary", "duration"]

STEPS = 16  # buckets a power of two
BARS = " ▁▂▃▄▅▆▇█"
HEADER = ("DEVICE", "OP", "COUNT", "ERRORS", "BYTES", "P50", "P90", "P99", "MAX", "HISTOGRAM")
NUMBERS = HEADER[2:9]


class Latencies:
    """A histogram of times in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.bytes = 0
        self.max = 0.0
        self.buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.max = max(self.max, seconds)
        bucket = math.floor(math.log2(max(seconds, 1e-9)) * STEPS)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def percentile(self, percent: float) -> float:
        """The time that so many percent do not exceed; 0 without any."""
        left = self.count * percent / 100
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(self.max, math.pow(2.0, (bucket + 1) / STEPS))
        return self.max

    def powers(self) -> dict[int, int]:
        """How many there are in each power of two of seconds, by its exponent."""
        found: dict[int, int] = {}
        for bucket, count in self.buckets.items():
            found[bucket // STEPS] = found.get(bucket // STEPS, 0) + count
        return found

    def picture(self) -> str:
        """A bar a power of two, from the quickest to the slowest."""
        powers = self.powers()
        if not powers:
            return ""
        most = max(powers.values())
        heights = [powers.get(power, 0) for power in range(min(powers), max(powers) + 1)]
        bars = "".join(BARS[math.ceil(height / most * (len(BARS) - 1))] for height in heights)
        return f"{duration(2.0 ** min(powers))} {bars} {duration(2.0 ** (max(powers) + 1))}"


class Summary:
    """Of all requests told."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Latencies] = {}

    def add(self, telling: Mapping[str, Any]) -> None:
        """Count a request; other tellings are left alone."""
        if telling["type"] != "request":
            return
        row = self.rows.setdefault((telling["device"], telling["op"]), Latencies())
        row.add(telling["latency"])
        row.errors += telling["status"] != "OK"
        row.bytes += telling.get("bytes") or 0

    def text(self) -> str:
        """A table."""
        rows = [
            (
                device,
                op,
                f"{row.count}",
                f"{row.errors}",
                f"{row.bytes}",
                *(duration(row.percentile(percent)) for percent in (50, 90, 99)),
                duration(row.max),
                row.picture(),
            )
            for (device, op), row in sorted(self.rows.items())
        ]
        return "\n".join(table(HEADER, rows, NUMBERS)) if rows else "no requests"

    def as_list(self) -> list[dict[str, Any]]:
        """For JSON; times in seconds, the histogram by upper limits."""
        return [
            {
                "device": device,
                "op": op,
                "count": row.count,
                "errors": row.errors,
                "bytes": row.bytes,
                "p50": row.percentile(50),
                "p90": row.percentile(90),
                "p99": row.percentile(99),
                "max": row.max,
                "histogram": {f"{2.0 ** (power + 1):.3g}": count for power, count in sorted(row.powers().items())},
            }
            for (device, op), row in sorted(self.rows.items())
        ]


def duration(seconds: float) -> str:
    """As people read it: 640 ns, 6 µs, 1.92 ms, 3.1 s."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            value = seconds / unit
            return f"{value:.3g} {name}" if value < 100 else f"{value:.0f} {name}"
    return f"{seconds * 1e9:.0f} ns"
