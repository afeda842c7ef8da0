"""Programs for the guest: which libraries they ask for, and how a file beside the images comes to be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.images import ImagesError, apt, elf, programs
from launcher.images.programs import Programs, kept, programs_tree


def test_a_program_says_which_libraries_it_needs() -> None:
    with open("/proc/self/maps") as lines:
        loader = next(line.split()[-1] for line in lines if "/ld-linux" in line)
    assert "libc.so.6" in elf.needed(Path(sys.executable).read_bytes())
    assert elf.needed(Path(loader).read_bytes()) == []


@pytest.mark.parametrize("damage", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" + bytes(64)])
def test_a_file_that_is_no_program_is_an_error(damage: bytes) -> None:
    with pytest.raises(ImagesError, match="damaged"):
        elf.needed(damage)


def test_the_libraries_of_libraries_are_brought_and_one_that_is_nowhere_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asks = {b"tool": ["liba.so.1"], b"a": ["libb.so.2"], b"b": [], b"loader": [], b"lonely": ["libnone.so.1"]}
    place = "usr/lib/riscv64-linux-gnu"
    packed = {
        "usr/bin/tool": b"tool",
        "usr/bin/lonely": b"lonely",
        f"{place}/ld-linux-riscv64-lp64d.so.1": b"loader",
        f"{place}/liba.so.1.4": b"a",
        f"{place}/deep/libb.so.2": b"b",
    }
    monkeypatch.setattr(elf, "needed", lambda file: asks[file])
    monkeypatch.setattr(programs, "_fetched", lambda wanted, progress: [tmp_path])
    monkeypatch.setattr(apt, "members", lambda file, wanted: [item for item in packed.items() if wanted(item[0])])
    tree = programs_tree(Programs("tool", (), ("usr/bin/tool",)), lambda what, fraction: None)
    assert {path: entry.data for path, entry in tree.items() if entry.data} == {
        "bin/tool": b"tool",
        "lib/ld-linux-riscv64-lp64d.so.1": b"loader",
        "lib/liba.so.1": b"a",
        "lib/libb.so.2": b"b",
    }
    with pytest.raises(ImagesError, match=r"none of the packages has libnone\.so\.1"):
        programs_tree(Programs("lonely", (), ("usr/bin/lonely",)), lambda what, fraction: None)
    with pytest.raises(ImagesError, match="the packages lack usr/bin/gone"):
        programs_tree(Programs("gone", (), ("usr/bin/gone",)), lambda what, fraction: None)


def test_what_is_made_is_kept_until_it_is_made_of_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = []

    def build(place: Path) -> None:
        built.append(place)
        place.write_text("made")

    first = kept("tools.ext4", ("a",), build)
    assert kept("tools.ext4", ("a",), build) == first and len(built) == 1
    other = kept("tools-two.ext4", ("a",), build)
    second = kept("tools.ext4", ("b",), build)
    assert second != first and not first.exists() and second.read_text() == "made" and other.exists()

    def fails(place: Path) -> None:
        raise ImagesError("no")

    with pytest.raises(ImagesError):
        kept("tools.ext4", ("c",), fails)
    assert sorted(path.name for path in second.parent.glob("*tools*")) == sorted([other.name, second.name])
