"""A directory with files of every kind, and with every text that may say whose a file is."""

from __future__ import annotations

import os

OWNERS = [b"1 2 100644 0 644", b"7 8 104755 0 600", b"1 2 20644 259 600", b"70000 4294967295 100600 0 600"]
NOT_OWNERS = [
    b"",
    b"1 2 100644 0",
    b"1 2 100644 0 644 5",
    b"x 2 100644 0 644",
    b"1 2 999 0 644",
    b"99999999999 1 1 1 1",
]


def make(share):
    """Make them; their names."""
    for number, text in enumerate(OWNERS + NOT_OWNERS):
        path = share / f"owned{number}"
        path.write_bytes(bytes(number))
        path.chmod(0o600 if number % 2 else 0o644)
        os.setxattr(path, "user.bulkhead.owner", text)
    (share / "dir").mkdir()
    os.setxattr(share / "dir", "user.bulkhead.owner", b"5 6 43755 0 755")
    (share / "dir" / "below").write_text("x")
    (share / "link").symlink_to("data")
    os.mkfifo(share / "pipe")
    os.utime(share / "owned0", (-5, 1_600_000_000))
    os.utime(share / "owned1", ns=(1, 999_999_999))
    return sorted(os.listdir(share))
