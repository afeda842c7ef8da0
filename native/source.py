"""Finding a function's source text and syntax tree.

The text is read when it is first needed, not when the module is imported, and only once: what a cache key is made from
is what is compiled. A file that changed since its module was imported is noticed (the function is not where the
bytecode says) and is an error.
"""

import ast
import linecache
from functools import lru_cache
from pathlib import Path

from native.errors import CompileError
from native.function import AnyFunction

__all__ = ["source_text", "syntax"]


@lru_cache(maxsize=1024)
def source_text(filename: str) -> str:
    """The text of a module, or of generated source (`native.define`)."""
    entry = linecache.cache.get(filename)
    if entry is not None and len(entry) == 4 and entry[1] is None:
        return "".join(entry[2])
    try:
        return Path(filename).read_text("utf-8")
    except OSError as error:
        raise CompileError(f"no source text ({error.strerror})", filename, 1) from None


@lru_cache(maxsize=64)
def _functions(filename: str, text: str) -> dict[tuple[str, int], ast.FunctionDef]:
    """Every function of a text, by name and by the line its bytecode gives (that of the first decorator)."""
    found = {}
    for node in ast.walk(ast.parse(text, filename)):
        if isinstance(node, ast.FunctionDef):
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name, line] = node
    return found


def syntax(function: AnyFunction) -> ast.FunctionDef:
    """The function's syntax tree."""
    code = function.code
    text = source_text(code.co_filename)
    node = _functions(code.co_filename, text).get((function.name, code.co_firstlineno))
    if node is None:
        raise function.error("the source text changed since its module was imported")
    return node
