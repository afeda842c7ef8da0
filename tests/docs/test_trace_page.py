"""docs/trace.md says what the tables say."""

from pathlib import Path

from launcher.trace.reference import BLOCKS
from proto.reference import update

PAGE = Path(__file__).parents[2] / "docs" / "trace.md"


def test_the_page_of_traces_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert update(text, BLOCKS) == text, "run `make docs`"
