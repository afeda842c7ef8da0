"""Programs for the Debian guest that chaos puts under load: SQLite, git, and a writer that verifies (`guest/verify.c`).

They are on a small read-only disk of their own, mounted at /mnt/tools in the guest: files of Debian's packages, fetched
through the host's apt as the guest itself is, and kept beside its images. Does not: follow dependencies (the list below
is complete, for what is used of these programs), or run anything of the other architecture.
"""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

from launcher.images import apt, cpio, root, store
from launcher.images.debian import SUITE, _updated
from launcher.images.errors import ImagesError

__all__ = ["PACKAGES", "tools_disk"]

PACKAGES = ("libc6", "zlib1g", "libpcre2-8-0", "git", "sqlite3", "libsqlite3-0", "libreadline8t64", "libtinfo6")
WANTED = ("usr/bin/git", "usr/bin/sqlite3")
LIBRARIES = "usr/lib/riscv64-linux-gnu/"
LOADER = "ld-linux-riscv64-lp64d.so.1"
NEEDED = (
    "libc.so.6",
    "libm.so.6",
    "libz.so.1",
    "libpcre2-8.so.0",
    "libsqlite3.so.0",
    "libreadline.so.8",
    "libtinfo.so.6",
)
SIZE = 48 << 20


def tools_disk(progress: apt.Progress) -> Path:
    """The disk, built if need be. Raises ImagesError."""
    directory = store.cache_directory()
    folder = resources.files("launcher.chaos")
    own = [folder.joinpath(name).read_bytes() for name in ("tools.py", "guest/verify.elf", "guest/round.sh")]
    place = directory / f"chaos-{store.digest(*own)}.ext4"
    if place.exists():
        return place
    with store.locked(directory):
        if not place.exists():
            _build(directory, place, progress)
            for old in directory.glob("chaos-*.ext4"):
                if old != place:
                    old.unlink()
    return place


def _build(directory: Path, place: Path, progress: apt.Progress) -> None:
    tree = {**_directories(), **_packaged(_fetched(directory / "packages", progress))}
    folder = resources.files("launcher.chaos").joinpath("guest")
    tree["bin/verify"] = cpio.regular(folder.joinpath("verify.elf").read_bytes(), 0o755)
    tree["round.sh"] = cpio.regular(folder.joinpath("round.sh").read_bytes(), 0o755)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".chaos-")
    os.close(handle)
    try:
        root.build(tree, Path(temporary), SIZE)
        os.chmod(temporary, 0o444)
        os.replace(temporary, place)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _fetched(private: Path, progress: apt.Progress) -> list[Path]:
    mirrors = apt.debian_mirrors()
    if not mirrors:
        raise ImagesError("this host's apt knows no Debian mirror", hint="Without: bulkhead chaos --guest bundled")
    for tool in ("mke2fs", "debugfs", "e2fsck"):
        root.find_tool(tool)
    ours = _updated(private, [apt.Source(mirror.uri, SUITE) for mirror in mirrors], progress)
    packages = list(ours.show(*PACKAGES).values())
    return ours.download(packages, progress)


def _directories() -> cpio.Tree:
    return {name: cpio.directory() for name in ("bin", "lib")}


def _packaged(files: list[Path]) -> dict[str, cpio.Entry]:
    """The programs, and every library under the name by which it is asked for."""
    tree: dict[str, cpio.Entry] = {}
    libraries: dict[str, bytes] = {}
    for file in files:
        for path, data in apt.members(file, lambda path: path in WANTED or LIBRARIES in f"{path}"):
            if path in WANTED:
                tree[f"bin/{os.path.basename(path)}"] = cpio.regular(data, 0o755)
            else:
                libraries[os.path.basename(path)] = data
    for name in (*NEEDED, LOADER):
        found = [full for full in libraries if full == name or full.startswith(f"{name}.")]
        if not found:
            raise ImagesError(f"no package of {', '.join(PACKAGES)} has {name}")
        tree[f"lib/{name}"] = cpio.regular(libraries[found[0]], 0o755)
    missing = [name for name in WANTED if f"bin/{os.path.basename(name)}" not in tree]
    if missing:
        raise ImagesError(f"the packages lack {', '.join(missing)}")
    return tree
