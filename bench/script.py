"""A driver that plays a script of requests, one after another, again and again: the ring benchmarks of protocols whose
requests are not all alike.

A step is a chain that was laid out beforehand. When it was answered, up to two numbers of its response are copied into
requests of other steps: a handle that was opened goes to the request that closes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from launcher.replay.driver import (
    Driver,
    Stop,
    Transport,
    ask_interrupt,
    looks,
    notify,
    publish,
    refuse_interrupts,
    rests,
    send_kick,
    take_used,
)
from native import Array, Record, Unit, fn, load64, plain, store64, u32, u64
from proto.pages import CoreToDevice, core_wakes
from proto.ring import Avail

__all__ = ["MAX_STEPS", "Script", "load_script"]

MAX_STEPS = 16


class Step(Record):
    """One request: the head of its chain, where its response tells of an error (0: nowhere), and what is copied."""

    head: u32
    padding: u32
    error: u64
    source: Array[u64] = plain(count=2)  # addresses of 8 bytes each; 0: nothing
    target: Array[u64] = plain(count=2)


class Script(Record):
    """The script's memory, private to the driver."""

    count: u32
    at: u32  # the step that is next, or in flight
    flying: u32
    failed: u32
    left: u64  # times that the whole script is still to be played
    steps: Array[Step] = plain(count=MAX_STEPS, offset=32)


@fn
def _answered(script: Script) -> None:
    """The step in flight is done: copy what others need, and go to the next."""
    step = script.steps[script.at]
    script.flying = 0
    if step.error != 0 and (load64(step.error) & 0xFFFFFFFF) != 0:
        script.failed = script.failed + 1
    for number in range(u32(2)):
        if step.source[number] != 0:
            store64(step.target[number], load64(step.source[number]))
    script.at = script.at + 1
    if script.at == script.count:
        script.at = 0
        script.left = script.left - 1


@fn
def play(driver: Driver, script: Script) -> u32:
    """Play until nothing is left, or until there is a reason to stop (as `launcher.replay.driver.run`)."""
    if driver.transport == Transport.LINK:
        core_wakes(CoreToDevice(driver.mine))
    while True:
        if script.flying == 0:
            if script.left == 0:
                return Stop.DONE
            script.flying = 1
            publish(driver, script.steps[script.at].head)
        if Avail(driver.avail).idx != driver.avail_idx and notify(driver) and send_kick(driver):
            return Stop.KICK
        if take_used(driver) != 0xFFFFFFFFFFFFFFFF:
            _answered(script)
            continue
        if looks(driver):
            continue
        if not ask_interrupt(driver):
            refuse_interrupts(driver)
            continue
        if not rests(driver):
            return Stop.SLEEP
        refuse_interrupts(driver)


@cache
def load_script() -> Any:
    """The function `play`, compiled."""
    return Unit("script-driver", exports=[play]).load()
