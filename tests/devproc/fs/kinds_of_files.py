"""A directory with files of every kind, and with every text that may say whose a file is; one with many names."""

from __future__ import annotations

import os
import random

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


def many(folder, count):
    """Make a folder with so many names and some more, and things of every kind in it; their kinds by name, as DT_*."""
    choose = random.Random(count)
    names = {choose.randbytes(choose.choice([1, 2, 7, 8, 9, 60, 127])).hex().encode() for _ in range(count)}
    names |= {name[:8] for name in names} | {b"\xff\xfe", b".hidden", b"..."}
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).touch()
    (folder / "e").mkdir()
    (folder / "l").symlink_to("x")
    os.mkfifo(folder / "p")
    return dict.fromkeys(names, 8) | {b"e": 4, b"l": 10, b"p": 0}
