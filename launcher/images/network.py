"""A network for the Debian guest: drivers and a script to append to the initramfs, only for machines that have cards.

`guest/network.sh` sets the cards up before the shell or the command starts: by DHCP, with an address, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.images.cpio import archive, directory, regular
from launcher.images.store import Images
from launcher.images.userland import script

__all__ = ["ANY_CARD", "GuestCard", "network_archive"]


ANY_CARD = "-"  # of a card whose address is not known here: one that no other line names


@dataclass(frozen=True)
class GuestCard:
    """How the guest sets up one card: `how` is dhcp, none, or ADDRESS/BITS; `mac` may be ANY_CARD."""

    mac: str
    how: str
    gateway: str = ""


def network_archive(images: Images, cards: Sequence[GuestCard]) -> bytes:
    """To be appended to the initramfs."""
    lines = [f"{card.mac} {card.how} {card.gateway}".rstrip() + "\n" for card in cards]
    entries = {
        "bulkhead": directory(),
        "bulkhead/network": regular(script("network.sh"), 0o755),
        "bulkhead/cards": regular("".join(lines)),
    }
    return images.extra("network").read_bytes() + archive(entries)
