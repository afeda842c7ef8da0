"""What a test needs of its host."""

from __future__ import annotations

import os

import pytest


def missing(what: str) -> None:
    """Skip, except in CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"not available: {what}")
    pytest.skip(f"needs {what}")
