"""Why the Debian guest cannot be had on this host, and what to do about it."""

from __future__ import annotations

from proto.errors import ConfigError

__all__ = ["ImagesError", "SignatureError"]


class ImagesError(ConfigError):
    """A tool, the mirror or a package is missing or wrong; `hint` says what to do. The bundled guest needs none."""


class SignatureError(ImagesError):
    """The mirror's index is not signed with a key this host's archive keyring has."""
