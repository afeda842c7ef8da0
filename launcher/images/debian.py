"""The Debian guest: which packages it is made of, and how the images come out of them.

`ensure` is what a caller wants: images that are there and right, or an ImagesError that says what to do. The first time
it fetches about 115 MB; afterwards it reads two small files.
"""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path, PurePosixPath

from launcher.images import apt, cpio, modules, root, store, userland
from launcher.images.apt import Apt, Package, Progress, Source
from launcher.images.errors import ImagesError, SignatureError
from launcher.images.store import Images

__all__ = ["SUITE", "clean", "ensure", "ready"]

SUITE = "trixie"
ARCHITECTURE = "riscv64"
KERNEL = "linux-image-riscv64"  # depends on the package with the kernel of the day
OTHERS = ("busybox-static", "opensbi", "u-boot-qemu")

# What the initramfs can drive. Everything else the small system needs is built into Debian's kernel.
INITRAMFS_MODULES = ("virtio_mmio", "virtio_blk", "virtio_rng", "crc32c_generic", "ext4")
# Drivers that most machines do without: each group is an archive of its own, to append to the initramfs.
EXTRA_MODULES = {"network": ("virtio_net",), "shares": ("9p", "9pnet_virtio")}
MODULE_PLACES = (
    "/drivers/net/virtio_net",
    "/drivers/net/net_failover",
    "/net/core/",
    "/net/9p/",
    "/drivers/virtio/",
    "/drivers/block/virtio",
    "/drivers/char/hw_random/",
    "/fs/",
    "/crypto/",
    "/lib/",
)

ROOT_SIZE = 256 << 20

# The files of this package that decide what an image looks like.
DETERMINED_BY = (
    *("cpio.py", "modules.py", "userland.py", "root.py", "debian.py"),
    *("guest/initramfs.sh", "guest/init.sh"),
)

# Path in a package → name in the set.
FIRMWARE = {
    "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin": "opensbi.bin",
    "usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin": "u-boot-s.bin",
    "usr/lib/u-boot/qemu-riscv64/u-boot.bin": "u-boot-m.bin",
}


def quietly(what: str, fraction: float | None) -> None:
    """No progress."""


def ready() -> Images | None:
    """The images if they are there already: no network, no tools, no lock."""
    directory = store.cache_directory()
    packages = _recorded(directory)
    return store.verified(_place(directory, packages)) if packages else None


def ensure(progress: Progress = quietly, *, update: bool = False) -> Images:
    """The images, fetched and built if need be; with `update`, from the newest packages of the release.

    Raises ImagesError. Safe to interrupt at any point and to call from several processes at once."""
    if not update and (images := ready()):
        return images
    directory = store.cache_directory()
    with store.locked(directory):
        if not update and (images := ready()):
            return images
        packages = _fetched(directory, progress, update)
        place = _place(directory, packages)
        images = store.verified(place) or _built(place, directory, packages, progress)
        (directory / "packages.json").write_text(json.dumps({name: vars(p) for name, p in packages.items()}))
        store.sweep(directory, keep=place)
    return images


