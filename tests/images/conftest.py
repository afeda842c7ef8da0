"""A host whose apt knows one Debian mirror, in a directory, and a cache of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mirror import Key, publish

from launcher.images import apt

NEEDED = ("apt-get", "dpkg-deb", "gpg")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Key]]:
    """Two archive keys: the one the host has always known, and one that came with the next release."""
    for tool in NEEDED:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    home = tmp_path_factory.mktemp("keys")
    keys = {name: Key.make(home / name) for name in ("old", "new")}
    yield keys
    for key in keys.values():
        key.close()


@pytest.fixture(scope="session")
def published(keys: dict[str, Key], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with the release wanted, signed with the old key."""
    root = tmp_path_factory.mktemp("published")
    publish(root, apt_suite(), keys["old"])
    return root


def apt_suite() -> str:
    from launcher.images.debian import SUITE

    return SUITE


@pytest.fixture
def mirror(published: Path, tmp_path: Path) -> Path:
    """A copy of that mirror that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "mirror"))


@pytest.fixture
def host(mirror: Path, keys: dict[str, Key], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's apt configuration (its directory), which names the mirror; the images' cache is empty."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "lists").mkdir()
    (etc / "sources.list").write_text(f"deb file:{mirror} bookworm main\n")
    (etc / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{etc}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::main "/dev/null";\n'
        'Dir::Etc::parts "/dev/null";\n'
        f'Dir::State::lists "{etc}/lists";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(etc / "apt.conf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(apt, "KEYRINGS", (keys["old"].keyring,))
    return etc
