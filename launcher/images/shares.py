"""Shared folders for the Debian guest: drivers and a script to append to the initramfs, for machines that have some.

`guest/shares.sh` mounts each at /mnt/TAG before the shell or the command starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.images.cpio import archive, directory, regular
from launcher.images.store import Images
from launcher.images.userland import script

__all__ = ["GuestShare", "shares_archive"]

OPTIONS = {"9p": "trans=virtio,version=9p2000.L,msize=512000", "virtiofs": "rw"}


@dataclass(frozen=True)
class GuestShare:
    """A share that the guest mounts: `kind` is the file-system type."""

    tag: str
    kind: str


def shares_archive(images: Images, shares: Sequence[GuestShare]) -> bytes:
    """To be appended to the initramfs. What Linux has no driver for is left to whoever brings one."""
    shares = [share for share in shares if share.kind in OPTIONS]
    lines = [f"{share.tag} {share.kind} {OPTIONS[share.kind]}\n" for share in shares]
    entries = {
        "bulkhead": directory(),
        "bulkhead/mount": regular(script("shares.sh"), 0o755),
        "bulkhead/shares": regular("".join(lines)),
        "bulkhead/modules": regular("".join(sorted({f"{share.kind}\n" for share in shares}))),
    }
    return images.extra("shares").read_bytes() + archive(entries)
