"""Doorbells: how machine code wakes the other side of a link without a message.

A doorbell is a pipe with a non-blocking end for each side. Who finds the other asleep (`proto.pages`) writes a byte;
who sleeps has the reading end among the descriptors of its poll, and empties it when it wakes. It carries nothing but
the wake-up: everything that is to be known is in the rings and in the control pages, so a byte too many is a look in
vain, and a byte that did not fit was not needed. A pipe, and not an eventfd, because its two ends are two open files:
neither side can make the other's calls block.

It is used where both sides have an end of it, that the keeper gave them, and the link's mode is not MESSAGES.
"""

from __future__ import annotations

import fcntl
import os
from enum import IntEnum

from native import Array, Record, fn, local, plain, sys, syscall, u8, u16, u32, u64
from native.futex import SECOND_NS, Timespec
from proto.pages import CoreToDevice, DeviceToCore, LinkMode, needs_kick, signal_core

__all__ = [
    "NO_BELL",
    "POLLIN",
    "POLLOUT",
    "PollFd",
    "Signal",
    "call_core",
    "kick_device",
    "make_doorbell",
    "poll_ns",
    "ring_bell",
    "silence_bell",
]

NO_BELL = 0xFFFFFFFF  # in place of a descriptor
POLLIN, POLLOUT = 1, 4
CAPACITY = 4096  # bytes; one would do


class Signal(IntEnum):
    """What a notification took."""

    NOTHING = 0  # the other side is awake, or was told before
    MESSAGE = 1  # nothing yet: a message must be sent
    BELL = 2  # the doorbell was rung


class PollFd(Record):
    """struct pollfd."""

    fd: u32
    events: u16
    revents: u16


class Byte(Record):
    """What is rung with."""

    value: u8


class Rung(Record):
    """Room for all that a doorbell holds."""

    data: Array[u8] = plain(count=CAPACITY)


@fn
def ring_bell(bell: u32) -> bool:
    """Wake who sleeps at the other end. False: there is no other end."""
    byte = local(Byte)
    byte.value = 1
    result = syscall(sys.WRITE, u64(bell), byte.address, 1, 0, 0, 0)
    return result == 1 or result == -sys.EAGAIN


@fn
def silence_bell(bell: u32) -> None:
    """Take what was rung; then look. What is rung from now on wakes again. Who rings without end, or has made the pipe
    larger, is still heard in the next sleep, and keeps nobody here."""
    room = local(Rung)
    syscall(sys.READ, u64(bell), room.address, CAPACITY, 0, 0, 0)


@fn
def poll_ns(entries: u64, count: u64, timeout_ns: u64) -> bool:
    """ppoll(2) on `count` PollFds at address `entries`. True when one is ready; a signal ends it early."""
    timeout = local(Timespec)
    timeout.seconds = timeout_ns // SECOND_NS
    timeout.nanoseconds = timeout_ns % SECOND_NS
    return syscall(sys.PPOLL, entries, count, timeout.address, 0, 0, 0) > 0


@fn
def call_core(mine: DeviceToCore, theirs: CoreToDevice, queue: u32, bell: u32) -> u32:
    """The device wants the guest interrupted: `proto.pages.signal_core`, by the doorbell where there is one."""
    if not signal_core(mine, theirs, queue):
        return Signal.NOTHING
    if bell != NO_BELL and (theirs.mode & LinkMode.MESSAGES) == 0 and ring_bell(bell):
        return Signal.BELL
    return Signal.MESSAGE


@fn
def kick_device(mine: CoreToDevice, theirs: DeviceToCore, queue: u32, bell: u32) -> u32:
    """The guest wrote QueueNotify: `proto.pages.needs_kick`, by the doorbell if the device's process listens to it."""
    if not needs_kick(mine, theirs, queue):
        return Signal.NOTHING
    listens: bool = theirs.listens == mine.epoch and (mine.mode & LinkMode.MESSAGES) == 0
    if bell != NO_BELL and listens and ring_bell(bell):
        return Signal.BELL
    return Signal.MESSAGE


def make_doorbell() -> tuple[int, int]:
    """A doorbell: the end that listens, and the end that rings. Raises OSError."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, CAPACITY)
    return ends
