"""From options to a machine: which guest, which images, which processes.

`make_plan` decides and checks everything that can be known beforehand; `Plan.prepare` makes, in the scratch directory
of a claimed machine, what only this run needs: the root disk's private copy and the initrd with COMMAND in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.keeper.child import module_command, module_environment
from launcher.keeper.listeners import parse_where
from launcher.machine.description import CONSOLE, MAX_HARTS, NETWORK, VIRTIO_SLOTS, WINDOW, Device, Machine, Serial
from launcher.machine.options import Given, Options
from launcher.machine.twice import refuse_twice
from launcher.machine.values import (
    REMOTE,
    Card,
    Share,
    absolute,
    parse_console,
    parse_device,
    parse_disk,
    parse_memory,
    parse_net,
    parse_serial,
    parse_share,
    take_policy,
)
from launcher.run.rundir import RunDirectory
from proto.errors import ConfigError
from proto.suggest import did_you_mean

__all__ = ["Plan", "describe_device", "device_names", "make_plan"]

MIB = 1 << 20
DEFAULT_MEMORY = 256 * MIB
BUNDLED = "the bundled guest"
DEVICE_DEADLINE = 20.0  # seconds that a device's own file may take to be imported

Progress = Callable[[str, float | None], None]


@dataclass
class Plan:
    """A machine that could be started, and what must be made for it first."""

    machine: Machine
    name: str | None  # None: any free one
    images: Any = None  # launcher.images.Images, of the Debian guest
    root: str | None = None  # the file in which the root disk is kept; "" is a private copy
    command: Any = None  # launcher.images.Command
    cards: tuple[Card, ...] = ()  # the network cards, in the order of their devices
    shares: tuple[Share, ...] = ()

    def prepare(self, directory: RunDirectory) -> Machine:
        """Make what this run needs and return the machine, complete. Raises ConfigError."""
        machine = dataclasses.replace(self.machine, name=directory.name)
        if machine.detach and machine.serial.kind == "fd":
            machine = dataclasses.replace(machine, serial=Serial("socket", str(directory.path / "serial")))
        machine = _with_overlays(machine, directory.scratch)
        machine = dataclasses.replace(machine, devices=tuple(_addressed(device, machine) for device in machine.devices))
        if self.images is None:
            return machine
        try:
            machine = self._with_root(machine, directory.scratch)
            return self._with_command(machine, directory.scratch)
        except OSError as error:
            raise ConfigError(f"cannot prepare the guest: {error.strerror}: {error.filename}") from error

    def _with_root(self, machine: Machine, scratch: Path) -> Machine:
        if self.root is None:
            return machine
        path = Path(self.root) if self.root else scratch / "root.ext4"
        if not path.exists():
            self.images.copy_root(path)
            path.chmod(0o600)
        root = dataclasses.replace(machine.devices[0], backend=f"file:{path}")
        return dataclasses.replace(machine, devices=(root, *machine.devices[1:]))

    def _with_command(self, machine: Machine, scratch: Path) -> Machine:
        if self.command is None:
            return machine
        path = scratch / "initrd"
        shutil.copyfile(machine.initrd, path)
        with open(path, "ab") as file:
            file.write(self.command.archive())
            if self.cards:
                file.write(self._network(machine))
            if self.shares:
                file.write(self._shares())
        return dataclasses.replace(machine, initrd=str(path))

    def _network(self, machine: Machine) -> bytes:
        """What the Debian guest needs for its cards."""
        from launcher.images import ANY_CARD, GuestCard, network_archive

        macs = [device.properties.get("mac", ANY_CARD) for device in machine.devices if device.device == NETWORK]
        cards = [GuestCard(mac, card.how, card.gateway) for mac, card in zip(macs, self.cards, strict=True)]
        return network_archive(self.images, cards)

    def _shares(self) -> bytes:
        """What the Debian guest needs for its shared folders."""
        from launcher.images import GuestShare, shares_archive

        return shares_archive(self.images, [GuestShare(share.tag, share.proto) for share in self.shares])


def _addressed(device: Device, machine: Machine) -> Device:
    """A network card with an address: one that stays the same for the same machine's name on the same host."""
    if device.device != NETWORK or device.relay not in ("", WINDOW) or device.properties.get("mac"):
        return device
    from launcher.keeper.network import default_address

    mac = default_address(machine.name, device.id)
    return dataclasses.replace(device, properties={**device.properties, "mac": mac})


def _with_overlays(machine: Machine, scratch: Path) -> Machine:
    """What is written to a disk that must not be written lives as long as the machine, unless it was given a file."""
    from devproc.blk.uri import name_overlays

    devices = [
        dataclasses.replace(device, backend=name_overlays(device.backend, str(scratch / device.id)))
        if device.device == "blk"
        else device
        for device in machine.devices
    ]
    return dataclasses.replace(machine, devices=tuple(devices))


