"""An ext4 root file system in a file, from a tree of entries, without root rights and without mounting anything.

mke2fs fills the image from a directory; debugfs then gives every file to root and sets its times, which the directory
could not. The same tree gives the same image with the same e2fsprogs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from launcher.images.cpio import Tree
from launcher.images.errors import ImagesError

__all__ = ["build", "find_tool"]

UUID = "b01c4ead-0000-4000-8000-000000000001"
HASH_SEED = "b01c4ead-0000-4000-8000-000000000002"
EPOCH = 1_700_000_000  # every time in the image, seconds since 1970


def build(tree: Tree, image: Path, size: int) -> None:
    """Write a sparse image of `size` bytes. Raises ImagesError when e2fsprogs is missing or refuses."""
    mke2fs, debugfs = find_tool("mke2fs"), find_tool("debugfs")
    with tempfile.TemporaryDirectory(dir=image.parent, prefix="root-") as directory:
        _lay_out(tree, Path(directory))
        with open(image, "wb") as file:
            file.truncate(size)
        extended = f"hash_seed={HASH_SEED},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
        # 1 KiB of metadata a file is enough; what is initialised here the guest's kernel need not do in the background.
        options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "4096"]
        identity = ["-U", UUID, "-L", "bulkhead", "-E", extended]
        _run([mke2fs, *options, *identity, "-d", directory, str(image)])
    _run([debugfs, "-w", "-f", "-", str(image)], input="".join(_ownership(tree)))


def find_tool(name: str) -> str:
    """An e2fsprogs program; they live where an ordinary user's PATH does not look."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise ImagesError(f"this host has no {name}", hint="apt-get install e2fsprogs")
    return found


def _lay_out(tree: Tree, directory: Path) -> None:
    """The tree as files. Device nodes need root to make, and devtmpfs makes them in the guest: left out."""
    for path, entry in tree.items():
        place = directory / path
        if stat.S_ISDIR(entry.mode):
            place.mkdir()
            place.chmod(stat.S_IMODE(entry.mode) | stat.S_IRWXU)
        elif stat.S_ISLNK(entry.mode):
            place.symlink_to(entry.data.decode())
        elif stat.S_ISREG(entry.mode):
            place.write_bytes(entry.data)
            place.chmod(stat.S_IMODE(entry.mode))


def _ownership(tree: Tree) -> list[str]:
    """debugfs commands: every file root's, every time the same."""
    lines = []
    for path, entry in {"": None, "lost+found": None, **tree}.items():
        if entry is not None and stat.S_ISCHR(entry.mode):
            continue
        fields = {"uid": 0, "gid": 0, **dict.fromkeys(("atime", "ctime", "mtime", "crtime"), f"@{EPOCH}")}
        if entry is not None:
            fields["mode"] = f"0{entry.mode:o}"
        lines += [f'set_inode_field "/{path}" {name} {value}\n' for name, value in fields.items()]
    return lines


def _run(command: list[str], input: str = "") -> None:
    # Both names for "pretend that it is then": the first before e2fsprogs 1.47.1, the second since.
    environment = {**os.environ, "LC_ALL": "C", "E2FSPROGS_FAKE_TIME": str(EPOCH), "SOURCE_DATE_EPOCH": str(EPOCH)}
    result = subprocess.run(command, input=input, capture_output=True, text=True, env=environment, check=False)
    complaint = [line for line in result.stderr.splitlines() if not line.startswith(("debugfs 1", "mke2fs 1"))]
    if result.returncode or complaint:
        raise ImagesError(f"{Path(command[0]).name}: {' '.join(complaint) or f'status {result.returncode}'}")
