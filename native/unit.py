"""A unit: functions, and IR text that goes with them, as one piece of machine code."""

from __future__ import annotations

from typing import Any

__all__ = ["Unit"]


class Unit:
    """Exports and everything they call, compiled, cached and loaded together."""

    def __init__(
        self,
        name: str,
        exports: Any = (),
        *,
        ir: Any = "",
        symbols: Any = (),
        debug: bool = False,
        opt: str = "O2",
        codegen: int = 2,
        sources: Any = (),
    ) -> None:
        self.name = name
        self.exports = list(exports)

    def ir(self) -> str:
        raise NotImplementedError("the compiler is not there yet")

    def load(self) -> Any:
        raise NotImplementedError("the compiler is not there yet")
