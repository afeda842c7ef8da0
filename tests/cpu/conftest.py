"""Fixtures for core/cpu: a machine in the Python run and in machine code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import native_run, python_run, small_machine

from core.bare import BareMachine
from core.cpu.state import Hart


@pytest.fixture(params=["python", "native"])
def engine(request: pytest.FixtureRequest) -> Any:
    """The functions of core/cpu, run by Python and as machine code."""
    return python_run() if request.param == "python" else native_run()


@pytest.fixture
def machine(engine: Any) -> Iterator[BareMachine]:
    """One hart after reset, 1 MiB of RAM."""
    with small_machine(engine) as made:
        yield made


@pytest.fixture
def hart(machine: BareMachine) -> Hart:
    return machine.harts[0]


@pytest.fixture
def pair(engine: Any) -> Iterator[BareMachine]:
    """Two harts."""
    with small_machine(engine, harts=2) as made:
        yield made


@pytest.fixture
def machine_native() -> Iterator[tuple[BareMachine, Hart]]:
    """One hart that can run guest code."""
    with small_machine(native_run()) as made:
        yield made, made.harts[0]
