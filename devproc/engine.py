"""The machine code of a device process: rings, control pages, the loops. Loaded from the cache, where it is after
first use.

`python -m devproc.engine` fills the cache. The keeper does so before it starts devices, so that a device process
never imports the compiler.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from devproc.blk.fast import block_loop
from devproc.fs.fuse.fast import fuse_loop, fuse_pop
from devproc.fs.fuse.listing import fuse_list
from devproc.fs.fuse.tables import fuse_count_file, fuse_count_path, fuse_index
from devproc.fs.ninep.fast import ninep_loop, ninep_pop
from devproc.loop import account, call, flush_and_call, pop_now, put_now, wait_for_work
from devproc.net.fast import net_fits, net_loop, net_queue, net_send
from devproc.relay.carry import (
    carry_answers,
    carry_blame,
    carry_forget,
    carry_loop,
    carry_next,
    carry_settle,
    carry_suspect,
    carry_take,
)
from devproc.relay.twin_code import twin_collect, twin_forget, twin_place, twin_repeat, twin_unask
from native import Unit
from proto.doorbell import call_core, silence_bell
from proto.pages import call_again, mmio_begin, mmio_end, set_irq_level
from proto.ring import (
    ring_flush,
    ring_forget,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_recover,
    ring_rewind,
    ring_should_call,
)
from proto.tap import tap_note
from proto.trace import trace

__all__ = ["EXPORTS", "load_engine"]

EXPORTS: list[Any] = [
    account,
    block_loop,
    call,
    call_again,
    call_core,
    carry_answers,
    carry_blame,
    carry_forget,
    carry_loop,
    carry_next,
    carry_settle,
    carry_suspect,
    carry_take,
    flush_and_call,
    fuse_count_file,
    fuse_count_path,
    fuse_index,
    fuse_list,
    fuse_loop,
    fuse_pop,
    mmio_begin,
    mmio_end,
    net_fits,
    net_loop,
    net_queue,
    net_send,
    ninep_loop,
    ninep_pop,
    pop_now,
    put_now,
    ring_flush,
    ring_forget,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_recover,
    ring_rewind,
    ring_should_call,
    set_irq_level,
    silence_bell,
    tap_note,
    trace,
    twin_collect,
    twin_forget,
    twin_place,
    twin_repeat,
    twin_unask,
    wait_for_work,
]


@cache
def load_engine() -> Any:
    """The namespace of native functions."""
    return Unit("device", exports=EXPORTS).load()


if __name__ == "__main__":
    load_engine()
