"""virtio-net (virtio 1.2, 5.1): a network card between a driver and one descriptor.

Frames are the business of `devproc.net.fast`. Here is what a card says of itself, what the driver orders over the
control queue (receive modes, filters, address, queue pairs, offloads), and the link. What the driver ordered is kept
where a successor of this process finds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import select
import time
from collections.abc import Callable, Mapping
from typing import Any

from devproc.device import Queue, State, VirtioDevice
from devproc.kept import Kept
from devproc.loop import Reason
from devproc.net.arrivals import Arrivals
from devproc.net.backend import BACKENDS, Word, parse_uri
from devproc.net.capture import open_capture
from devproc.net.fast import FLOWS, MACS, MESSAGE_MAX, NOTHING, Interest, Net, RxMode
from devproc.net.offload import CSUM, HEADER, TSO4, TSO6
from devproc.properties import Property
from devproc.request import Request
from native import Array, Record, plain, u8, u16, u32
from native.memory import Area
from proto.errors import ConfigError
from proto.ring import Chain, Ring
from proto.virtio import NET_ERR, NET_OK, DeviceId, NetControl, NetFeature, NetStatus, bit

__all__ = ["NetConfig", "NetDevice", "default_mac", "parse_mac"]

QUEUE_SIZE = 256
CONTROL_SIZE = 64
MAX_PAIRS = 7  # what fits the queues of one device beside the control queue
SERVICE_NS = 1_000_000
FULL = 0.1  # seconds for which a frame that is sent under a rule waits for room
_BUFFER = -(-MESSAGE_MAX // 64) * 64
TUNSETOFFLOAD = 0x400454D0
TUN_OFFLOADS = {  # what the driver takes: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN
    NetFeature.GUEST_CSUM: 1,
    NetFeature.GUEST_TSO4: 2,
    NetFeature.GUEST_TSO6: 4,
    NetFeature.GUEST_ECN: 8,
}


class NetConfig(Record):
    """5.1.4: struct virtio_net_config."""

    mac: Array[u8] = plain(count=6)
    status: u16
    max_virtqueue_pairs: u16
    mtu: u16
    speed: u32  # Mbit/s
    duplex: u8
    rss_max_key_size: u8  # not offered, like all that follows
    rss_max_indirection_table_length: u16
    supported_hash_types: u32


_OFFERED = (  # whatever is behind the card: that can change while the guest runs
    NetFeature.CSUM,
    NetFeature.GUEST_CSUM,
    NetFeature.GUEST_TSO4,
    NetFeature.GUEST_TSO6,
    NetFeature.GUEST_ECN,
    NetFeature.CTRL_GUEST_OFFLOADS,
    NetFeature.MTU,
    NetFeature.MAC,
    NetFeature.HOST_TSO4,
    NetFeature.HOST_TSO6,
    NetFeature.HOST_ECN,
    NetFeature.MRG_RXBUF,
    NetFeature.STATUS,
    NetFeature.CTRL_VQ,
    NetFeature.CTRL_RX,
    NetFeature.CTRL_RX_EXTRA,
    NetFeature.GUEST_ANNOUNCE,
    NetFeature.CTRL_MAC_ADDR,
    NetFeature.SPEED_DUPLEX,
)
_MODES = (RxMode.PROMISC, RxMode.ALLMULTI, RxMode.ALLUNI, RxMode.NOMULTI, RxMode.NOUNI, RxMode.NOBCAST)  # by command


class NetDevice(VirtioDevice):
    """A network card."""

    device_id = DeviceId.NET
    Config = NetConfig

    mac = Property(str, "", "the card's address, 52:54:00:12:34:56 (default: made from the machine's name)")
    mtu = Property(int, 0, "largest packet the guest is told of (default: what suits the backend)", maximum=65521)
    pairs = Property(int, 1, "queue pairs, at most one a hart is useful", minimum=1, maximum=MAX_PAIRS)
    speed = Property(int, 10000, "Mbit/s that the card says it has", minimum=0)

    rx_mode = State(int(RxMode.PROMISC))
    address = State(b"")  # as the driver set it; b"": the card's own
    unicasts = State([])
    multicasts = State([])
    pairs_used = State(1)
    link = State(False)
    announcing = State(False)
    guest_offloads = State(None)  # as CTRL_GUEST_OFFLOADS set them; None: what was negotiated

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        data = [
            Queue(f"{way}{pair}", QUEUE_SIZE, in_order=True, passive=way == "receive")
            for pair in range(self.pairs)
            for way in ("receive", "transmit")
        ]
        self.queues = (*data, Queue("control", CONTROL_SIZE, True))
        self.frames = -1
        self._card = parse_mac(self.mac) if self.mac else default_mac(id)
        self._kept: Kept | None = None
        self._plugged = True  # the keeper pulls the cable when it swaps what is behind the card
        self._interest = 0
        self._arrivals: Arrivals | None = None  # once there are rings
        self._commands: dict[int, Callable[[int, bytes], bool]] = {
            NetControl.RX: self._set_mode,
            NetControl.MAC: self._set_address,
            NetControl.ANNOUNCE: self._announced,
            NetControl.MQ: self._set_pairs,
            NetControl.GUEST_OFFLOADS: self._set_offloads,
        }

    def start(self) -> None:
        self._uri = parse_uri(self.backend)
        self._kind = BACKENDS[self._uri.scheme]
        if "frames" not in self.descriptors:
            raise ConfigError(f"{self.id} was given no descriptor for its frames")
        self.frames = self.descriptors["frames"]
        os.set_blocking(self.frames, False)
        self._make_net()
        self.link = self._kind.link
        if "kept" in self.descriptors:
            self._kept = Kept(self.descriptors["kept"])
            if self._kept.load():
                self.load(self.state_version, self._kept.load())
        many = (NetFeature.MQ,) if self.pairs > 1 else ()
        self.features = sum(map(bit, (*_OFFERED, *many)))
        config = self.config
        config.max_virtqueue_pairs = self.pairs
        config.mtu = self.mtu or self._kind.mtu
        config.speed = self.speed
        config.duplex = 1
        self._show()
        if not self._kind.descriptor:
            self._ask()

    def taken_over(self) -> None:
        """The driver's orders are the predecessor's; the link is that of what is behind the card now."""
        self.link = self._kind.link
        self._changed()
        if not self._kind.descriptor:
            self._ask()

    def told(self, kind: str, body: dict[str, Any]) -> None:
        """`link`: the cable is pulled out or plugged in. Afterwards others may not know this card: it announces
        itself."""
        if kind == "link" and self._plugged is not bool(body["up"]):
            self._plugged = bool(body["up"])
            self.announcing = self._plugged and self.link and self._has(NetFeature.GUEST_ANNOUNCE)
            self.log(f"{self.id}: cable {'plugged in' if self._plugged else 'pulled out'}")
            self._changed()
            self.config_changed()

    def stop(self) -> None:
        if self._net.capture != NOTHING:
            os.fsync(self._net.capture)

    def reset(self) -> None:
        self.rx_mode, self.address, self.unicasts, self.multicasts = int(RxMode.PROMISC), b"", [], []
        self.pairs_used, self.announcing, self.guest_offloads = 1, False, None
        self._net.length = 0
        if self._arrivals is not None:
            self._arrivals.reset()
        self.driver_features = 0
        self.negotiated()

    def negotiated(self) -> None:
        net, has = self._net, self._has
        net.mergeable = int(has(NetFeature.MRG_RXBUF))
        net.control = 2 * (self.pairs if has(NetFeature.MQ) else 1)
        net.offered = _bits(has(NetFeature.CSUM), has(NetFeature.HOST_TSO4), has(NetFeature.HOST_TSO6))
        self._changed()

    # -- the control queue -----------------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """5.1.6.5: class, command, data; then `ack`."""
        if request.queue % 2 and request.queue != self._net.control:
            self._send(request)
            return
        order = request.read()
        done = False
        if len(order) >= 2 and request.writable:
            done = self._commands.get(order[0], _unknown)(order[1], order[2:])
        self._changed()
        request.write(bytes([NET_OK if done else NET_ERR]))

    def malformed(self, request: Request) -> None:
        request.write(bytes([NET_ERR]))

    def _set_mode(self, command: int, data: bytes) -> bool:
        """5.1.6.5.1."""
        if command >= len(_MODES) or len(data) != 1:
            return False
        self.rx_mode = self.rx_mode & ~_MODES[command] | (_MODES[command] if data[0] else 0)
        return True

    def _set_address(self, command: int, data: bytes) -> bool:
        """5.1.6.5.2: two filter tables, or the card's address."""
        if command == 1 and len(data) == 6:
            self.address = data
            return True
        if command != 0:
            return False
        unicasts, rest = _table(data)
        multicasts, rest = _table(rest) if rest is not None else (None, None)
        if unicasts is None or multicasts is None or rest:
            return False
        self.unicasts, self.multicasts = unicasts[: MACS + 1], multicasts[: MACS + 1]
        return True

    def _announced(self, command: int, data: bytes) -> bool:
        """5.1.6.5.4."""
        if command != 0 or not self.announcing:
            return False
        self.announcing = False
        return True

    def _set_pairs(self, command: int, data: bytes) -> bool:
        """5.1.6.5.6.1."""
        pairs = int.from_bytes(data, "little")
        if not self._has(NetFeature.MQ) or command != 0 or len(data) != 2 or not 1 <= pairs <= self.pairs:
            return False
        self.pairs_used = pairs
        return True

    def _set_offloads(self, command: int, data: bytes) -> bool:
        """5.1.6.5.7."""
        offloads = int.from_bytes(data, "little")
        if command != 0 or len(data) != 8 or offloads & ~self.driver_features:
            return False
        self.guest_offloads = offloads
        return True

    def _has(self, feature: NetFeature) -> bool:
        return bool(self.driver_features & bit(feature))

    # -- what has changed ------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Tell the machine code, the tap and the keeper how things are."""
        net = self._net
        taken = self.driver_features if self.guest_offloads is None else self.guest_offloads
        has = {feature: bool(taken & bit(feature)) for feature in TUN_OFFLOADS}
        net.driver = _bits(*(has[f] for f in (NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO4, NetFeature.GUEST_TSO6)))
        if self._kind.descriptor:
            flags = sum(flag for feature, flag in TUN_OFFLOADS.items() if has[feature] and has[NetFeature.GUEST_CSUM])
            fcntl.ioctl(self.frames, TUNSETOFFLOAD, flags)
        net.rx_mode, net.pairs, net.link = self.rx_mode, self.pairs_used, int(self.link and self._plugged)
        net.mac = int.from_bytes(self.address or self._card, "little")
        net.unicast, net.multicast = len(self.unicasts), len(self.multicasts)
        if net.unicast > MACS or net.multicast > MACS:  # more than the tables hold: everything, which is allowed
            net.rx_mode |= RxMode.ALLUNI | RxMode.ALLMULTI
            net.unicast = net.multicast = 0
        for table, given in ((net.unicasts, self.unicasts), (net.multicasts, self.multicasts)):
            for index, mac in enumerate(given[:MACS]):
                table[index] = int.from_bytes(mac, "little")
        self._show()
        if self._kept is not None:
            self._kept.store(self.save())

    def _show(self) -> None:
        """The configuration space as it is now."""
        for index, byte in enumerate(self.address or self._card):
            self.config.mac[index] = byte
        up = self.link and self._plugged
        self.config.status = (NetStatus.LINK_UP if up else 0) | (NetStatus.ANNOUNCE if self.announcing else 0)

    def _heard(self, word: int) -> None:
        """The peer spoke of the link. Where it had been down, others have forgotten this card: it announces itself."""
        if word not in (Word.UP, Word.DOWN) or self.link is (word == Word.UP):
            return
        self.link = word == Word.UP
        self.announcing = self.link and self._has(NetFeature.GUEST_ANNOUNCE)
        self.log(f"{self.id}: link {'up' if self.link else 'down'}")
        self._changed()
        self.config_changed()

    def _ask(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the peer has much to read; what changes it tells by itself
            os.write(self.frames, int(Word.ASK).to_bytes(4, "little"))

    # -- machine code ----------------------------------------------------------------------------------------------

    def _make_net(self) -> None:
        area = Area.allocate(Net.size() + Chain.size() + 4 * _BUFFER)
        self._net = net = Net(area.address, area)
        self._words = area.view()[: Net.size() & ~3].cast("I")
        self._area = area
        net.fd = self.frames
        net.more = area.address + Net.size()
        net.message = net.more + Chain.size()
        net.scratch = net.message + _BUFFER
        net.piece = net.scratch + _BUFFER
        self._changed_at = net.piece + _BUFFER
        at = Net.size() + Chain.size()
        self._message_bytes, self._changed_bytes = area.view()[at : at + _BUFFER], area.view()[at + 3 * _BUFFER :]
        net.capture = open_capture(self.descriptors["capture"]) if "capture" in self.descriptors else NOTHING
        net.backend = self._kind.takes
        net.pairs = 1
        net.control = 2

    def readable(self, on: bool) -> bool:
        """Frames that are sent come to `handle` one at a time, those that have come to `Arrivals`."""
        self._net.readable = int(on)
        return False

    def _send(self, request: Request) -> None:
        """One frame. Where the descriptor takes no more for a while, it is lost, as on any full cable."""
        chain = self._changed_frame(request) if request.replaced else self._chain
        end = time.monotonic() + FULL
        self._net.sent = 0
        while True:
            result = self._engine.net_send(self._net, chain, request.queue)
            if result != -errno.EAGAIN or time.monotonic() > end:
                break
            select.select([], [self.frames], [], FULL)
        request.failed = result <= 0
        request.bytes_written = max(0, request.readable - HEADER) if result > 0 else 0

    def _changed_frame(self, request: Request) -> Chain:
        """A chain of the bytes that a rule has put in the place of the driver's."""
        data = b"".join(request.views_readable(0, min(request.readable, _BUFFER)))
        self._changed_bytes[: len(data)] = data
        chain = Chain(self._net.more)  # in use only while a frame is received
        chain.error = 0
        chain.readable, chain.writable = 1, 0
        chain.readable_bytes = request.readable
        segment = chain.segments[0]
        segment.host, segment.length = self._changed_at, len(data)
        return chain

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int]:
        net, words = self._net, self._words
        net.chain = queues.chain.address
        self._engine, self._chain = engine, queues.chain
        self._arrivals = arrivals = Arrivals(net, self._message_bytes, engine, queues.breaks, self._say)
        ruled = queues.breaks
        interest, word, lost = (Net.offset(name) // 4 for name in ("interest", "word", "lost"))

        def turn() -> int:
            if ruled.room is not None:
                arrivals.before()
            reason: int = engine.net_loop(queues.loop, net, SERVICE_NS)
            if ruled.room is not None and self._after_rules() and reason == Reason.SLEEP:
                reason = Reason.SERVICE
            if words[interest] != self._interest:
                self._look_for(words[interest])
            if words[word]:
                said, words[word] = words[word], 0
                self._heard(said)
            if words[lost]:
                words[lost] = 0
                self.log(f"{self.id}: the capture file cannot be written; nothing more is captured", 30)
            return reason

        return turn

    def _after_rules(self) -> bool:
        """The machine code has run, and there have been rules. True: it has more to do at once."""
        assert self._arrivals is not None
        more = self._arrivals.after()
        if self._arrivals.lost and self._net.rings[0]:
            self._engine.account(Ring(self._net.rings[0]), 0, 0, self._arrivals.lost)
            self._arrivals.lost = 0
        return more

    def _say(self, text: str, level: int) -> None:
        self.log(f"{self.id}: {text}", level)

    def _look_for(self, interest: int) -> None:
        self._interest = self._net.watched = interest
        if interest == 0:
            self.unwatch(self.frames)
            return
        events = (select.POLLIN if interest & Interest.READ else 0) | (
            select.POLLOUT if interest & Interest.WRITE else 0
        )
        self.watch(self.frames, None, events)  # waking up is all it takes


def _unknown(command: int, data: bytes) -> bool:
    return False


def _bits(checksum: bool, tso4: bool, tso6: bool) -> int:
    """Offloads as `devproc.net.offload` counts them; segmentation needs checksums."""
    return (CSUM | (TSO4 if tso4 else 0) | (TSO6 if tso6 else 0)) if checksum else 0


def _table(data: bytes) -> tuple[list[bytes] | None, bytes | None]:
    """A virtio_net_ctrl_mac and what follows it; None when it is not whole."""
    count = int.from_bytes(data[:4], "little")
    end = 4 + 6 * count
    if len(data) < max(4, end):
        return None, None
    return [data[at : at + 6] for at in range(4, end, 6)], data[end:]


def parse_mac(text: str) -> bytes:
    """Six bytes. Raises ConfigError for what is no address of one card."""
    parts = re.fullmatch(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}", text)
    mac = bytes.fromhex(text.replace(":", "")) if parts else b"\xff"
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"mac={text} is no address of a network card", hint="For example: 52:54:00:12:34:56")
    return mac


def default_mac(*names: str) -> bytes:
    """An address in the range that belongs to nobody, always the same for the same names."""
    return b"\x52\x54\x00" + hashlib.sha256("\0".join(names).encode()).digest()[:3]


assert FLOWS == 256  # flow_hash gives a byte
