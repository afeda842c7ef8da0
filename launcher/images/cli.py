"""`bulkhead images`: get the Debian guest, say where it is, check it, bring it up to date, or remove it."""

from __future__ import annotations

import argparse
import json
import sys

from launcher.cli.show import Progress
from launcher.images import debian, store
from launcher.images.errors import ImagesError
from launcher.images.store import Images

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="ask the mirror for newer packages")
    what.add_argument("--verify", action="store_true", help="read every image and compare its checksum; fetch nothing")
    what.add_argument("--clean", action="store_true", help="remove all images and downloaded packages")
    parser.add_argument("--json", action="store_true", help="print paths and versions as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The exit status: 0, or 1 when --verify finds something wrong. Raises ImagesError."""
    if arguments.clean:
        debian.clean()
        return 0
    if arguments.verify:
        images = debian.ready()
        if images is None or not store.verified(images.directory, thoroughly=True):
            raise ImagesError("no complete set of images is there", hint="bulkhead images")
    else:
        with Progress(sys.stderr) as progress:
            images = debian.ensure(progress, update=arguments.update)
    print(json.dumps(_described(images), indent=2) if arguments.json else _table(images))
    return 0


def _described(images: Images) -> dict[str, object]:
    paths = {name: str(getattr(images, name)) for name in PATHS}
    return {"kernel_version": images.kernel_version, "packages": images.packages, **paths}


def _table(images: Images) -> str:
    packages = " · ".join(f"{name} {version}" for name, version in images.packages.items() if "linux-" not in name)
    lines = [f"Debian {images.kernel_version} · {packages}"]
    lines += [f"  {name:<9} {getattr(images, name)}" for name in PATHS]
    return "\n".join(lines)


PATHS = ("kernel", "initrd", "root", "opensbi", "u_boot_s", "u_boot_m")
