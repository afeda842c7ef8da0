"""Programs for the Debian guest that chaos puts under load: SQLite, git, and fio, which verifies what it writes.

They are on a small read-only disk of their own, mounted at /mnt/tools in the guest, and kept beside its images.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from launcher.images import apt, cpio, root
from launcher.images.fio import FIO
from launcher.images.programs import Programs, kept, programs_tree

__all__ = ["PROGRAMS", "tools_disk"]

PROGRAMS = Programs(
    "chaos",
    (*FIO.packages, "git", "libreadline8t64", "libsqlite3-0", "libtinfo6", "sqlite3"),
    (*FIO.programs, "usr/bin/git", "usr/bin/sqlite3"),
)
SIZE = 96 << 20
SCRIPTS = ("round.sh", "blocks.sh")


def tools_disk(progress: apt.Progress) -> Path:
    """The disk, built if need be. Raises ImagesError."""
    folder = resources.files("launcher.chaos").joinpath("guest")
    scripts = {name: folder.joinpath(name).read_bytes() for name in SCRIPTS}

    def build(place: Path) -> None:
        for tool in ("mke2fs", "debugfs", "e2fsck"):
            root.find_tool(tool)
        tree = programs_tree(PROGRAMS, progress)
        tree |= {name: cpio.regular(script, 0o755) for name, script in scripts.items()}
        root.build(tree, place, SIZE)

    return kept("chaos.ext4", (Path(__file__).read_bytes(), repr(PROGRAMS), *scripts.values()), build)
