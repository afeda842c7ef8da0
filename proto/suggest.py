"""Which name did you mean, and which are there? For options, verbs, keys, devices and machines alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["closest", "did_you_mean", "one_of"]

CUTOFF = 0.55  # of difflib's ratio: --dsik finds --disk, --foo finds nothing


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is like it."""
    import difflib  # slow to import, and only needed when something is wrong

    known = list(known)
    matches = difflib.get_close_matches(name, known, 1, CUTOFF)
    if matches:
        return matches[0]
    longer = [candidate for candidate in known if len(name) >= 3 and candidate.startswith(name)]
    return longer[0] if longer else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """ "; did you mean --disk?", or nothing."""
    match = closest(name, known)
    return f"; did you mean {prefix}{match}?" if match else ""


def one_of(names: Sequence[str], word: str = "or") -> str:
    """Names as in a sentence: "on, off or require"."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
