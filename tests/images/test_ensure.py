"""Getting the Debian guest: what is fetched is checked, what is built is complete or not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import mirror as fake
import pytest
from mirror import Key, publish

from launcher.images import ImagesError, apt, debian, ensure, ready, store
from launcher.images.errors import SignatureError

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.fixture(autouse=True)
def e2fsprogs() -> None:
    if not any(Path(place, "mke2fs").exists() for place in ("/sbin", "/usr/sbin")):
        pytest.skip("needs e2fsprogs")


def test_images_come_from_the_packages_of_the_mirror(host: Path) -> None:
    images = ensure()

    assert images.kernel_version == fake.KERNEL_VERSION
    assert images.kernel.read_bytes() == fake.KERNEL
    assert images.opensbi.read_bytes() == b"firmware"
    assert images.u_boot_s.read_bytes() == b"s mode"
    assert images.u_boot_m.read_bytes() == b"m mode"
    assert fake.MODULES["fs/ext4/ext4.ko"] in images.initrd.read_bytes()
    assert fake.MODULES["fs/xfs/xfs.ko"] not in images.initrd.read_bytes()
    assert images.root.stat().st_size == debian.ROOT_SIZE
    assert images.root.stat().st_blocks * 512 < debian.ROOT_SIZE // 4


def test_a_second_call_needs_neither_mirror_nor_tools(
    host: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure()
    shutil.rmtree(mirror)
    monkeypatch.setenv("PATH", "/nowhere")
    assert ensure() == first


def test_a_spoilt_image_is_built_again_from_the_packages_already_there(host: Path, mirror: Path) -> None:
    images = ensure()
    shutil.rmtree(mirror)
    images.kernel.chmod(0o644)
    images.kernel.write_bytes(b"x" * len(fake.KERNEL))
    assert ready() is None
    assert ensure().kernel.read_bytes() == fake.KERNEL


def test_a_touched_but_unchanged_image_is_believed(host: Path) -> None:
    images = ensure()
    os.utime(images.kernel)
    assert ready() == images


def test_the_hosts_apt_is_not_written_to(host: Path) -> None:
    ensure()
    assert sorted(path.name for path in host.iterdir()) == ["apt.conf", "lists", "sources.list"]
    assert not any((host / "lists").iterdir())


def test_two_at_once_make_one_set(host: Path, tmp_path: Path) -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(ensure())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(set(map(str, results))) == 1
    assert len(list(store.cache_directory().glob("debian-*"))) == 1


def test_an_update_takes_what_the_mirror_has_now(host: Path, mirror: Path, keys: dict[str, Key]) -> None:
    old = ensure()
    shutil.rmtree(mirror)
    changed = {**fake.PACKAGES, "opensbi": ("", {next(iter(fake.PACKAGES["opensbi"][1])): b"newer"})}
    publish(mirror, debian.SUITE, keys["old"], packages=changed)
    assert ensure() == old
    new = ensure(update=True)
    assert new.opensbi.read_bytes() == b"newer"
    assert ensure() == new


def test_an_interrupted_build_leaves_nothing_that_is_taken_for_a_set(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(debian.root, "build", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure()
    assert ready() is None
    assert not [path for path in store.cache_directory().iterdir() if path.name.startswith((".", "debian"))]
    ensure()


def test_a_killed_build_is_swept_by_the_next(host: Path) -> None:
    script = (
        "import os, signal\nfrom launcher.images import debian, ensure\n"
        "debian.root.build = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from launcher.images import apt\nfrom pathlib import Path\nimport sys\n"
        "apt.KEYRINGS = (Path(sys.argv[1]),)\nensure()\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(apt.KEYRINGS[0])], check=False)
    assert result.returncode == -signal.SIGKILL
    assert list(store.cache_directory().glob(".building-*"))
    ensure()
    assert not list(store.cache_directory().glob(".building-*"))


def test_a_package_that_is_not_the_one_in_the_index_is_refused(host: Path, mirror: Path) -> None:
    package = next(mirror.glob("pool/opensbi_*"))
    data = bytearray(package.read_bytes())
    data[-100] ^= 1
    package.write_bytes(data)
    with pytest.raises(ImagesError, match=r"(?i)hash|mismatch|unexpected"):
        ensure()
    assert ready() is None


def test_an_index_signed_with_an_unknown_key_is_refused(host: Path, mirror: Path, keys: dict[str, Key]) -> None:
    publish_again(mirror, keys["new"])
    with pytest.raises(SignatureError):
        ensure()
    assert ready() is None


def test_an_index_that_is_not_signed_is_refused(host: Path, mirror: Path) -> None:
    release = mirror / "dists" / debian.SUITE / "InRelease"
    text = release.read_text().split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0]
    release.unlink()
    (release.parent / "Release").write_text(text)
    with pytest.raises(SignatureError, match="not signed"):
        ensure()


def test_a_release_newer_than_the_hosts_keyring_is_checked_with_the_hosts_newest(
    host: Path, mirror: Path, keys: dict[str, Key]
) -> None:
    publish_again(mirror, keys["new"])
    keyring = keys["old"].keyring.read_bytes() + keys["new"].keyring.read_bytes()
    package = {"debian-archive-keyring": ("", {str(apt.KEYRINGS[0]).lstrip("/"): keyring})}
    publish(mirror, "bookworm", keys["old"], architecture=apt.host_architecture(), packages=package)
    assert ensure().kernel.read_bytes() == fake.KERNEL


def test_a_host_without_a_debian_mirror_is_told_so(host: Path) -> None:
    (host / "sources.list").write_text("deb http://packages.example.org/apt cloud main\n")
    with pytest.raises(ImagesError, match="no Debian mirror") as error:
        ensure()
    assert "--guest bundled" in error.value.hint


def test_a_host_without_apt_is_told_so(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImagesError, match="no apt-get") as error:
        ensure()
    assert "--guest bundled" in error.value.hint


def test_a_mirror_that_does_not_answer_is_an_error_with_its_name(host: Path) -> None:
    (host / "sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n")
    with pytest.raises(ImagesError, match=r"127\.0\.0\.1"):
        ensure()


def test_a_full_disk_is_named_even_where_apt_could_not_say_so(
    host: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(mirror)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(ImagesError, match="the disk is full"):
        ensure()


def test_a_cache_that_cannot_be_written_is_an_error(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    with pytest.raises(ImagesError, match="cannot keep images"):
        ensure()


def publish_again(mirror: Path, key: Key) -> None:
    """The same release, signed with another key."""
    release = mirror / "dists" / debian.SUITE / "InRelease"
    text = release.read_text().split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0]
    release.write_bytes(key.sign(text.encode()))
