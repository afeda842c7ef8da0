"""Imports only ever point down: launcher; core and devproc, neither of which imports the other; proto; native."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "native": set(),
    "proto": {"native"},
    "core": {"proto", "native"},
    "devproc": {"proto", "native"},
    "launcher": {"core", "devproc", "proto", "native", "guest"},
}


def imported(path):
    """The project's top-level packages that a file imports, with line numbers."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            yield name.partition(".")[0], node.lineno


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, line in imported(path)
        if name in MAY_IMPORT and name != package and name not in MAY_IMPORT[package]
    ]
    assert wrong == []
