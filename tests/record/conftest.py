"""Taps for tests, which let them go."""

from __future__ import annotations

import pytest
from tapping import Tapped


@pytest.fixture
def tapped():
    made = []

    def begin(*arguments, **options) -> Tapped:
        made.append(Tapped(*arguments, **options))
        return made[-1]

    yield begin
    for tap in made:
        tap.close()
