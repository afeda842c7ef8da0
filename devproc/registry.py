"""Which devices there are: the bundled ones by name, anybody's own by `PATH.py:Class`.

`load_class` gives the class, `make_device` an instance from a START packet, `describe` what the launcher and
`--device X,help` need to know, `explain` a sentence for what a device's own code raised. `python -m devproc.registry
SPEC` prints the description as JSON, for callers that do not want to run a stranger's file in their own process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

from devproc.device import Device, MmioDevice, VirtioDevice
from devproc.properties import properties_of, property_help
from proto.channel import Packet
from proto.errors import ConfigError

__all__ = ["DEVICES", "describe", "explain", "load_class", "make_device"]

DEVICES = {
    "blk": "devproc.blk.device:BlockDevice",
    "net": "devproc.net.device:NetDevice",
    "9p": "devproc.fs.ninep.device:NinePDevice",
    "virtiofs": "devproc.fs.fuse.device:VirtioFsDevice",
    "v86fs": "devproc.fs.v86fs.device:V86fsDevice",
    "console": "devproc.console.device:ConsoleDevice",
    "rng": "devproc.rng:Entropy",
    "mailbox": "devproc.mailbox:Mailbox",
}
RELAY = "relay"  # in a START: what stands for a device that is elsewhere (`devproc.relay`); nobody asks for it by name


def load_class(spec: str) -> type[Device]:
    """The class of a device by its name, or by `PATH.py:Class`. Raises ConfigError saying what is wrong with it."""
    if ".py:" in spec:
        found = _from_file(*spec.rsplit(":", 1))
    elif spec == RELAY:
        found = importlib.import_module("devproc.relay.device").RelayDevice
    elif spec in DEVICES:
        module, name = DEVICES[spec].split(":")
        found = getattr(importlib.import_module(module), name)
    else:
        raise ConfigError(
            f"there is no device {spec!r}",
            hint=f"There are {', '.join(DEVICES)}, and your own as ./mydev.py:MyDevice.",
            value=spec,
        )
    if not (isinstance(found, type) and issubclass(found, (VirtioDevice, MmioDevice))):
        raise ConfigError(f"{spec} is neither a VirtioDevice nor an MmioDevice", value=spec)
    return found


def make_device(start: Packet) -> Device:
    """The device a START packet asks for, or what stands in for it. Raises ConfigError."""
    body = start.body
    if "standin" in body:
        from devproc.standin import make_standin

        return make_standin(body["id"], body["standin"])
    cls = load_class(body["device"])
    return cls(body["id"], body.get("properties", {}), backend=body.get("backend") or "", owner=body["device"])


def describe(spec: str) -> dict[str, Any]:
    """What a device is, in plain values: kind, device_id, mmio_size, compatible, queues, properties, help."""
    cls = load_class(spec)
    virtio = issubclass(cls, VirtioDevice)
    return {
        "device": spec,
        "kind": "virtio" if virtio else "mmio",
        "device_id": int(getattr(cls, "device_id", 0)),
        "queues": len(cls.queues) if issubclass(cls, VirtioDevice) else 0,
        "mmio_size": 0 if virtio else getattr(cls, "mmio_size", 0),
        "compatible": getattr(cls, "compatible", ""),
        "properties": {name: prop.expected() for name, prop in properties_of(cls).items()},
        "help": property_help(cls, spec),
    }


def _from_file(path: str, name: str) -> Any:
    """Import a device file by its path. The file's own folder is where its imports are looked for, as for a script."""
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no such file", hint="A device of your own is given as PATH.py:Class.", value=path)
    path = os.path.abspath(path)
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # records look their annotations up there
    sys.path.insert(0, os.path.dirname(path))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(explain(f"{path}:{name}", error), value=path) from error
    if not hasattr(module, name):
        classes = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Device) and v.__module__ == spec.name
        ]
        hint = f"It has {', '.join(classes)}." if classes else "It defines no device."
        raise ConfigError(f"{path} has no class {name}", hint=hint, value=name)
    return getattr(module, name)


def explain(spec: str, error: BaseException) -> str:
    """An exception in a sentence; one that came through a device's own file begins with `PATH:LINE`."""
    path = os.path.abspath(spec.rpartition(":")[0]) if ".py:" in spec else ""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{path}:{line}: {what}" if path and line else what


def main() -> int:
    """`python -m devproc.registry SPEC`."""
    import json

    try:
        print(json.dumps(describe(sys.argv[1])))
    except ConfigError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