def make_plan(options: Options, command: list[str], terminal: tuple[int, int] | None, progress: Progress) -> Plan:
    """What `bulkhead run` was asked for. Raises ConfigError.

    `command` is run in the guest ([]: none); `terminal` is the size (rows, columns) of the terminal that the guest's
    console is, or None when it is none. Fetches the Debian guest when it is asked for and not there.
    """
    read = _Reader(options)
    guest = _choose_guest(read, command)
    images = _debian(progress) if guest == "debian" or read.text("bios") == "opensbi" else None
    disks = [_disk(given) for given in read.items("disk")]
    refuse_twice(read.items("disk"), disks)
    kernel, initrd, append, label, root = _program(read, guest, images)
    if root is not None:
        disks.insert(0, ("file:(a private copy of the root image)" if not root else f"file:{root}", None, {}))
    detach = read.flag("detach")
    if read.flag("gdb-wait") and not read.flag("gdb"):
        raise ConfigError("--gdb-wait waits for gdb: where?", hint="Add --gdb 1234.")
    serial = parse_serial(serial_given) if (serial_given := read.given("serial")) else Serial()
    if detach and serial_given and serial.kind == "fd":
        raise ConfigError(
            "--detach leaves no terminal for --serial stdio", hint="Leave --serial out: a socket is made."
        )
    if command and (detach or serial.kind != "fd"):
        raise ConfigError("the output of COMMAND comes over the serial line", hint="Leave out --serial and --detach.")
    cards = _cards(read.items("net"))
    others = [parse_device(given) for given in read.items("device")]
    for spec, _, _ in others:
        if spec == CONSOLE:
            raise ConfigError("a console is given with --console", hint="For example: --console pty")
    shares = _shares(read.items("share"))
    machine = Machine(
        name=read.text("name") or "(the first free name)",
        memory=parse_memory(memory) if (memory := read.given("memory")) else DEFAULT_MEMORY,
        harts=_harts(read.given("smp")),
        kernel=kernel,
        initrd=initrd,
        append=append,
        bios=_bios(read, images),
        boot=read.text("boot"),
        serial=serial,
        devices=_devices(disks, cards, shares, [*_console(read.items("console"), serial, detach), *others]),
        link=read.text("link") or "words",
        reboot=not (read.flag("no-reboot") or command),
        detach=detach,
        sandbox=read.text("sandbox") or "on",
        guest=label,
        verbose=read.flag("verbose"),
        gdb=_where(read, "gdb"),
        gdb_wait=read.flag("gdb-wait"),
        qmp=_where(read, "qmp"),
        metrics=_where(read, "metrics"),
    )
    machine = dataclasses.replace(machine, faults=_faults(read.given("faults"), machine))
    in_guest = None
    if guest == "debian":
        from launcher.images import Command

        in_guest = Command(tuple(command), size=terminal)
    name = read.text("name") or None
    fetched = images if guest == "debian" else None
    return Plan(machine, name, fetched, root, in_guest, tuple(cards), tuple(shares))


