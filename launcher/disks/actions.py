"""What `bulkhead disk` does. Each function takes the words of the command line and returns plain values."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devproc.blk import qcow2_tools
from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.file import open_locked
from devproc.blk.qcow2 import Qcow2, commit_image
from devproc.blk.snapshot import Snapshot, commit_overlay, discard_overlay
from devproc.blk.uri import Uri, absolute, is_qcow2, parse_uri
from launcher.disks.extents import data_ranges
from launcher.disks.split import write_split
from launcher.disks.whole import whole
from proto.errors import ConfigError

__all__ = ["check", "commit", "convert", "create", "discard", "info", "refuse_misleading", "resize", "split"]

Progress = Callable[[str, float | None], None]
Result = dict[str, Any]
SECTOR = 512
PIECE = 1 << 20
GRAIN = 64 << 10  # zeroes of this length are not copied
ZEROES = bytes(GRAIN)
OTHER_FORMATS = (".qcow2", ".qcow", ".qed", ".vmdk", ".vhd", ".vhdx", ".vdi")  # a raw image is not called that
UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def create(
    uri: str,
    size: str = "",
    *,
    progress: Progress,
    cluster: str = "64k",
    format_version: str = "3",
    backing: str = "",
    backing_format: str = "",
) -> Result:
    """An empty image."""
    kind, path = _new_image(uri)
    if kind == "file":
        if backing:
            raise ConfigError("a raw image stands on nothing", hint=f"Did you mean qcow2:{path}?")
        return _create_raw(path, _size(size))
    if backing:
        stands_on = parse_uri(backing)
        below = os.path.join(os.path.dirname(path), stands_on.target)
        if stands_on.scheme == "file" and not os.path.exists(below):
            raise ConfigError(f"{below}: no such file to stand on", hint="A path is relative to the new image's.")
        backing_format = backing_format or ("qcow2" if is_qcow2(below) else "raw")
        if not size:
            with _opened(f"{'qcow2' if backing_format == 'qcow2' else 'file'}:{below}") as disk:
                size = str(disk.size)
    layout = _layout(cluster, format_version)
    with whole(path) as part:
        qcow2_tools.create(part, _size(size), backing=backing, backing_format=backing_format, **layout)
    return {"path": path, "format": "qcow2", "size": _size(size)}


def convert(uri: str, to: str, *, progress: Progress, cluster: str = "64k", format_version: str = "3") -> Result:
    """Copy a disk into a new image; runs of zeroes stay holes. Under its name it is there when it is whole."""
    kind, path = _new_image(to)
    copied = 0
    with _opened(_uri(uri)) as source, whole(path) as part:
        if kind == "qcow2":
            qcow2_tools.create(part, source.size, **_layout(cluster, format_version))
        else:
            _create_raw(part, source.size)
        with _opened(f"{kind}:file:{part}" if kind == "qcow2" else f"file:{part}", write=True) as target:
            for at, piece in _pieces(source, progress, f"copying to {os.path.basename(path)}"):
                for start in range(0, len(piece), GRAIN):
                    grain = piece[start : start + GRAIN]
                    if grain != ZEROES[: len(grain)]:
                        target.pwritev([memoryview(grain)], at + start, False)
                        copied += len(grain)
            target.flush()
        return {"path": path, "format": "raw" if kind == "file" else kind, "size": source.size, "copied": copied}


def info(uri: str, *, progress: Progress) -> Result:
    """What a disk is, and what is below it."""
    text = _uri(uri)
    with _opened(text) as disk:
        return {"uri": text, **_describe(disk, parse_uri(text))}


def check(uri: str, *, progress: Progress, repair: bool = False) -> Result:
    """Count every reference of a qcow2 image."""
    with _opened(_uri(uri), write=repair) as disk:
        if not isinstance(disk, Qcow2):
            raise ConfigError(f"{uri} is no qcow2 image; there is nothing to check in it")
        found = qcow2_tools.check(disk, _report(progress, "checking"), repair=repair)
        return {
            "errors": found.errors,
            "leaks": len(found.leaks),
            "repaired": found.repaired,
            "allocated": found.allocated,
            "compressed": found.compressed,
            "clusters": -(-disk.size // disk.header.cluster),
        }


def split(
    uri: str, folder: str, *, progress: Progress, block: str = "256k", prefetch: str = "", group: str = "8"
) -> Result:
    """Cut a disk into files for a web server."""
    wanted = [_number(word, "--prefetch") for word in prefetch.split(",")] if prefetch else []
    with _opened(_uri(uri)) as disk:
        pieces = _report(progress, f"splitting into {folder}")
        return write_split(disk, Path(folder), _size(block), wanted, _number(group, "--group"), pieces)


def commit(uri: str, *, progress: Progress) -> Result:
    """Write an overlay to what is below it."""
    word = parse_uri(_uri(uri))
    report = _report(progress, "committing")
    if word.scheme == "qcow2":
        done, into = commit_image(word.target, report)
        return {"committed": done, "into": into}
    with _snapshot(word, uri) as (snapshot, below):
        return {"committed": commit_overlay(snapshot, below, report), "into": word.target}


def discard(uri: str, *, progress: Progress) -> Result:
    """Empty an overlay."""
    word = parse_uri(_uri(uri))
    if word.scheme in ("http", "https"):
        with _opened(str(word), write=True) as disk:
            assert isinstance(disk, Snapshot)
            return {"discarded": discard_overlay(disk)}
    with _snapshot(word, uri, read_only=True) as (snapshot, _):
        return {"discarded": discard_overlay(snapshot)}


def resize(uri: str, size: str, *, progress: Progress, shrink: bool = False) -> Result:
    """Make an image longer, or with `shrink` a raw one shorter."""
    word, bytes_ = parse_uri(_uri(uri)), _size(size)
    if word.scheme == "qcow2":
        with _opened(str(word), write=True) as disk:
            assert isinstance(disk, Qcow2)
            qcow2_tools.resize(disk, bytes_)
        return {"path": word.target.removeprefix("file:"), "format": "qcow2", "size": bytes_}
    if word.scheme != "file":
        raise ConfigError(f"{uri} has no size of its own", hint="Resize the image that it stands on.")
    fd = open_locked(word.target, False)
    try:
        if bytes_ < os.fstat(fd).st_size and not shrink:
            raise ConfigError(
                f"{uri} has {os.fstat(fd).st_size} bytes; that would cut off its end",
                hint="--shrink does it all the same.",
            )
        os.ftruncate(fd, bytes_)
    finally:
        os.close(fd)
    return {"path": word.target, "format": "raw", "size": bytes_}


# -- parts -------------------------------------------------------------------------------------------------------------


def _uri(text: str) -> str:
    """A URI with absolute paths; a bare path is looked at."""
    if parse_uri(text) == Uri("file", {}, text) and is_qcow2(text):
        text = f"qcow2:file:{text}"
    return absolute(text, os.path.abspath)


def _new_image(text: str) -> tuple[str, str]:
    """(file or qcow2, path) of an image that is to be made."""
    uri = parse_uri(absolute(text, os.path.abspath))
    inner = parse_uri(uri.target) if uri.scheme == "qcow2" else uri
    if uri.scheme not in ("file", "qcow2") or inner.scheme != "file" or uri.given:
        raise ConfigError(f"{text}: only raw and qcow2 images can be made", hint="For example: qcow2:disk.qcow2")
    refuse_misleading(text)
    if os.path.exists(inner.target):
        raise ConfigError(f"{inner.target} exists already", hint="Remove it first, or choose another name.")
    if not os.path.isdir(folder := os.path.dirname(inner.target)):
        raise ConfigError(f"{inner.target}: there is no directory {folder}", hint=f"Make it:  mkdir -p {folder}")
    return uri.scheme, inner.target


def refuse_misleading(text: str) -> None:
    """A bare path is a raw image. Raises ConfigError for one whose name says that it is another."""
    extension = os.path.splitext(text)[1].lower()
    if ":" in text or extension not in OTHER_FORMATS:
        return
    other = f"For qcow2: qcow2:{text}." if extension == ".qcow2" else "Here raw and qcow2 images are made."
    raise ConfigError(f"{text} would be a raw image", hint=f"{other} If it shall be raw all the same: file:{text}")


def _create_raw(path: str, size: int) -> Result:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return {"path": path, "format": "raw", "size": size}


@contextlib.contextmanager
def _opened(uri: str, write: bool = False) -> Iterator[BlockBackend]:
    disk = open_backend(uri, read_only=not write)
    try:
        yield disk
    finally:
        disk.close()


@contextlib.contextmanager
def _snapshot(word: Uri, text: str, read_only: bool = False) -> Iterator[tuple[Snapshot, BlockBackend]]:
    """A snapshot and what is below it, both open for writing."""
    cls, values = word.kind.load(), word.values()
    if not issubclass(cls, Snapshot):
        raise ConfigError(f"{text} is neither a snapshot nor a qcow2 image")
    if not values["overlay"] or not os.path.exists(values["overlay"]):
        raise ConfigError(f"{text} has no overlay yet", hint="Name it: snapshot:overlay=FILE:URI")
    below = open_backend(word.target, read_only=read_only)
    snapshot = cls.over(below, values, False)
    try:
        yield snapshot, below
    finally:
        snapshot.close()


def _describe(disk: Any, uri: Uri) -> Result:
    known: Result = {"scheme": uri.scheme, "size": disk.size}
    target = uri.target.removeprefix("file:")
    if uri.kind.target == "path" or (uri.scheme == "qcow2" and os.path.exists(target)):
        known |= {"path": target, "allocated": os.stat(target).st_blocks * SECTOR}
    if uri.scheme == "file":
        known["format"] = "raw"
    if isinstance(disk, Qcow2):
        known |= qcow2_tools.describe(disk)
        if isinstance(disk.below, Qcow2):
            known["below"] = {"size": disk.below.size, **qcow2_tools.describe(disk.below)}
        elif disk.below is not None:
            known["below"] = {"size": disk.below.size, "format": "raw"}
    elif isinstance(disk, Snapshot):
        known["overlay"] = uri.given.get("overlay")
        known["written"] = sum(size for written, _, size in disk.runs(0, disk.size) if written)
    below = getattr(disk, "below", None)
    if uri.kind.target == "uri" and below is not None and not isinstance(disk, Qcow2):
        known["below"] = _describe(below, parse_uri(uri.target))
    return known


def _layout(cluster: str, format_version: str) -> dict[str, Any]:
    """What a new qcow2 image is to be like."""
    return {"cluster": _size(cluster), "version": _number(format_version, "--format-version")}


def _pieces(disk: BlockBackend, progress: Progress, what: str) -> Iterator[tuple[int, bytearray]]:
    """Whatever may not be zero, in pieces."""
    report = _report(progress, what)
    for start, size in data_ranges(disk, 0, disk.size):
        for at in range(start, start + size, PIECE):
            piece = bytearray(min(PIECE, start + size - at))
            disk.preadv([memoryview(piece)], at)
            yield at, piece
            report(at + len(piece), disk.size)
    report(disk.size, disk.size)


def _report(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done / total if total else 1.0)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise ConfigError(f"{text!r} is not a size" if text else "how large?", hint="For example: 64M, 1G, or 1048576.")
    size = int(found[1]) << UNITS[found[2]]
    if not size or size % SECTOR or size >= 1 << 62:
        raise ConfigError(
            f"{text} is not a whole number of 512-byte sectors", hint=f"Try {-(-size // SECTOR or 1) * SECTOR}."
        )
    return size


def _number(text: str, option: str) -> int:
    if not text.strip().isdigit():
        raise ConfigError(f"{option} {text}: a number is expected")
    return int(text)
