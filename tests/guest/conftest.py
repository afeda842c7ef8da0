"""What guests are made of: the committed ELF, disks, and the Debian images, fetched once for all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conversation import missing

import guest
from guest.disk import bootable
from launcher.images import Images, ImagesError, ensure

GUEST = Path(guest.__file__).parent


@pytest.fixture
def elf() -> Path:
    return GUEST / "bulkhead-guest.elf"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty disk of 64 MiB."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 << 20)
    return path


@pytest.fixture
def boot_disk(tmp_path: Path, elf: Path) -> Path:
    """A disk for --boot disk."""
    path = tmp_path / "boot.img"
    path.write_bytes(bootable(elf.read_bytes(), (GUEST / "bootsector.bin").read_bytes(), 1 << 20))
    return path


@pytest.fixture(scope="session")
def images() -> Images:
    """The real ones, through this host's apt."""
    try:
        return ensure()
    except ImagesError as error:
        missing(f"the Debian images: {error}")
        raise


@pytest.fixture(scope="session")
def qemu() -> str:
    found = shutil.which("qemu-system-riscv64")
    if found is None:
        missing("qemu-system-misc")
    assert found is not None
    return found
