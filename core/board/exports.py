"""What Python calls of the board's native functions: for `native.Unit(exports=...)`."""

from core.board.hsm import begin_supervised
from core.board.poll import board_poll
from core.board.power import board_stop
from core.board.uart import uart_give, uart_take
from core.board.window import window_answer, window_progress, window_state
from core.virtio.mmio import (
    raise_irq,
    set_config,
    transport_answer,
    transport_needs_reset,
    transport_poll,
)

EXPORTS = [
    begin_supervised,
    board_poll,
    board_stop,
    raise_irq,
    set_config,
    transport_answer,
    transport_needs_reset,
    transport_poll,
    uart_give,
    uart_take,
    window_answer,
    window_progress,
    window_state,
]
