"""Does a process that shall replace a device fit what the guest's driver has already seen?

`Port.check` says what holds for every process of a later epoch: the device's number, its queues, the features that the
driver uses. Here is what else a change of what is behind a device may break: a disk that shrinks under its file system
is refused; one that grows is announced to the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from proto.errors import ProtocolError
from proto.virtio import BLK_SECTOR_SIZE, BlkFeature, DeviceId, NetFeature, Status

if TYPE_CHECKING:
    from core.link import Port

__all__ = ["check_candidate", "check_config", "feature_names"]

BLK_SIZE = 20  # 5.2.4: offsets in struct virtio_blk_config
_FEATURES: dict[int, Any] = {DeviceId.BLOCK: BlkFeature, DeviceId.NET: NetFeature}


def check_candidate(port: Port, hello: dict[str, Any]) -> None:
    """Raises ProtocolError, its hint saying what to do, when the guest would notice more than a pause."""
    port.check(hello)
    if port.status & Status.DRIVER_OK:
        check_config(hello["device_id"], port.config(), hello["config"])


def check_config(device_id: int, old: bytes, new: bytes) -> None:
    """May the one configuration space follow the other? Raises ProtocolError."""
    _CHECKS.get(device_id, _anything)(old, new)


def feature_names(device_id: int, bits: int) -> str:
    """Feature bits for people."""
    known: Iterable[IntEnum] = _FEATURES.get(device_id, ())
    named = {int(feature): feature.name for feature in known}
    numbers = [number for number in range(64) if bits >> number & 1]
    return ", ".join(str(named.get(number, f"bit {number}")) for number in numbers)


def _check_disk(old: bytes, new: bytes) -> None:
    before, after = (int.from_bytes(config[:8], "little") * BLK_SECTOR_SIZE for config in (old, new))
    if after < before:
        raise ProtocolError(
            f"the disk would shrink from {before} to {after} bytes",
            field="capacity",
            hint="Make the new one at least as large: bulkhead disk resize",
        )
    block, other = (int.from_bytes(config[BLK_SIZE : BLK_SIZE + 4], "little") for config in (old, new))
    if block != other:
        raise ProtocolError(f"logical blocks of {other} bytes, the guest knows {block}", field="blk_size")


def _anything(old: bytes, new: bytes) -> None:
    """Whatever it says."""


_CHECKS: dict[int, Callable[[bytes, bytes], None]] = {DeviceId.BLOCK: _check_disk}
