"""Samples, ratios, goals, and the tables they become."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import page
from bench.measure import Comparison, Figure, Goal, Sample, alternate, compare, geometric_mean, number

REPOSITORY = Path(__file__).resolve().parents[2]


def test_sides_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> float:
        calls.append(name)
        return value

    values = alternate(lambda: side("a", 1.0), lambda: side("b", 2.0), rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert values == [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]


def test_the_ratio_is_taken_turn_by_turn() -> None:
    comparison = compare([10, 40, 30], [10, 20, 10])
    assert comparison == Comparison(Sample(30, 10, 40, 3), Sample(10, 10, 20, 3), Sample(2, 1, 3, 3))


def test_a_sample_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Sample.of([])


def test_a_geometric_mean_balances_ratios() -> None:
    assert geometric_mean([10, 0.1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(Goal(">=", 0.3), 0.3, True), (Goal(">=", 0.3), 0.29, False), (Goal("<=", 5), 5, True), (Goal("<=", 5), 6, False)],
)
def test_a_goal_is_met_on_its_edge(goal: Goal, value: float, met: bool) -> None:
    assert goal.met(value) is met


def test_the_goal_is_about_the_ratio_if_there_is_one() -> None:
    comparison = compare([10], [5])
    assert Figure.compared("x", "s", comparison, Goal("<=", 5)).met is True
    assert Figure("x", "s", comparison.ours, comparison.theirs, goal=Goal("<=", 5)).met is False
    assert Figure("x", "s", comparison.ours).met is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123, "0.00123"),
        (0.5, "0.5"),
        (1.5, "1.50"),
        (42.25, "42.2"),
        (1234.5, "1,234"),
        (281765, "281,765"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_table_leaves_out_columns_that_nobody_uses() -> None:
    text = page.table("QEMU", [Figure("boot", "s", Sample(8, 7, 9, 3), goal=Goal("<=", 5))])
    assert text.splitlines() == [
        "|  | Bulkhead | spread | goal |",
        "| --- | --- | --- | --- |",
        "| boot | 8.00 s | 7.00 to 9.00 | ≤ 5 s **missed** |",
    ]


def test_a_section_is_replaced_and_the_rest_stays() -> None:
    text = "before\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\nafter\n"
    assert page.replace(text, "a", r"new \1") == text.replace("old", r"new \1")


def test_a_page_without_the_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="<!-- a -->"):
        page.replace("", "a", "new")


def test_the_page_has_a_place_for_each_benchmark() -> None:
    from bench.__main__ import BENCHMARKS

    text = page.PAGE.read_text()
    for name in BENCHMARKS:
        page.replace(text, name, "")


@pytest.mark.slow
def test_a_quick_run_prints_figures_and_leaves_the_page_alone() -> None:
    before = page.PAGE.read_bytes()
    command = [sys.executable, "-m", "bench", "--quick", "--only", "mips"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout or "skipped" in done.stderr
    assert page.PAGE.read_bytes() == before
