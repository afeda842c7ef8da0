"""virtio-mmio, version 2: the registers of virtio 1.2 section 4.2.2, for the slots of the board.

Everything a driver sees is answered here, natively, from the slot's `Transport` record; the device's process is told
afterwards by events. Three writes hold the hart until the device is quiet or fenced, because drivers do not read back:
STATUS = 0, QueueReady = 0, and writes to the configuration space. The link thread ends the wait (`transport_answer`);
if it does not within `HOLD_DEADLINE_NS` the guest goes on, and STATUS keeps its value until the answer has come.

QueueNotify rings the device's doorbell (or posts an event) only when the device sleeps: `proto.doorbell.kick_device`.
A running hart takes the device's calls when its budget ends (`board_poll`, core/board/poll.py); `raise_irq` may be
called from any thread.

Access rules: registers are 32 bits and read or written whole; the configuration space takes 1, 2, 4 or 8 bytes.
Registers of QueueSel >= number of queues read 0 and ignore writes.
"""

from core.board.lock import lock, unlock, wait_while
from core.board.plic import plic_follow
from core.board.state import Board
from core.board.trace import trace_interrupt
from core.board.window import post_ordered
from core.events import EventKind, EventQueue, post_event
from core.virtio.transport import CONFIG_BYTES, DeviceState, Transport, VirtioQueue
from native import (
    addressof,
    atomic_add32,
    atomic_and32,
    atomic_or32,
    fence,
    fn,
    load8,
    monotonic_ns,
    pause,
    store8,
    u32,
    u64,
    wrap32,
)
from native.futex import SECOND_NS, futex_wake
from proto.doorbell import Signal, kick_device
from proto.pages import CoreToDevice, DeviceToCore, call_pending, kick_again, take_calls
from proto.virtio import MMIO_MAGIC, MMIO_VERSION, Feature, Interrupt, MmioRegister, Status

VENDOR_ID = 0x554D4551  # "QEMU": some drivers look for it, none minds
SIZE = 0x1000
HOLD_DEADLINE_NS = 30 * SECOND_NS  # the keeper fences a device long before
NO_SHARED_MEMORY = 0xFFFFFFFF  # 4.2.2: SHMLen of a region that does not exist
VERSION_1 = 1 << Feature.VERSION_1


@fn
def raise_irq(board: Board, slot: u32, bits: u32) -> None:
    """Set bits of InterruptStatus and raise the slot's line. Any thread."""
    transport = board.transports[slot]
    atomic_or32(addressof(transport.interrupt_status), bits)
    plic_follow(board, transport.irq, addressof(transport.interrupt_status))


@fn
def selected(transport: Transport) -> bool:
    """Does QueueSel name a queue that exists?"""
    return transport.queue_sel < transport.nqueues


@fn
def mmio_read(board: Board, slot: u32, offset: u64, size: u32) -> u64:
    """Read `size` bytes of slot `slot`; other than 4 bytes of a register reads 0."""
    transport = board.transports[slot]
    if transport.reset_owed != 0:
        finish_reset(board, transport)
    if offset >= MmioRegister.Config:
        return config_read(transport, offset - MmioRegister.Config, size)
    if size != 4:
        return 0
    return u64(register_read(transport, wrap32(offset)))


@fn
def register_read(transport: Transport, offset: u32) -> u32:
    """One register. What can only be written, or does not exist, reads 0."""
    if offset == MmioRegister.InterruptStatus:
        return transport.interrupt_status
    if offset == MmioRegister.Status:
        return transport.status | transport.broken
    if offset == MmioRegister.MagicValue:
        return MMIO_MAGIC
    if offset == MmioRegister.Version:
        return MMIO_VERSION
    if offset == MmioRegister.DeviceID:
        return transport.device_id
    if offset == MmioRegister.VendorID:
        return VENDOR_ID
    if offset == MmioRegister.DeviceFeatures:
        return half(transport.device_features, transport.device_features_sel)
    if offset == MmioRegister.ConfigGeneration:
        return transport.config_generation
    if MmioRegister.SHMLenLow <= offset <= MmioRegister.SHMBaseHigh:
        return NO_SHARED_MEMORY
    if not selected(transport):
        return 0
    if offset == MmioRegister.QueueNumMax:
        return transport.queues[transport.queue_sel].num_max
    if offset == MmioRegister.QueueReady:
        return transport.queues[transport.queue_sel].ready
    return 0


@fn(inline=True)
def half(value: u64, selector: u32) -> u32:
    """The 32 bits of a 64-bit field that a selector register names; 0 beyond."""
    if selector == 0:
        return wrap32(value)
    if selector == 1:
        return wrap32(value >> 32)
    return 0


@fn
def config_read(transport: Transport, offset: u64, size: u32) -> u64:
    """Bytes of the cached configuration space, all of one generation; past its end, 0."""
    while True:
        before: u32 = transport.config_sequence
        value: u64 = 0
        for index in range(size):
            at: u64 = offset + u64(index)
            if at < u64(transport.config_size):
                value = value | (u64(transport.config[at]) << (8 * index))
        fence()
        if (before & 1) == 0 and transport.config_sequence == before:
            return value
        pause()


