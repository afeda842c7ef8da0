"""The images directory: packages as fetched, and sets of images built from them, each with a manifest of checksums.

    $XDG_CACHE_HOME/bulkhead/images/          0700
        lock                                  held while anything below is changed
        packages/                             the private apt: lists, archives, status
        packages.json                         which packages the newest set is made of
        debian-6.12.107+deb13-riscv64-1f2e…/  one set, named after its kernel and everything it was made from
            manifest.json  kernel  initramfs.cpio  network.cpio  shares.cpio  root.ext4  opensbi.bin  u-boot-s.bin
            u-boot-m.bin

A set is complete or not there: it is built beside its place and renamed. Its name has a digest of the packages and of
the code that builds it, so a newer bulkhead or a newer kernel makes a new one and never a mixture. A set that nobody
wants any more stays for a day: another bulkhead may be about to start from it.

A file whose size and time are those of the manifest is believed; one that was touched is hashed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.images.errors import ImagesError

__all__ = ["Images", "cache_directory", "digest", "install", "locked", "sha256", "sweep", "verified"]

MANIFEST = "manifest.json"
KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Images:
    """Where the images are. All are read-only by agreement: a guest that writes gets its own `copy_root`."""

    directory: Path
    kernel_version: str
    packages: dict[str, str]  # name → version

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"

    @property
    def initrd(self) -> Path:
        return self.directory / "initramfs.cpio"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"

    @property
    def opensbi(self) -> Path:
        """OpenSBI's fw_jump: enters 0x80200000 in S-mode."""
        return self.directory / "opensbi.bin"

    @property
    def u_boot_s(self) -> Path:
        """U-Boot for S-mode, at 0x80200000 under an SBI."""
        return self.directory / "u-boot-s.bin"

    @property
    def u_boot_m(self) -> Path:
        """U-Boot for M-mode, at 0x80000000, as --bios."""
        return self.directory / "u-boot-m.bin"

    def extra(self, group: str) -> Path:
        """Drivers to append to the initramfs: "network" or "shares"."""
        return self.directory / f"{group}.cpio"

    def copy_root(self, destination: Path) -> None:
        """A root image of one's own: as sparse as the original."""
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
        try:
            _copy_sparse(self.root, temporary)
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/bulkhead/images, made and closed to others."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "bulkhead" / "images"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ImagesError(f"cannot keep images in {directory}: {error.strerror}", hint="Set XDG_CACHE_HOME.") from error
    return directory


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One at a time: others wait here, and find the work done. The lock goes with the process."""
    with open(directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(*parts: bytes | str) -> str:
    """A short name for everything that determines a set."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


def verified(directory: Path, *, thoroughly: bool = False) -> Images | None:
    """The set in `directory` if every file is what the manifest says, else None; `thoroughly`: hash all of them."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        for name, expected in manifest["files"].items():
            path = directory / name
            status = path.stat()
            touched = [status.st_size, status.st_mtime_ns] != [expected["size"], expected["mtime_ns"]]
            if (touched or thoroughly) and sha256(path) != expected["sha256"]:
                return None
        return Images(directory, manifest["kernel_version"], manifest["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def install(place: Path, kernel_version: str, packages: dict[str, str]) -> Iterator[Path]:
    """A directory to build a set in; at the end it is hashed, written out and becomes `place`, or is gone."""
    building = Path(tempfile.mkdtemp(dir=place.parent, prefix=".building-"))
    try:
        yield building
        files = {}
        for path in sorted(building.iterdir()):
            path.chmod(0o444)
            status = path.stat()
            files[path.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
        manifest = {"kernel_version": kernel_version, "packages": packages, "files": files}
        (building / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in building.iterdir():
            _to_disk(path)
        if place.exists():
            shutil.rmtree(place)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def sweep(directory: Path, keep: Path) -> None:
    """Remove what interrupted builds left, and other sets when they are a day old. Only under the lock."""
    for path in directory.iterdir():
        unfinished = path.name.startswith(".building-")
        old = path.name.startswith("debian-") and path != keep and time.time() - path.stat().st_mtime > KEPT_SECONDS
        if unfinished or old:
            shutil.rmtree(path, ignore_errors=True)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy_sparse(source: Path, destination: Path) -> None:
    with open(source, "rb") as reader, open(destination, "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        offset = 0
        while offset < size:
            try:
                start = os.lseek(reader.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            os.lseek(writer.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(writer.fileno(), reader.fileno(), start, end - start)
            offset = end


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
