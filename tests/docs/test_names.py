"""The files and folders that the documentation names exist, and its tables of verbs are those of the command line."""

import re
from pathlib import Path

import pytest

from launcher.cli.reference import BLOCKS
from proto.reference import update

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("bench", "core", "devproc", "guest", "launcher", "native", "proto", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

# core/cpu/calls.py, core/isa/: from the root, or from the folder of the file that says so
FROM_ROOT = re.compile(
    rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w(?:\.(?:py|md|c|h|S|sh|toml|elf|ld)\b|/(?![\w*<{{]))"
)
MODULE = re.compile(rf"`((?:{'|'.join(FOLDERS)})(?:\.\w+)+)`")
IN_TICKS = re.compile(r"`([\w./-]+(?:\.py|/))`")


def missing(text: str, here: Path) -> list[str]:
    paths = [name for name in FROM_ROOT.findall(text) if not any((base / name).exists() for base in (ROOT, here))]
    return paths + [name for name in MODULE.findall(text) if not is_there(name.split("."))]


def is_there(names: list[str]) -> bool:
    """Is it a module, or a name in one?"""
    for length in range(len(names), 0, -1):
        path = ROOT.joinpath(*names[:length])
        source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if source.exists() or path.is_dir():
            rest = names[length:]
            return not rest or (source.exists() and re.search(rf"\b{rest[0]}\b", source.read_text()) is not None)
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert missing(page.read_text(), page.parent) == []


def test_what_sources_name_exists() -> None:
    wrong = {str(path.relative_to(ROOT)): missing(path.read_text(), path.parent) for path in SOURCES}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_tables_of_the_architecture_are_true() -> None:
    """A row's files lie in the folder of its first cell, or in the one that the section is about; no package lacks."""
    about, wrong, named = ROOT, [], set()
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        found = re.match(r"`([\w/]+/)` is ", line)
        about = ROOT / found[1] if found else ROOT if line.startswith("## ") else about
        if not line.startswith("| `"):
            continue
        first, _, rest = line[1:].partition(" |")
        folder = ROOT / first.strip(" `")
        here, cells = (folder, rest) if folder.is_dir() else (about, line)
        for name in IN_TICKS.findall(cells):
            if not any((base / name).exists() for base in (here, ROOT)):
                wrong.append(f"{here.relative_to(ROOT)}: {name}")
            named.add(here / name)
    assert wrong == []
    packages = {path for path in (ROOT / "launcher").iterdir() if (path / "__init__.py").exists()}
    assert packages <= named


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    page = ROOT / "docs" / "command-line.md"
    assert update(page.read_text(), BLOCKS) == page.read_text(), "run `make docs`"
