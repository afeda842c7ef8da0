"""One image behind two disks is refused, unless nobody writes to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.machine.options import Given
from launcher.machine.twice import refuse_twice
from launcher.machine.values import parse_disk
from proto.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.img").write_bytes(bytes(512))
    (tmp_path / "b.img").write_bytes(bytes(512))
    os.link(tmp_path / "a.img", tmp_path / "same.img")
    return tmp_path


def check(folder: Path, *texts: str) -> None:
    given = [Given(text, "--disk", folder) for text in texts]
    refuse_twice(given, [parse_disk(one) for one in given])


@pytest.mark.parametrize(
    "texts",
    [
        ("a.img", "a.img"),
        ("a.img", "./a.img,ro"),
        ("a.img,id=x", "b.img", "same.img,ro"),
        ("log:a.img", "snapshot:a.img"),
        ("snapshot:overlay=o:a.img", "snapshot:overlay=o:b.img"),
        ("qcow2:a.img", "delay:ms=1:file:a.img"),
    ],
)
def test_both_options_are_named(folder: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(folder, *texts)
    assert f"--disk {texts[0]} and --disk {texts[-1]}" in caught.value.message and "snapshot:" in caught.value.hint


@pytest.mark.parametrize(
    "texts",
    [
        ("a.img", "b.img"),
        ("a.img,ro", "a.img,ro"),
        ("snapshot:a.img", "snapshot:a.img"),
        ("snapshot:a.img", "log:a.img,ro"),
        ("http://localhost/x", "http://localhost/x"),
        ("new1.img", "new2.img"),
    ],
)
def test_who_only_reads_may_share(folder: Path, texts: tuple[str, ...]) -> None:
    check(folder, *texts)