class _Reader:
    """Options by name, one value each unless it is a list."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def given(self, name: str) -> Given | None:
        values = self._options.get(name)
        return values[-1] if values else None

    def items(self, name: str) -> list[Given]:
        return self._options.get(name, [])

    def text(self, name: str) -> str:
        given = self.given(name)
        return str(given.value) if given else ""

    def flag(self, name: str) -> bool:
        return self.given(name) is not None

    def file(self, name: str) -> str:
        """The absolute path of a file that must be there, or ""."""
        given = self.given(name)
        if given is None:
            return ""
        path = absolute(given, str(given.value))
        if not os.path.isfile(path):
            why = "is a directory" if os.path.isdir(path) else "no such file"
            raise ConfigError(f"{given.source} {given.value}: {why}")
        return path


def _choose_guest(read: _Reader, command: list[str]) -> str:
    """ "debian", "bundled", or "" when the user brings what to start."""
    asked = read.text("guest")
    bios = read.text("bios")
    own = [name for name in ("kernel", "boot") if read.flag(name)]
    if bios not in ("", "default", "none", "opensbi"):
        own.append("bios")
    if own and command:
        raise ConfigError(f"COMMAND runs in the Debian guest, which --{own[0]} replaces", hint=f"Leave out --{own[0]}.")
    if own:
        if asked:
            raise ConfigError(f"--guest {asked} and --{own[0]} exclude each other")
        if read.flag("root"):
            raise ConfigError("--root belongs to the Debian guest", hint="Give the disk with --disk.")
        return ""
    if bios == "none":
        raise ConfigError("--bios none starts a program in M-mode: which?", hint="Give it with --kernel FILE.")
    if asked == "bundled" and read.flag("root"):
        raise ConfigError("--root belongs to the Debian guest", hint="Give the disk with --disk.")
    if command and asked == "bundled":
        raise ConfigError("COMMAND runs in the Debian guest", hint="Leave out --guest bundled.")
    if asked or command or read.flag("root"):
        return asked or "debian"
    from launcher.images import ready

    return "debian" if ready() is not None else "bundled"


def _debian(progress: Progress) -> Any:
    from launcher.images import ensure

    return ensure(progress)


def _program(read: _Reader, guest: str, images: Any) -> tuple[str, str, str, str, str | None]:
    """kernel, initrd, append, what people call it, and the root disk (None: no such disk; "": a private copy)."""
    append = read.text("append")
    if guest == "debian":
        from launcher.images import KERNEL_COMMAND_LINE, ROOT_ON_VDA

        root = absolute(given, str(given.value)) if (given := read.given("root")) else ""
        own_initrd = read.file("initrd")
        words = [KERNEL_COMMAND_LINE, *([] if own_initrd else [ROOT_ON_VDA]), append]
        label = f"Debian {images.kernel_version}"
        initrd = own_initrd or str(images.initrd)
        return str(images.kernel), initrd, " ".join(filter(None, words)), label, None if own_initrd else root
    if guest == "bundled":
        from launcher.machine.bundled import bundled_guest

        return str(bundled_guest()), read.file("initrd"), append, BUNDLED, None
    kernel = read.file("kernel")
    started = kernel or ("sector 0 of the first disk" if read.text("boot") else read.text("bios"))
    return kernel, read.file("initrd"), append, os.path.basename(started), None


def _harts(given: Given | None) -> int:
    if given is None:
        return 1
    try:
        harts = int(given.value)
    except ValueError:
        harts = 0
    if not 1 <= harts <= MAX_HARTS:
        raise ConfigError(f"{given.source} {given.value}: the board has 1 to {MAX_HARTS} harts")
    return harts


def _where(read: _Reader, option: str) -> str:
    """A place to listen at: --gdb, --qmp, --metrics."""
    given = read.given(option)
    if given is None:
        return ""
    where = str(given.value)
    parse_where(where, f"--{option}")
    return absolute(given, where) if "/" in where else where


def _faults(given: Given | None, machine: Machine) -> tuple[dict[str, Any], ...]:
    """--faults: rules for its devices."""
    if given is None:
        return ()
    from launcher.orders.faultfile import read_faults

    names = [device.id for device in machine.devices if device.kind == "virtio"]
    return tuple(rule.as_dict() for rule in read_faults(Path(absolute(given, str(given.value))), names))


def _bios(read: _Reader, images: Any) -> str:
    bios = read.text("bios")
    if bios == "opensbi":
        return str(images.opensbi)
    return bios if bios in ("default", "none") else read.file("bios") or "default"


def _disk(given: Given) -> tuple[str, str | None, dict[str, Any]]:
    uri, id, properties = parse_disk(given)
    return uri, id, properties


def _cards(given: list[Given]) -> list[Card]:
    if not given:
        return []
    known = describe_device(NETWORK)["properties"]
    return [parse_net(one, known) for one in given]


def _shares(given: list[Given]) -> list[Share]:
    shares = [parse_share(one) for one in given]
    tags = [share.tag for share in shares]
    for tag in tags:
        if tags.count(tag) > 1:
            raise ConfigError(f"two shares have the tag {tag}", hint="The guest tells them apart by it.")
    return shares


def _console(given: list[Given], serial: Serial, detach: bool) -> list[tuple[str, str | None, dict[str, Any]]]:
    """The console that all --console make together, as a device, if there are any."""
    if not given:
        return []
    from devproc.console.spec import format_ports

    parsed = [parse_console(one) for one in given]
    if any(port.kind == "stdio" for port, _, _ in parsed):
        if serial.kind == "fd" and not detach:
            hint = "Give the serial line another place: --serial none"
            raise ConfigError("stdio is the serial line already, so a console port cannot be it", hint=hint)
        if detach:
            raise ConfigError("--detach leaves no terminal for --console stdio", hint="For example: --console pty")
    ids = [id for _, id, _ in parsed if id is not None]
    properties = {key: value for _, _, mine in parsed for key, value in mine.items()}
    backend = format_ports([port for port, _, _ in parsed])
    return [(CONSOLE, ids[0] if ids else None, {**properties, "backend": backend})]


def _devices(
    disks: list[tuple[str, str | None, dict[str, Any]]],
    cards: list[Card],
    shares: list[Share],
    others: list[tuple[str, str | None, dict[str, Any]]],
) -> tuple[Device, ...]:
    """All devices, with ids and slots. Raises ConfigError."""
    names = _Names()
    devices = [Device(names.take(id, "blk"), "blk", "blk", "virtio", properties, uri) for uri, id, properties in disks]
    for card in cards:
        devices.append(
            Device(
                names.take(card.id, "net"), "net", NETWORK, "virtio", card.properties, card.uri, capture=card.capture
            )
        )
    for share in shares:
        name = names.take(share.id, "fs")
        devices.append(Device(name, "fs", share.device, "virtio", share.properties, share.directory))
    for spec, id, properties in others:
        if spec.startswith(REMOTE):
            devices.append(Device(names.take(id, "remote"), "remote", "remote", "virtio", properties, spec))
            continue
        if spec == NETWORK:
            raise ConfigError("a network card is given with --net", hint="For example: --net user")
        seen = describe_device(spec)
        role = os.path.basename(spec.rpartition(":")[0]).removesuffix(".py") if ".py:" in spec else spec
        backend = str(properties.pop("backend", ""))
        devices.append(
            Device(
                names.take(id, role),
                role,
                spec,
                seen["kind"],
                properties,
                backend,
                seen.get("mmio_size", 0),
                seen.get("compatible", ""),
            )
        )
    devices = [dataclasses.replace(device, **take_policy(device.properties)) for device in devices]
    devices = [_behind_relay(device) for device in devices]
    virtio = sum(device.kind == "virtio" for device in devices)
    if virtio > VIRTIO_SLOTS:
        raise ConfigError(f"{virtio} virtio devices; the board has {VIRTIO_SLOTS} slots")
    return tuple(devices)


def _behind_relay(device: Device) -> Device:
    """With `relay` set, if that is how it was asked for: `window=on`, or `remote:`. Raises ConfigError."""
    from devproc.properties import Property

    flag = Property(bool, False)
    flag.name = "window"
    properties = dict(device.properties)
    window = flag.parse(properties.pop("window", False))
    if device.device in ("blk", "remote", NETWORK) and device.backend.startswith(REMOTE):
        return _elsewhere(device, properties, window)
    if window and device.kind != "virtio":
        raise ConfigError(f"{device.id} cannot be behind a window", hint="Only virtio devices can.")
    return dataclasses.replace(device, properties=properties, relay=WINDOW) if window else device


def _elsewhere(device: Device, properties: dict[str, Any], window: bool) -> Device:
    from devproc.blk.remote import place_of
    from devproc.blk.uri import parse_uri
    from launcher.trace.keys import client_keys

    uri = parse_uri(device.backend)
    keys = str(uri.values()["keys"])
    if not keys:
        raise ConfigError(
            f"{device.backend} needs keys", hint="bulkhead keys create DIR there, and then: remote:keys=DIR://HOST:PORT"
        )
    if properties or window:
        name = next(iter(properties), "window")
        raise ConfigError(f"{device.id}: {name}= is for the other host", hint="Give it to `bulkhead serve` there.")
    client_keys(Path(keys))
    return dataclasses.replace(device, properties={}, relay=place_of(uri.target), keys=keys)


class _Names:
    """Ids: blk0, blk1, … unless one was asked for."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str | None, role: str) -> str:
        if wanted in self._taken:
            raise ConfigError(f"two devices are called {wanted}", hint="Give one of them another id=NAME.")
        number = 0
        while wanted is None or wanted in self._taken:
            candidate = f"{role[:12]}{number}"
            wanted = None if candidate in self._taken else candidate
            number += 1
        self._taken.add(wanted)
        return wanted


