"""The engine: everything a machine runs natively, as one unit of machine code.

`load_engine()` gives a namespace: `engine.run_hart(hart)` is a native call that releases the GIL. The unit is the
interpreter's handlers (IR made from the table of instructions) and the functions of core/cpu, core/board, core/virtio
and core/events that Python calls, with all that they call. Its object is kept on disk; a warm start only maps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import core.cpu
import core.isa
from core.board.bells import answer_bells
from core.board.hsm import enter_supervisor, supervise
from core.board.power import board_stop
from core.board.uart import uart_break, uart_give, uart_take
from core.board.window import window_answer, window_progress, window_state
from core.cpu import calls, debug
from core.cpu.handlers import H_CROSS, H_DECODE
from core.cpu.hart import reset_hart, run_hart
from core.cpu.interpreter import interpreter_ir
from core.cpu.signal import clear_mip, control_hart, notify_hart, release_hart, set_mip
from core.events import may_sleep, post_event, take_event
from core.virtio.mmio import set_config, transport_answer, transport_needs_reset, transport_poll
from native import Unit
from proto.pages import kick_again, open_session
from proto.trace import trace

EXPORTS: tuple[calls.AnyFunction, ...] = (
    run_hart,
    reset_hart,
    control_hart,
    release_hart,
    notify_hart,
    set_mip,
    clear_mip,
    take_event,
    post_event,
    may_sleep,
    open_session,
    kick_again,
    supervise,
    enter_supervisor,
    answer_bells,
    board_stop,
    uart_break,
    uart_give,
    uart_take,
    set_config,
    transport_answer,
    transport_needs_reset,
    transport_poll,
    window_answer,
    window_progress,
    window_state,
    trace,
    *debug.EXPORTS,
)


_loaded: dict[bool, Any] = {}


def engine_unit(compiling: Callable[[], None] | None = None, debug: bool = False) -> Unit:
    """The unit. `compiling` is called when it has to be compiled. With `debug`, what would raise in the Python run
    makes the call from Python raise."""

    def handlers() -> str:
        if compiling is not None:
            compiling()
        return interpreter_ir()

    return Unit(
        "engine",
        exports=EXPORTS,
        functions=calls.all_calls(),
        ir=handlers,
        sources=list(_sources()),
        symbols=[H_DECODE, H_CROSS],
        debug=debug,
    )


def _sources() -> Iterator[str]:
    """The text that the handlers are made from."""
    for package in (core.isa, core.cpu):
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            yield path.read_text("utf-8")


def load_engine(compiling: Callable[[], None] | None = None, debug: bool = False) -> Any:
    """The engine, from the cache on disk if it is there; a process loads it once."""
    if debug not in _loaded:
        _loaded[debug] = engine_unit(compiling, debug).load()
    return _loaded[debug]
