"""The fuzz targets live: each takes its seeds, and a moment's mutations of them, without a finding; what was found once
is not found again (`findings/`: inputs of long runs, named after their target)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.harness import GIVEN, mutate, workshop_for_child
from tests.fuzz.targets import TARGETS

SECONDS = 0.5
ROOT = Path(__file__).resolve().parent.parent.parent
FINDINGS = sorted((Path(__file__).parent / "findings").iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_what_none_may_do(name: str) -> None:
    assert mutate(TARGETS[name], SECONDS) > len(TARGETS[name].seeds())


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_is_mended(path: Path) -> None:
    target = TARGETS[path.name.partition("-")[0]]
    target.seeds()
    target.try_one(path.read_bytes())


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_process_that_leaves_without_a_word_leaves_nothing(how: str) -> None:
    code = f"import os; from tests.fuzz.harness import workshop; (workshop() / 'file').touch(); {how}"
    with workshop_for_child() as environment:
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, timeout=60)
        made = Path(environment[GIVEN])
        assert (made / "file").exists()
    assert not made.exists()


def test_what_a_killed_process_has_left_goes_with_the_next_one() -> None:
    code = "import os; from tests.fuzz.harness import workshop; print(workshop(), flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert Path(done.stdout.strip()).is_dir()
    with workshop_for_child():
        assert not Path(done.stdout.strip()).exists()
