"""The pieces the images are made of: cpio archives, module order, busybox's names, root images, commands."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from mirror import APPLETS, BUSYBOX, MODULES, module

from launcher.images import Command, ImagesError, cpio, modules, root, userland

TREE = {
    "etc": cpio.directory(),
    "etc/hostname": cpio.regular("guest\n"),
    "etc/name": cpio.link("hostname"),
    "dev": cpio.directory(),
    "dev/console": cpio.device(5, 1),
    "sbin": cpio.directory(0o700),
    "sbin/init": cpio.regular(b"#!/bin/sh\n", 0o755),
}


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    listing = subprocess.run(["cpio", "-tv", "--quiet"], input=cpio.archive(TREE), capture_output=True, check=True)
    lines = listing.stdout.decode().splitlines()
    assert len(lines) == len(TREE)
    assert lines[1].startswith("-rw-r--r--")
    assert lines[2].endswith("etc/name -> hostname")
    assert "5,   1" in lines[4]
    assert lines[6].startswith("-rwxr-xr-x")


def test_archives_may_follow_one_another() -> None:
    assert len(cpio.archive(TREE)) % 512 == 0


def test_an_archive_depends_on_the_tree_alone() -> None:
    assert cpio.archive(TREE) == cpio.archive(dict(TREE))


def test_modules_come_after_what_they_depend_on() -> None:
    names = [found.name for found in modules.closure(MODULES, ["crc32c_generic", "ext4"])]
    assert names == ["crc32c_generic", "jbd2", "mbcache", "ext4"]


def test_a_module_whose_dependency_is_missing_is_an_error() -> None:
    with pytest.raises(ImagesError, match="something_else, needed by xfs"):
        modules.closure(MODULES, ["xfs"])


def test_modprobe_learns_dependencies_soft_ones_and_aliases() -> None:
    tree = modules.tree(modules.closure(MODULES, ["crc32c_generic", "ext4", "virtio_blk"]), "1.0")
    dependencies = dict(line.split(":") for line in tree["lib/modules/1.0/modules.dep"].data.decode().splitlines())
    assert sorted(dependencies["ext4.ko"].split()) == ["crc32c_generic.ko", "jbd2.ko", "mbcache.ko"]
    # loaded from right to left: what jbd2 itself needs first has to stand behind it
    order = dependencies["ext4.ko"].split()
    assert order.index("crc32c_generic.ko") > order.index("jbd2.ko")
    assert b"alias virtio:d00000002v* virtio_blk\n" in tree["lib/modules/1.0/modules.alias"].data


def test_modules_are_uncompressed() -> None:
    import lzma

    data = module(name="virtio_blk", depends="")
    found = modules.Module.read("kernel/drivers/block/virtio_blk.ko.xz", lzma.compress(data))
    assert (found.name, found.data) == ("virtio_blk", data)


def test_a_module_compressed_in_an_unknown_way_is_an_error() -> None:
    with pytest.raises(ImagesError, match=r"\.lz9"):
        modules.Module.read("a.ko.lz9", b"")


def test_busybox_says_which_programs_it_is() -> None:
    assert userland.applets(BUSYBOX) == APPLETS


def test_a_busybox_without_names_is_an_error() -> None:
    with pytest.raises(ImagesError, match="busybox"):
        userland.applets(b"\x7fELF")


def test_the_userland_has_busybox_under_its_names_and_our_init() -> None:
    tree = userland.tree(BUSYBOX)
    assert tree["bin/ls"] == cpio.link("busybox")
    assert tree["bin/init"].data.startswith(b"#!/bin/sh")
    assert tree["sbin"] == cpio.link("bin")
    parents = {str(Path(path).parent) for path in tree} - {"."}
    order = list(tree)
    assert all(order.index(str(Path(path).parent)) < order.index(path) for path in tree if "/" in path)
    assert all(stat.S_ISDIR(tree[parent].mode) for parent in parents)


@pytest.fixture
def debugfs() -> str:
    try:
        return root.find_tool("debugfs")
    except ImagesError:
        pytest.skip("needs e2fsprogs")


def test_a_root_image_has_the_tree_and_root_owns_it(debugfs: str, tmp_path: Path) -> None:
    root.build(TREE, tmp_path / "image", 16 << 20)
    show = [debugfs, "-R", "stat /sbin/init", str(tmp_path / "image")]
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert "Mode:  0755" in text
    assert "User:     0   Group:     0" in text
    target = subprocess.run([debugfs, "-R", "stat /etc/name", str(tmp_path / "image")], capture_output=True, text=True)
    assert "hostname" in target.stdout


def test_a_root_image_is_without_fault(debugfs: str, tmp_path: Path) -> None:
    root.build(TREE, tmp_path / "image", 16 << 20)
    check = subprocess.run([root.find_tool("e2fsck"), "-fn", str(tmp_path / "image")], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_the_same_tree_makes_the_same_root_image(debugfs: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        root.build(TREE, tmp_path / name, 16 << 20)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_command_arrives_as_it_was_given(tmp_path: Path) -> None:
    """The script in the archive is run here, by the host's sh: words with anything in them stay what they are."""
    argv = ["printf", "%s|", "a b", "$HOME", "it's", "new\nline", "*", ""]
    archive = Command(argv, environment={"GREETING": 'say "hi"'}).archive()
    start = archive.index(b"export GREETING")
    script = archive[start : archive.index(b"070701", start)].rstrip(b"\0").decode()
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == "a b|$HOME|it's|new\nline|*||"


def test_each_run_has_a_marker_of_its_own() -> None:
    assert Command(["true"]).marker != Command(["true"]).marker


def test_output_ends_at_the_marker_and_says_the_status() -> None:
    command = Command(["false"])
    console = b"text without line feed" + command.marker.encode() + b" end 7\n"
    match = command.end.search(console)
    assert match is not None
    assert console[: match.start()] == b"text without line feed"
    assert int(match[1]) == 7


def test_a_shell_needs_no_command_and_no_marker() -> None:
    archive = Command(size=(40, 120)).archive()
    assert b"bulkhead/command" not in archive
    assert b"rows 40 cols 120" in archive
