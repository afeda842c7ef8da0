"""The fuzz targets live: each takes its seeds, and a moment's mutations of them, without a finding; what was found once
is not found again (`findings/`: inputs of long runs, named after their target)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.harness import mutate
from tests.fuzz.targets import TARGETS

SECONDS = 0.5
FINDINGS = sorted((Path(__file__).parent / "findings").iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_what_none_may_do(name: str) -> None:
    assert mutate(TARGETS[name], SECONDS) > len(TARGETS[name].seeds())


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_is_mended(path: Path) -> None:
    target = TARGETS[path.name.partition("-")[0]]
    target.seeds()
    target.try_one(path.read_bytes())
