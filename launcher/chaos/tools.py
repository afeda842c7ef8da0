"""Programs for the Debian guest that chaos puts under load: SQLite, git, and a writer that verifies (`guest/verify.c`).

They are on a small read-only disk of their own, mounted at /mnt/tools in the guest, and kept beside its images.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from launcher.images import apt, cpio, root
from launcher.images.programs import Programs, kept, programs_tree

__all__ = ["PROGRAMS", "tools_disk"]

PROGRAMS = Programs(
    "chaos",
    ("libc6", "zlib1g", "libpcre2-8-0", "git", "sqlite3", "libsqlite3-0", "libreadline8t64", "libtinfo6"),
    ("usr/bin/git", "usr/bin/sqlite3"),
)
SIZE = 48 << 20


def tools_disk(progress: apt.Progress) -> Path:
    """The disk, built if need be. Raises ImagesError."""
    folder = resources.files("launcher.chaos").joinpath("guest")
    verify, script = (folder.joinpath(name).read_bytes() for name in ("verify.elf", "round.sh"))

    def build(place: Path) -> None:
        for tool in ("mke2fs", "debugfs", "e2fsck"):
            root.find_tool(tool)
        tree = programs_tree(PROGRAMS, progress)
        tree["bin/verify"] = cpio.regular(verify, 0o755)
        tree["round.sh"] = cpio.regular(script, 0o755)
        root.build(tree, place, SIZE)

    return kept("chaos.ext4", (Path(__file__).read_bytes(), repr(PROGRAMS), verify, script), build)
