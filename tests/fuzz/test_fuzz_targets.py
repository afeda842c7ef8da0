"""The fuzz targets live: each takes its seeds, and a moment's mutations of them, without a finding."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import mutate
from tests.fuzz.targets import TARGETS

SECONDS = 0.5


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_what_none_may_do(name: str) -> None:
    assert mutate(TARGETS[name], SECONDS) > len(TARGETS[name].seeds())
