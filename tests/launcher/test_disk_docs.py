"""The commands in docs/disks.md are run as they stand: `bulkhead disk` for real, `bulkhead run` up to the start."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devproc.blk.uri import SCHEMES
from devproc.properties import properties_of

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "disks.md"


def commands() -> list[list[str]]:
    """Every command in a block marked sh, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def make_encrypted(disk: Path, passphrase: Path) -> None:
    """The page's encrypted disk."""
    if shutil.which("cryptsetup") is None:
        pytest.skip("needs cryptsetup: apt install cryptsetup-bin")
    passphrase.write_text("secret")
    disk.write_bytes(bytes(20 << 20))
    words = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", str(passphrase)]
    subprocess.run(["cryptsetup", "-q", "luksFormat", *words, str(disk)], check=True, timeout=60)


@pytest.mark.slow
def test_every_command_works(bulkhead: Any, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(range(256)) * 4096)
    make_encrypted(tmp_path / "disk.luks", tmp_path / "passphrase.txt")
    for program, verb, *words in commands():
        assert program == "bulkhead"
        more = ["--dry-run", "--guest", "bundled"] if verb == "run" else []
        done = bulkhead(verb, *words, *more, cwd=tmp_path)
        assert done.returncode == 0, (verb, words, done.stderr)


def test_every_scheme_and_parameter_is_described() -> None:
    text = PAGE.read_text()
    for name, scheme in SCHEMES.items():
        assert f"`{name}:" in text, name
        for parameter in properties_of(scheme.load()):
            assert f"`{parameter}=" in text or f"{parameter}=off" in text, (name, parameter)
