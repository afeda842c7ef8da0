"""The numbers of the virtio 1.2 specification that this project uses, under the specification's own names.

Section numbers refer to "Virtual I/O Device (VIRTIO) Version 1.2". Feature *bits* are bit numbers; `bit(n)` makes the
mask.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "BlkFeature",
    "BlkStatus",
    "BlkType",
    "ConsoleEvent",
    "ConsoleFeature",
    "DeviceId",
    "Feature",
    "Interrupt",
    "MmioRegister",
    "NetControl",
    "NetFeature",
    "NetGso",
    "NetHeaderFlag",
    "NetStatus",
    "Status",
    "bit",
    "feature_names",
]


def bit(number: int) -> int:
    """The mask of a feature bit."""
    return 1 << number


class DeviceId(IntEnum):
    """5: device types."""

    NONE = 0
    NET = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4
    BALLOON = 5
    SCSI = 8
    NINEP = 9
    GPU = 16
    INPUT = 18
    VSOCK = 19
    FS = 26
    SOUND = 25
    V86FS = 63  # not the specification's: docs/shares.md


class Status(IntFlag):
    """2.1: device status field."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class Interrupt(IntFlag):
    """4.2.2: bits of InterruptStatus and InterruptACK."""

    USED_RING = 1
    CONFIG = 2


class Feature(IntEnum):
    """6: reserved feature bits."""

    NOTIFY_ON_EMPTY = 24
    ANY_LAYOUT = 27
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40


# 2.7.5: descriptor flags
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4

# 2.7.6, 2.7.8: ring flags
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

DESC_SIZE = 16  # 2.7.5: le64 addr, le32 len, le16 flags, le16 next
USED_ELEM_SIZE = 8  # 2.7.8: le32 id, le32 len
QUEUE_SIZE_MAX = 32768  # 2.7: the largest split virtqueue


class MmioRegister(IntEnum):
    """4.2.2: virtio-mmio (version 2) register offsets."""

    MagicValue = 0x000
    Version = 0x004
    DeviceID = 0x008
    VendorID = 0x00C
    DeviceFeatures = 0x010
    DeviceFeaturesSel = 0x014
    DriverFeatures = 0x020
    DriverFeaturesSel = 0x024
    QueueSel = 0x030
    QueueNumMax = 0x034
    QueueNum = 0x038
    QueueReady = 0x044
    QueueNotify = 0x050
    InterruptStatus = 0x060
    InterruptACK = 0x064
    Status = 0x070
    QueueDescLow = 0x080
    QueueDescHigh = 0x084
    QueueDriverLow = 0x090
    QueueDriverHigh = 0x094
    QueueDeviceLow = 0x0A0
    QueueDeviceHigh = 0x0A4
    SHMSel = 0x0AC
    SHMLenLow = 0x0B0
    SHMLenHigh = 0x0B4
    SHMBaseLow = 0x0B8
    SHMBaseHigh = 0x0BC
    QueueReset = 0x0C0
    ConfigGeneration = 0x0FC
    Config = 0x100


MMIO_MAGIC = 0x74726976  # "virt"
MMIO_VERSION = 2


class BlkFeature(IntEnum):
    """5.2.3: block device feature bits."""

    SIZE_MAX = 1
    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14


class BlkType(IntEnum):
    """5.2.6: request types."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class BlkStatus(IntEnum):
    """5.2.6: the status byte."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


BLK_SECTOR_SIZE = 512  # 5.2.4: capacity and sector are in 512-byte units, whatever blk_size says
BLK_ID_BYTES = 20  # 5.2.6.1: GET_ID string, padded with NUL
BLK_WRITE_ZEROES_UNMAP = 1  # 5.2.6: flags of a discard/write-zeroes segment


class NetFeature(IntEnum):
    """5.1.3: network device feature bits."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    SPEED_DUPLEX = 63


class NetStatus(IntFlag):
    """5.1.4: `status` of the configuration space."""

    LINK_UP = 1
    ANNOUNCE = 2


class NetHeaderFlag(IntFlag):
    """5.1.6: `flags` of struct virtio_net_hdr."""

    NEEDS_CSUM = 1
    DATA_VALID = 2


class NetGso(IntEnum):
    """5.1.6: `gso_type` of struct virtio_net_hdr; ECN is a bit beside the type."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    ECN = 0x80


class NetControl(IntEnum):
    """5.1.6.5: the classes of control commands."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5


NET_OK, NET_ERR = 0, 1  # 5.1.6.5: `ack`


class ConsoleFeature(IntEnum):
    """5.3.3: feature bits of the console."""

    SIZE = 0
    MULTIPORT = 1
    EMERG_WRITE = 2


class ConsoleEvent(IntEnum):
    """5.3.6.2: what a control message of the console is about."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


_FEATURES_OF: dict[int, type[IntEnum]] = {
    DeviceId.NET: NetFeature,
    DeviceId.BLOCK: BlkFeature,
    DeviceId.CONSOLE: ConsoleFeature,
}


def feature_names(features: int, device_id: int = DeviceId.NONE) -> list[str]:
    """The names of the set bits, low to high; a bit without a name is `bit N`."""
    known = {member.value: member.name for table in (Feature, _FEATURES_OF.get(device_id, Feature)) for member in table}
    return [known.get(number, f"bit {number}") for number in range(64) if features >> number & 1]
