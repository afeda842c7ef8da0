"""iperf3 of Debian's in Debian guests: an initramfs that has it, and what its report says.

Both ends are the same program, and what each of them counted is in the report, so that nothing is lost unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.images import GuestCard, Images, network_archive
from launcher.images.programs import Programs, programs_archive

__all__ = ["IPERF3", "Report", "initramfs", "report"]

IPERF3 = Programs(
    "iperf3",
    ("libc6", "libgcc-s1", "zlib1g", "libzstd1", "libssl3t64", "libsctp1", "libiperf0", "iperf3"),
    ("usr/bin/iperf3",),
    ("libgcc_s.so.1",),  # the C library loads it to cancel a thread
)


def initramfs(
    images: Images,
    cards: Sequence[GuestCard] = (),
    progress: Callable[[str, float | None], None] = lambda what, fraction: None,
) -> bytes:
    """The Debian guest's, with iperf3, and, for a machine that is not started with `--net`, with its cards. Raises
    ImagesError."""
    network = network_archive(images, cards) if cards else b""
    return images.initrd.read_bytes() + network + programs_archive(IPERF3, progress)


@dataclass(frozen=True)
class Report:
    """What a client says of one test over TCP."""

    sent: int  # bytes
    received: int  # bytes, as its other end counted them
    seconds: float
    retransmits: int


def report(text: str) -> Report:
    """Of `iperf3 --json`. Raises ValueError with iperf3's own words where it failed."""
    found: dict[str, Any] = json.loads(text)
    if "error" in found:
        raise ValueError(f"iperf3: {found['error']}")
    sent, received = found["end"]["sum_sent"], found["end"]["sum_received"]
    return Report(sent["bytes"], received["bytes"], received["seconds"], sent.get("retransmits", 0))
