"""`bulkhead serve`: one device, for a machine on another host whose relay calls (docs/relay.md).

The listening socket, a network card's cable and what the processes store are held by `launcher.served`, so that their
successors find them. The guest's requests come again from the relay.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from devproc.kept import KEPT_SIZE
from devproc.net.backend import parse_uri as parse_network
from launcher.keeper.network import default_address, open_capture, socket_cable
from launcher.keeper.windows import PROCESS, memory_of
from launcher.machine.description import NETWORK
from launcher.machine.options import Given
from launcher.machine.values import parse_device, parse_disk, parse_net, parse_share
from launcher.served import Life, Server
from launcher.trace.keys import server_keys
from proto.errors import ConfigError

__all__ = ["add_arguments", "run"]

PORT = 5757
PEER = "devproc.net.peer"  # the module of the process behind a card
WAITING = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("disk", nargs="?", metavar="URI[,KEY=VALUE]", help="a disk, as --disk of `run` takes it")
    parser.add_argument("--share", metavar="DIR,tag=TAG", help="a shared folder, as --share of `run` takes it")
    parser.add_argument("--net", metavar="URI[,KEY=VALUE]", help="a network card, as --net of `run` takes it")
    parser.add_argument("--device", metavar="X[,KEY=VALUE]", help="any other device, as --device of `run` takes it")
    parser.add_argument(
        "--listen", metavar="tcp://HOST:PORT", default=f"tcp://*:{PORT}", help="where (default: %(default)s)"
    )
    parser.add_argument("--keys", metavar="DIR", type=Path, required=True, help="of `bulkhead keys create`")
    parser.add_argument("--sandbox", choices=("on", "off", "require"), default="on", help="as for `run`")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    body = _describe(arguments) | {"sandbox": {"mode": arguments.sandbox}, "log_level": 20}
    public, secret, roles = server_keys(arguments.keys)
    known = [key for key, role in roles.items() if role == "control"]
    if not known:
        raise ConfigError(f"{arguments.keys} has no control.public", hint="Who has control.secret may use the device.")
    keys = memory_of("keys", [public, secret, *known])
    with _listen(arguments.listen) as listener, tempfile.TemporaryDirectory(prefix="bulkhead-serve-") as scratch:
        host, port = listener.getsockname()[:2]
        body["endpoint"] = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        if body["device"] == "blk":
            from devproc.blk.uri import name_overlays

            body["backend"] = name_overlays(body["backend"], f"{scratch}/disk")
        lent = {"listen": listener.fileno(), "keys": keys}
        lives = [] if body["device"] != NETWORK else _lay_cable(body, lent, arguments, Path(scratch))
        device = Life(PROCESS, body, lent, Path(scratch) / "log")
        return Server([*lives, device], f"{body['id']} is served at {body['endpoint']}").run()


def _describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What START says of the device. Raises ConfigError."""
    given = (arguments.disk, arguments.share, arguments.net, arguments.device)
    if sum(one is not None for one in given) != 1:
        raise ConfigError(
            "serve one thing: a disk's URI, --share, --net or --device", hint="For example: serve disk.img"
        )
    if arguments.net is not None:
        return _describe_card(Given(arguments.net, "--net", Path.cwd()), arguments.listen)
    if arguments.share is not None:
        share = parse_share(Given(arguments.share, "--share", Path.cwd()))
        id, device, backend, properties = share.id, share.device, share.directory, share.properties
    elif arguments.device is not None:
        device, id, properties = parse_device(Given(arguments.device, "--device", Path.cwd()))
        backend = str(properties.pop("backend", ""))
    else:
        backend, id, properties = parse_disk(Given(arguments.disk, "URI", Path.cwd()))
        device = "blk"
    return {"id": id or "device", "device": device, "backend": backend, "properties": properties}


def _describe_card(given: Given, listen: str) -> dict[str, Any]:
    from launcher.machine.plan import describe_device

    card = parse_net(given, describe_device(NETWORK)["properties"])
    here = [word.partition("=")[0] for word in str(given.value).split(",")[1:]]
    if wrong := [name for name in here if name in ("ip", "gateway", "window")]:
        raise ConfigError(f"--net {given.value}: {wrong[0]}= is for the host with the guest")
    id = card.id or "device"
    properties = {"mac": default_address(f"serve {listen}", id)} | card.properties
    return {"id": id, "device": NETWORK, "backend": card.uri, "properties": properties, "capture": card.capture}


def _lay_cable(body: dict[str, Any], lent: dict[str, int], arguments: argparse.Namespace, scratch: Path) -> list[Life]:
    """Lend a card what it needs besides; the life of the process behind it, if it needs one. Raises ConfigError."""
    lent["kept"] = os.memfd_create("kept", os.MFD_CLOEXEC)
    os.truncate(lent["kept"], KEPT_SIZE)
    if capture := body.pop("capture"):
        lent["capture"] = open_capture(capture)
    target = parse_network(body["backend"])
    if target.backend.descriptor:
        lent["frames"] = target.open()
        return []
    lent["frames"], theirs = socket_cable()
    start = {"id": f"{body['id']}.{target.scheme}", "machine": "", "backend": body["backend"], "log_level": 20}
    peer = Life(PEER, start | {"sandbox": {"mode": arguments.sandbox}}, {"frames": theirs}, scratch / "peer.log")
    return [peer]


def _listen(where: str) -> socket.socket:
    """The socket at tcp://HOST:PORT, where HOST may be *. Raises ConfigError."""
    scheme, _, place = where.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit():
        raise ConfigError(f"--listen {where}: not tcp://HOST:PORT", hint=f"For example: tcp://*:{PORT}")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(("" if host == "*" else host, int(port)), family=family, backlog=WAITING)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {where}: {getattr(error, 'strerror', None) or error}") from error