def device_names() -> list[str]:
    """The devices that come with the project."""
    from devproc.registry import DEVICES

    return list(DEVICES)


def describe_device(spec: str) -> dict[str, Any]:
    """What `devproc.registry.describe` says of a device; a user's file is imported in a process of its own."""
    from devproc.registry import DEVICES, describe

    if ".py:" not in spec:
        if spec.endswith(".py"):
            raise ConfigError(f"{spec}: which class?", hint=f"For example: {spec}:MyDevice")
        if spec not in DEVICES:
            raise ConfigError(
                f"there is no device {spec}{did_you_mean(spec, DEVICES)}",
                hint=f"There are {', '.join(DEVICES)}, and your own as ./mydev.py:MyDevice.",
            )
        return describe(spec)
    try:
        answer = subprocess.run(
            [*module_command("devproc.registry"), spec],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=module_environment(),
            timeout=DEVICE_DEADLINE,
            check=False,
        )
        lines = answer.stdout.strip().splitlines()  # the file may print something of its own first
        seen: dict[str, Any] = json.loads(lines[-1])
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{spec}: importing it takes more than {DEVICE_DEADLINE:.0f} s") from None
    except (IndexError, ValueError):
        complaint = answer.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise ConfigError(f"{spec} cannot be imported: {complaint[0]}") from None
    if "error" in seen:
        raise ConfigError(seen["error"], hint=seen.get("hint", ""))
    return seen
