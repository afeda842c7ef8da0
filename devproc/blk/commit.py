"""`commit:URI`: an overlay whose contents are being written to what it stands on, while the guest uses it. `bulkhead
commit` puts it in, and the disk below in its place in the end.

It is a mirror (`devproc.blk.mirror`) of the overlay onto its own base: what is in the overlay is copied, the rest is
equal already; when little is left, what the guest writes goes to both. The base is opened once, to be written, and the
overlay reads it through the same object.

Promises: at every moment the overlay on its base is the guest's disk, whole: the base changes only where the overlay
has it. So a commit that is cancelled, or whose process is killed, leaves both to be used as before, and to be committed
again. Does not: empty the overlay; what is in it is what the disk was at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devproc.blk.backend import BlockBackend, let_go, open_backend, split_options
from devproc.blk.filters import OneAtATime
from devproc.blk.mirror import Copying
from devproc.blk.qcow2 import Qcow2, backing_uri
from devproc.blk.snapshot import Snapshot
from devproc.blk.uri import parse_uri
from proto.errors import ConfigError

__all__ = ["Commit", "base_of"]

_HINT = "An overlay is snapshot: or copy-on-read: on a local disk, or a qcow2: image with a backing file."


def base_of(text: str) -> str:
    """The URI of what the overlay `text` stands on. Raises ConfigError when it is none; opens nothing but the header of
    a qcow2 image."""
    uri = parse_uri(split_options(text)[0])
    if uri.scheme == "qcow2":
        found = backing_uri(uri.target)
        if found:
            return found
        raise ConfigError(f"{text} stands on nothing it could be committed to", hint=_HINT)
    if not uri.kind.overlay or uri.kind.target != "uri":
        raise ConfigError(f"{text} is no overlay: there is nothing to commit", hint=_HINT)
    return uri.target


class Commit(Copying):
    """An overlay and its base, of which the guest sees the first."""

    def __init__(self, overlay: BlockBackend, base: BlockBackend, in_overlay: Callable[[int, int], bool]) -> None:
        self._turns = OneAtATime(overlay)
        super().__init__(self._turns, base)
        self._in_overlay = in_overlay

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Commit:
        """Of the overlay that the URI `target` names. Raises ConfigError."""
        if read_only:
            raise ConfigError(f"{target} is read-only: it has nothing to commit")
        base = OneAtATime(open_backend(base_of(target)))
        try:
            if base.read_only:
                raise ConfigError(f"{base_of(target)} cannot be written")
            overlay, in_overlay = _open_over(base, target)
        except BaseException:
            base.close()
            raise
        if base.size != overlay.size:
            overlay.close()
            raise ConfigError(
                f"{base_of(target)} has {base.size} bytes, the disk {overlay.size}",
                hint=f"Stop the machine, and:  bulkhead disk resize {base_of(target)} {overlay.size}",
            )
        return cls(overlay, base, in_overlay)

    def close(self) -> None:
        """Stop copying. The overlay closes what it stands on."""
        self._stop()
        self.source.close()

    def let_go(self) -> None:
        self._stop()
        let_go(self.source)

    def _needless(self, offset: int, size: int) -> bool:
        """What is not in the overlay is the base's already."""
        return not self._turns.alone(lambda: self._in_overlay(offset, size))


def _open_over(base: BlockBackend, target: str) -> tuple[BlockBackend, Callable[[int, int], bool]]:
    """The overlay on its open base, and what says whether any of a range is in the overlay."""
    uri = parse_uri(split_options(target)[0])
    if uri.scheme == "qcow2":
        image = Qcow2.open_over(uri.target, base)
        return image, lambda offset, size: any(piece.kind != "below" for piece in image.pieces(offset, size))
    kind = uri.kind.load()
    assert issubclass(kind, Snapshot)
    snapshot = kind.over(base, uri.values(), False)
    return snapshot, lambda offset, size: any(written for written, _, _ in snapshot.runs(offset, size))
