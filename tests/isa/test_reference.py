"""docs/isa.md is what the table says."""

from pathlib import Path

from core.isa.reference import page
from core.isa.table import table


def test_the_committed_page_is_the_generated_one():
    committed = Path(__file__).parents[2] / "docs" / "isa.md"
    assert committed.read_text(encoding="utf-8") == page(), "run: python -m core.isa.reference docs/isa.md"


def test_every_instruction_is_on_the_page():
    text = page()
    for row in (*table(32).rows(), *table(64).rows()):
        assert f"`{row.name}" in text
