"""Programs of Debian's that busybox has not, for the Debian guest: their files with the libraries they need.

    IPERF3 = Programs("iperf3", ("libc6", …, "iperf3"), ("usr/bin/iperf3",))
    programs_archive(IPERF3, progress)      bytes to append to the initramfs
    programs_tree(IPERF3, progress)         bin/ and lib/, to build a disk of

The packages are fetched through the host's apt as the guest itself is; what is made of them is kept beside its images.
Which libraries a program needs the programs and libraries say themselves. Does not: follow dependencies of packages
(the list of packages must be complete, or it is said which library is missing), run anything of the other architecture,
or bring what a package's scripts would set up.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from launcher.images import apt, cpio, elf, store
from launcher.images.debian import SUITE, _updated
from launcher.images.errors import ImagesError

__all__ = ["Programs", "kept", "programs_archive", "programs_tree"]

LIBRARIES = "usr/lib/riscv64-linux-gnu/"
LOADER = "ld-linux-riscv64-lp64d.so.1"


@dataclass(frozen=True)
class Programs:
    """What to take from which packages; `libraries` are those that no file asks for, and one is needed all the same."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]  # paths in the packages
    libraries: tuple[str, ...] = ()


def programs_archive(programs: Programs, progress: apt.Progress) -> bytes:
    """To be appended to the initramfs: /bin and /lib. Raises ImagesError."""

    def build(place: Path) -> None:
        place.write_bytes(cpio.archive(programs_tree(programs, progress)))

    return kept(f"{programs.name}.cpio", (_source(), repr(programs)), build).read_bytes()


def programs_tree(programs: Programs, progress: apt.Progress) -> dict[str, cpio.Entry]:
    """bin/ with the programs, lib/ with every library under the name by which it is asked for. Raises ImagesError."""
    found: dict[str, bytes] = {}
    libraries: dict[str, bytes] = {}
    for file in _fetched(programs, progress):
        for path, data in apt.members(file, lambda path: path in programs.programs or _is_library(path)):
            (found if path in programs.programs else libraries)[PurePosixPath(path).name] = data
    if missing := [path for path in programs.programs if PurePosixPath(path).name not in found]:
        raise ImagesError(f"the packages lack {', '.join(missing)}")
    tree = {"bin": cpio.directory(), "lib": cpio.directory()}
    tree |= {f"bin/{name}": cpio.regular(data, 0o755) for name, data in found.items()}
    wanted = [LOADER, *programs.libraries, *(name for data in found.values() for name in elf.needed(data))]
    for name in wanted:  # grows while it is gone through
        if f"lib/{name}" not in tree:
            data = _library(libraries, name)
            tree[f"lib/{name}"] = cpio.regular(data, 0o755)
            wanted += elf.needed(data)
    return tree


def kept(name: str, made_of: Sequence[bytes | str], build: Callable[[Path], None]) -> Path:
    """A file beside the images, NAME with a digest of what it is made of; built if need be, and then those of the same
    name and another digest removed. It is complete or not there."""
    directory = store.cache_directory()
    stem, suffix = os.path.splitext(name)
    place = directory / f"{stem}-{store.digest(*made_of)}{suffix}"
    if place.exists():
        return place
    with store.locked(directory):
        if not place.exists():
            _into_place(place, build)
            for old in directory.glob(f"{stem}-{'[0-9a-f]' * 16}{suffix}"):
                if old != place:
                    old.unlink()
    return place


def _into_place(place: Path, build: Callable[[Path], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}-")
    os.close(handle)
    try:
        build(Path(temporary))
        os.chmod(temporary, 0o444)
        os.replace(temporary, place)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _fetched(programs: Programs, progress: apt.Progress) -> list[Path]:
    mirrors = apt.debian_mirrors()
    if not mirrors:
        raise ImagesError("this host's apt knows no Debian mirror", hint="On Debian one is in /etc/apt/sources.list.d.")
    private = store.cache_directory() / "packages"
    ours = _updated(private, [apt.Source(mirror.uri, SUITE) for mirror in mirrors], progress)
    return ours.download(list(ours.show(*programs.packages).values()), progress)


def _is_library(path: str) -> bool:
    return path.startswith(LIBRARIES) and PurePosixPath(path).name.startswith(("lib", "ld-"))


def _library(libraries: dict[str, bytes], name: str) -> bytes:
    """libz.so.1 is in libz.so.1.3.1. Raises ImagesError."""
    for full, data in libraries.items():
        if full == name or full.startswith(f"{name}."):
            return data
    raise ImagesError(f"none of the packages has {name}")


def _source() -> bytes:
    folder = resources.files("launcher.images")
    return b"".join(folder.joinpath(name).read_bytes() for name in ("programs.py", "elf.py", "cpio.py"))