def clean() -> None:
    """Remove everything `ensure` made."""
    directory = store.cache_directory()
    with store.locked(directory):
        for path in directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _recorded(directory: Path) -> dict[str, Package]:
    """The packages of the newest set; empty when there is none or its record is damaged."""
    try:
        record = json.loads((directory / "packages.json").read_text())
        return {name: Package(**{**fields, "depends": tuple(fields["depends"])}) for name, fields in record.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _place(directory: Path, packages: dict[str, Package]) -> Path:
    """Where the set made of these packages by this code belongs."""
    folder = resources.files("launcher.images")
    sources = [folder.joinpath(name).read_bytes() for name in DETERMINED_BY]
    name = store.digest(*sources, *(packages[name].sha256 for name in sorted(packages)))
    return directory / f"debian-{_kernel_version(packages)}-{name}"


def _kernel_version(packages: dict[str, Package]) -> str:
    """6.12.107+deb13-riscv64, from the name of the package with the kernel in it."""
    return next(name for name in packages if name.startswith("linux-image-")).removeprefix("linux-image-")


def _fetched(directory: Path, progress: Progress, update: bool) -> dict[str, Package]:
    """The packages, all in packages/archives and as the signed index has them."""
    private = directory / "packages"
    recorded = _recorded(directory)
    if recorded and not update and all(_intact(private, package) for package in recorded.values()):
        return recorded  # a newer bulkhead builds another set from them: no need of a network
    apt.require_tools()
    mirrors = apt.debian_mirrors()
    if not mirrors:
        raise ImagesError(
            "this host's apt knows no Debian mirror",
            hint="On Debian one is in /etc/apt/sources.list.d. Without: bulkhead run --guest bundled",
        )
    sources = [Source(mirror.uri, SUITE) for mirror in mirrors]
    ours = _updated(private, sources, progress)
    meta = ours.show(KERNEL)[KERNEL]
    kernel = next((name for name in meta.depends if name.startswith("linux-image-")), None)
    if kernel is None:
        raise ImagesError(f"{KERNEL} {meta.version} names no kernel package")
    packages = ours.show(kernel, *OTHERS)
    wanted = [package for package in packages.values() if not _intact(private, package)]
    for package in wanted:
        (private / "archives" / package.file_name).unlink(missing_ok=True)
    if wanted:
        ours.download(wanted, progress)
    for package in packages.values():
        if not _intact(private, package):
            raise ImagesError(f"{package.file_name} is not what the index says", hint="bulkhead images --clean")
    for path in (private / "archives").glob("*.deb"):
        if path.name not in {package.file_name for package in packages.values()}:
            path.unlink()
    return packages


def _updated(private: Path, sources: list[Source], progress: Progress) -> Apt:
    """Our apt with its index fetched and verified by the first keyring that can."""
    keyring = next((path for path in apt.KEYRINGS if path.exists()), None)
    ours = Apt(private, ARCHITECTURE, [Source(source.uri, source.suite, keyring) for source in sources])
    try:
        ours.update(progress)
        return ours
    except SignatureError as error:
        # The host's keyring may be older than the release. Its own suite has a newer one, signed with keys it knows.
        try:
            newer = _newer_keyring(private, keyring, progress)
        except ImagesError:
            raise error from None
    ours = Apt(private, ARCHITECTURE, [Source(source.uri, source.suite, newer) for source in sources])
    ours.update(progress)
    return ours


def _newer_keyring(private: Path, keyring: Path | None, progress: Progress) -> Path:
    """The keyring in the newest debian-archive-keyring of the host's own release."""
    own = [Source(mirror.uri, mirror.suite, keyring) for mirror in apt.debian_mirrors()]
    host = Apt(private / "keyring", apt.host_architecture(), own)
    host.update(progress)
    (file,) = host.download(list(host.show("debian-archive-keyring").values()), progress)
    for path, data in apt.members(file, lambda path: Path("/", path) in apt.KEYRINGS):
        newer = private / "keyring" / PurePosixPath(path).name
        newer.write_bytes(data)
        return newer
    raise ImagesError("debian-archive-keyring has no keyring", hint="apt-get install debian-archive-keyring")


def _intact(private: Path, package: Package) -> bool:
    path = private / "archives" / package.file_name
    return path.exists() and path.stat().st_size == package.size and store.sha256(path) == package.sha256


def _built(place: Path, directory: Path, packages: dict[str, Package], progress: Progress) -> Images:
    """Build the set into its place."""
    for tool in ("mke2fs", "debugfs"):
        root.find_tool(tool)
    version = _kernel_version(packages)
    files = {name: directory / "packages" / "archives" / package.file_name for name, package in packages.items()}
    with store.install(place, version, {name: package.version for name, package in packages.items()}) as building:
        progress("unpack the kernel", 0.0)
        kernel, stored_modules = _kernel(files[f"linux-image-{version}"], version)
        (building / "kernel").write_bytes(kernel)
        progress("unpack the kernel", 1.0)
        ((_, busybox),) = apt.members(files["busybox-static"], lambda path: path in ("bin/busybox", "usr/bin/busybox"))
        system = userland.tree(busybox)
        drivers, extras = _drivers(stored_modules, version)
        initramfs = {**system, **drivers, "init": cpio.regular(userland.script("initramfs.sh"), 0o755)}
        progress("build the initramfs", None)
        (building / "initramfs.cpio").write_bytes(cpio.archive(initramfs))
        for name, tree in extras.items():
            (building / f"{name}.cpio").write_bytes(cpio.archive(tree))
        progress("build the root file system", None)
        root.build({**system, **drivers}, building / "root.ext4", ROOT_SIZE)
        for package in ("opensbi", "u-boot-qemu"):
            for path, data in apt.members(files[package], lambda path: path in FIRMWARE):
                (building / FIRMWARE[path]).write_bytes(data)
        progress("checksums", None)
    images = store.verified(place)
    assert images is not None, "a set is verified as it was just written"
    return images


def _drivers(stored: dict[str, bytes], version: str) -> tuple[cpio.Tree, dict[str, cpio.Tree]]:
    """The drivers that are always there, with the indexes of all, and what each extra group adds to them."""
    always = {module.name for module in modules.closure(stored, INITRAMFS_MODULES)}
    wanted = [name for names in (INITRAMFS_MODULES, *EXTRA_MODULES.values()) for name in names]
    everything = modules.tree(modules.closure(stored, wanted), version)
    extras: dict[str, cpio.Tree] = {}
    for group, names in EXTRA_MODULES.items():
        added = {module.name for module in modules.closure(stored, names)} - always
        extras[group] = {path: entry for path, entry in everything.items() if modules.name_of(path) in added}
    later = {path for tree in extras.values() for path in tree}
    return {path: entry for path, entry in everything.items() if path not in later}, extras


def _kernel(package: Path, version: str) -> tuple[bytes, dict[str, bytes]]:
    """The kernel, and the modules that are small enough a part to look at, by path."""
    image = f"boot/vmlinux-{version}"

    def wanted(path: str) -> bool:
        return path == image or (".ko" in path and any(place in path for place in MODULE_PLACES))

    found = dict(apt.members(package, wanted))
    if image not in found:
        raise ImagesError(f"{package.name} has no {image}")
    kernel = found.pop(image)
    return kernel, found
