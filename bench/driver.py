"""The guest's side of a virtqueue (`launcher.replay.driver`), and how the benchmarks drive it."""

from launcher.replay.driver import (
    SLOT_HEADERS,
    Driver,
    Stop,
    Transport,
    ask_interrupt,
    load_driver,
    looks,
    notify,
    publish,
    refuse_interrupts,
    run,
    send_kick,
    sleep_on_eventfd,
    take_used,
)

__all__ = [
    "SLOT_HEADERS",
    "Driver",
    "Stop",
    "Transport",
    "ask_interrupt",
    "load_driver",
    "looks",
    "notify",
    "publish",
    "refuse_interrupts",
    "run",
    "send_kick",
    "sleep_on_eventfd",
    "take_used",
]