@fn
def mmio_write(board: Board, slot: u32, offset: u64, size: u32, value: u64) -> None:
    """Write `size` bytes of slot `slot`; other than 4 bytes of a register is ignored."""
    transport = board.transports[slot]
    if transport.reset_owed != 0:
        finish_reset(board, transport)
    if offset >= MmioRegister.Config:
        config_write(board, transport, offset - MmioRegister.Config, size, value)
        return
    if size != 4 or transport.state == DeviceState.EMPTY:
        return
    register: u32 = wrap32(offset)
    word: u32 = wrap32(value)
    if register == MmioRegister.QueueNotify:
        notify(board, transport, word)
    elif register == MmioRegister.InterruptACK:
        atomic_and32(addressof(transport.interrupt_status), ~word)
        plic_follow(board, transport.irq, addressof(transport.interrupt_status))
    else:
        lock(addressof(transport.lock))
        register_write(board, transport, register, word)
        unlock(addressof(transport.lock))


@fn
def notify(board: Board, transport: Transport, queue: u32) -> None:
    """4.2.2 QueueNotify: the driver has made buffers available in `queue`."""
    if queue >= transport.nqueues or transport.core_page == 0:
        return
    mine = CoreToDevice(transport.core_page)
    theirs = DeviceToCore(transport.device_page)
    if kick_device(mine, theirs, queue, transport.bell) == Signal.MESSAGE and not post_event(
        EventQueue(board.events), EventKind.NOTIFY, transport.index, u64(queue), 0
    ):
        kick_again(mine, theirs)


@fn
def register_write(board: Board, transport: Transport, register: u32, value: u32) -> None:
    """A configuration register. The caller holds the lock. What can only be read ignores writes."""
    if register == MmioRegister.Status:
        write_status(board, transport, value)
    elif register == MmioRegister.DeviceFeaturesSel:
        transport.device_features_sel = value
    elif register == MmioRegister.DriverFeaturesSel:
        transport.driver_features_sel = value
    elif register == MmioRegister.DriverFeatures:
        write_features(transport, value)
    elif register == MmioRegister.QueueSel:
        transport.queue_sel = value
    elif selected(transport):
        queue = transport.queues[transport.queue_sel]
        if register == MmioRegister.QueueReady:
            write_ready(board, transport, queue, value)
        elif queue.ready == 0:
            write_queue(queue, register, value)


@fn
def write_features(transport: Transport, value: u32) -> None:
    """DriverFeatures; after FEATURES_OK they are settled (3.1.1)."""
    if (transport.status & Status.FEATURES_OK) != 0:
        return
    accepted: u64 = transport.driver_features
    if transport.driver_features_sel == 0:
        transport.driver_features = (accepted & 0xFFFFFFFF00000000) | u64(value)
    elif transport.driver_features_sel == 1:
        transport.driver_features = (accepted & 0xFFFFFFFF) | (u64(value) << 32)


@fn
def write_queue(queue: VirtioQueue, register: u32, value: u32) -> None:
    """Size and addresses of a queue that is not ready."""
    if register == MmioRegister.QueueNum:
        if value <= queue.num_max:
            queue.num = value
    elif register == MmioRegister.QueueDescLow:
        queue.desc = with_low(queue.desc, value)
    elif register == MmioRegister.QueueDescHigh:
        queue.desc = with_high(queue.desc, value)
    elif register == MmioRegister.QueueDriverLow:
        queue.driver = with_low(queue.driver, value)
    elif register == MmioRegister.QueueDriverHigh:
        queue.driver = with_high(queue.driver, value)
    elif register == MmioRegister.QueueDeviceLow:
        queue.device = with_low(queue.device, value)
    elif register == MmioRegister.QueueDeviceHigh:
        queue.device = with_high(queue.device, value)


@fn(inline=True)
def with_low(old: u64, value: u32) -> u64:
    """Replace bits 31:0."""
    return (old & 0xFFFFFFFF00000000) | u64(value)


@fn(inline=True)
def with_high(old: u64, value: u32) -> u64:
    """Replace bits 63:32."""
    return (old & 0xFFFFFFFF) | (u64(value) << 32)


@fn
def write_ready(board: Board, transport: Transport, queue: VirtioQueue, value: u32) -> None:
    """QueueReady: 1 starts the queue, 0 stops it and holds the hart until the device has let go of it."""
    ready: u32 = value & 1
    if ready == queue.ready:
        return
    if ready == 1:
        if queue.num == 0:
            return
        queue.ready = 1
        post_ordered(board, EventKind.QUEUE, transport.index, u64(transport.queue_sel), 1)
    else:
        hold(board, transport, EventKind.QUEUE, u64(transport.queue_sel), 0)
        queue.ready = 0


