"""What one virtio-mmio slot remembers: registers, queues, the cached configuration space, and what it waits for.

The guest-visible state lives here, in core memory, so that it survives the device process. Harts write it through
core/virtio/mmio.py; the link thread fills in what the device said in HELLO and answers what harts wait for.
"""

from __future__ import annotations

from enum import IntEnum

from native import Array, Record, acquire, plain, relaxed, u8, u32, u64
from proto.pages import MAX_QUEUES

CONFIG_BYTES = 0x100  # cached configuration space: registers 0x100 to 0x1ff, as in QEMU
MAX_SLOTS = 8


class DeviceState(IntEnum):
    """What stands behind a slot or a window. Registers answer in every state; only EMPTY looks different to a guest."""

    EMPTY = 0  # nothing was configured here: DeviceID reads 0
    STARTING = 1  # configured, no HELLO yet
    LIVE = 2  # a session is open
    GONE = 3  # the process died or hangs; a successor may come


class VirtioQueue(Record):
    """4.2.2: the registers of one virtqueue."""

    num_max: u32
    num: u32
    ready: u32 = acquire()
    desc: u64 = plain(offset=0x10)
    driver: u64 = plain()  # available ring
    device: u64 = plain()  # used ring


class Transport(Record):
    """One slot. `lock` orders harts among each other; a hart may hold it while it waits for the link
    thread, which therefore never takes it."""

    # who is behind it: written by the link thread
    state: u32 = acquire()  # DeviceState
    device_id: u32 = relaxed()
    device_features: u64 = relaxed()
    core_page: u64 = relaxed()  # address of this device's CoreToDevice page, 0 when there is none
    device_page: u64 = relaxed()  # address of its DeviceToCore page
    irq: u32 = plain()
    index: u32 = plain()
    bell: u32 = relaxed()  # rings at the device, or NO_BELL
    # registers
    lock: u32 = relaxed(offset=0x40)
    status: u32 = acquire()
    interrupt_status: u32 = relaxed()
    queue_sel: u32
    device_features_sel: u32
    driver_features_sel: u32
    driver_features: u64
    nqueues: u32 = relaxed()
    # requests that hold a hart: `requested` counts them, `replied` follows (futex word)
    requested: u32 = acquire(offset=0x80)
    replied: u32 = acquire()
    missed: u32 = relaxed()  # deadlines that passed without an answer
    reset_owed: u32 = relaxed()  # 1: the driver has reset the device, which has not answered yet
    broken: u32 = relaxed()  # Status.DEVICE_NEEDS_RESET, or 0
    # the configuration space: `config_sequence` is odd while it changes
    config_sequence: u32 = acquire(offset=0xC0)
    config_generation: u32 = relaxed()
    config_size: u32 = relaxed()
    config: Array[u8] = relaxed(count=CONFIG_BYTES, offset=0x100)
    queues: Array[VirtioQueue] = plain(count=MAX_QUEUES, offset=0x200)
