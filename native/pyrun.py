"""The Python run of a function."""

from collections.abc import Callable
from typing import Any

from native.function import AnyFunction

__all__ = ["checked"]


def checked(function: AnyFunction) -> Callable[..., Any]:
    """For now, the function itself."""
    return function.python