@fn
def write_status(board: Board, transport: Transport, value: u32) -> None:
    """STATUS (2.1): 0 resets; FEATURES_OK stays only if the features fit; DEVICE_NEEDS_RESET is the device's."""
    if value == 0:
        if (transport.status | transport.broken) == 0 or hold(board, transport, EventKind.STATUS, 0, 0):
            reset_registers(board, transport)
        else:
            transport.reset_owed = 1
        return
    status: u32 = value & (0xFF & ~Status.DEVICE_NEEDS_RESET)
    if (status & Status.FEATURES_OK) != 0 and not features_fit(transport):
        status = status & ~u32(Status.FEATURES_OK)
    transport.status = status
    post_ordered(board, EventKind.STATUS, transport.index, u64(status), 0)


@fn
def features_fit(transport: Transport) -> bool:
    """The driver accepts only what was offered, and speaks virtio 1."""
    accepted: u64 = transport.driver_features
    return (accepted & ~transport.device_features) == 0 and (accepted & VERSION_1) != 0


@fn
def reset_registers(board: Board, transport: Transport) -> None:
    """2.4: as after power on. The device is quiet."""
    transport.status = 0
    transport.broken = 0
    transport.reset_owed = 0
    transport.driver_features = 0
    transport.device_features_sel = 0
    transport.driver_features_sel = 0
    transport.queue_sel = 0
    for index in range(transport.nqueues):
        queue = transport.queues[index]
        queue.ready = 0
        queue.num = 0
        queue.desc = 0
        queue.driver = 0
        queue.device = 0
    transport_poll(board, transport)  # a call from before the reset must not interrupt after it
    atomic_and32(addressof(transport.interrupt_status), 0)
    plic_follow(board, transport.irq, addressof(transport.interrupt_status))


@fn
def finish_reset(board: Board, transport: Transport) -> None:
    """A reset whose answer came after its deadline takes effect at the next access."""
    if transport.replied == transport.requested:
        lock(addressof(transport.lock))
        if transport.reset_owed != 0:
            reset_registers(board, transport)
        unlock(addressof(transport.lock))


@fn
def config_write(board: Board, transport: Transport, offset: u64, size: u32, value: u64) -> None:
    """The device decides what a write to its configuration space means; the hart waits for what it is then."""
    if offset + u64(size) > u64(transport.config_size):
        return
    lock(addressof(transport.lock))
    hold(board, transport, EventKind.CONFIG_WRITE, offset | (u64(size) << 32), value)
    unlock(addressof(transport.lock))


@fn
def hold(board: Board, transport: Transport, kind: u32, a: u64, b: u64) -> bool:
    """Post a request and hold the hart until the link thread has answered it. False: it did not, in time."""
    sequence: u32 = wrap32(transport.requested + 1)
    transport.requested = sequence
    deadline: u64 = monotonic_ns() + HOLD_DEADLINE_NS
    post_ordered(board, kind, transport.index, a, b)
    while True:
        seen: u32 = transport.replied
        if seen == sequence:
            return True
        if board.stopping != 0:
            return False
        if not wait_while(addressof(transport.replied), seen, deadline):
            transport.missed = transport.missed + 1
            return False


@fn
def transport_answer(board: Board, slot: u32) -> None:
    """The link thread: the oldest request not yet answered is carried out. Answers come in order of requests."""
    transport = board.transports[slot]
    if transport.replied != transport.requested:
        atomic_add32(addressof(transport.replied), 1)
        futex_wake(addressof(transport.replied))


@fn
def transport_poll(board: Board, transport: Transport) -> None:
    """Take the device's calls, if there are any, and interrupt. Any thread."""
    if transport.core_page == 0:
        return
    mine = CoreToDevice(transport.core_page)
    theirs = DeviceToCore(transport.device_page)
    if call_pending(mine, theirs):
        taken: u32 = take_calls(mine, theirs)
        if taken != 0:
            raise_irq(board, transport.index, Interrupt.USED_RING)
            trace_interrupt(board, transport.index, mine.calls_seen, taken)


@fn
def transport_needs_reset(board: Board, slot: u32) -> None:
    """The link thread: the device cannot go on (2.1.2); the driver is told, if it is running."""
    transport = board.transports[slot]
    transport.broken = Status.DEVICE_NEEDS_RESET
    if (transport.status & Status.DRIVER_OK) != 0:
        raise_irq(board, slot, Interrupt.CONFIG)


@fn
def set_config(board: Board, slot: u32, data: u64, size: u32, generation: u32, interrupt: bool) -> None:
    """The link thread: configuration space and generation change together."""
    transport = board.transports[slot]
    count: u32 = size if size < CONFIG_BYTES else CONFIG_BYTES
    transport.config_sequence = wrap32(transport.config_sequence + 1)
    fence()
    for index in range(count):
        store8(addressof(transport.config[index]), load8(data + u64(index)))
    transport.config_size = count
    transport.config_generation = generation
    fence()
    transport.config_sequence = wrap32(transport.config_sequence + 1)
    if interrupt:
        raise_irq(board, slot, Interrupt.CONFIG)
