"""A mailbox: a device that is not virtio, as an example of registers, an interrupt, properties and state.

    offset  register  read                                  write
    0x00    DATA      the oldest word, and removes it       appends a word
    0x04    COUNT     how many words wait                   -
    0x08    CONTROL   bit 0: interrupt while words wait     the same
    0x0c    SPACE     how many more words fit               -

All registers are 32 bits wide. Reading DATA of an empty mailbox gives 0; words written to a full one are lost.
Reading DATA is not idempotent, and so the link carries out every access at most once.
"""

from __future__ import annotations

from devproc.device import MmioDevice, State
from devproc.properties import Property

DATA, COUNT, CONTROL, SPACE = 0x00, 0x04, 0x08, 0x0C


class Mailbox(MmioDevice):
    """A FIFO of 32-bit words behind registers."""

    mmio_size = 0x1000
    compatible = "bulkhead,mailbox"
    depth = Property(int, 16, "words that the FIFO holds", minimum=1, maximum=4096)
    words = State([])
    control = State(0)

    def mmio_read(self, offset: int, size: int) -> int:
        if offset == DATA and self.words:
            word: int = self.words.pop(0)
            self._update()
            return word
        registers = {COUNT: len(self.words), CONTROL: self.control, SPACE: self.depth - len(self.words)}
        return int(registers.get(offset, 0))

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA and len(self.words) < self.depth:
            self.words.append(value & 0xFFFFFFFF)
        elif offset == CONTROL:
            self.control = value & 1
        self._update()

    def reset(self) -> None:
        self.words = []
        self.control = 0
        self._update()

    def _update(self) -> None:
        self.set_interrupt(bool(self.words) and bool(self.control & 1))
