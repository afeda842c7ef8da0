"""vhost-user's in-flight table for split virtqueues, byte for byte.

One region a queue, one after the other in one shared segment that outlives the device process: a header of 16 bytes
and an entry of 16 bytes a descriptor, padded to 64 bytes (vhost-user specification, "Inflight I/O tracking"). The
table answers the question a successor has: which requests had been taken from the ring and not yet given back?
"""

from __future__ import annotations

from native import Array, Record, acquire, plain, relaxed, u8, u16, u64

__all__ = ["INFLIGHT_VERSION", "InflightEntry", "InflightHeader", "queue_region_size", "region_size"]

INFLIGHT_VERSION = 1
_ALIGNMENT = 64  # vhost-user: QUEUE_ALIGNMENT


class InflightEntry(Record):
    """`DescStateSplit`: one descriptor head."""

    inflight: u8 = acquire()  # 1 while the device has the request
    padding: Array[u8] = relaxed(count=5)
    next: u16 = relaxed()  # the head linked before this one in the last batch
    counter: u64 = relaxed()  # orders the heads as they were popped


class InflightHeader(Record):
    """`QueueRegionSplit`: one queue."""

    features: u64 = relaxed()
    version: u16 = relaxed()
    desc_num: u16 = relaxed()
    last_batch_head: u16 = relaxed()
    used_idx: u16 = acquire()
    desc: Array[InflightEntry] = plain(count=0)


def queue_region_size(queue_size: int) -> int:
    """Bytes of one queue's region."""
    size = InflightHeader.size() + InflightEntry.size() * queue_size
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def region_size(queues: int, queue_size: int) -> int:
    """Bytes of the whole table: `queues` regions for rings of at most `queue_size` entries."""
    return queues * queue_region_size(queue_size)
