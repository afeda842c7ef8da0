"""What a device must be able to reach, computed from its description before it runs: files, hosts, memory.

`needs_of(device, backend, properties)` follows a disk's URI through filters and overlays, reads the headers of qcow2
images for their backing chains (nothing else of them, and a bounded number), and gives rules for Landlock, targets for
the outlet (`devproc.outlet`) and the memory that its caches may take. The keeper computes it once for each backend, so
that a device that has been taken over cannot write itself a way to other files into its image's header: what the next
process may open was decided before.

It never fails: what is wrong with a description is the device's to say, in its own words.
"""

from __future__ import annotations

import contextlib
import os
import site
import ssl
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from proto.errors import BulkheadError

__all__ = ["Needs", "libraries", "needs_of", "needs_of_outlet", "needs_of_peer", "needs_of_relay", "needs_of_served"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("native", "proto", "devproc")
SYSTEM = (  # read by Python, the C library and OpenSSL themselves
    ("/lib", "read"),
    ("/lib64", "read"),
    ("/usr/lib", "read"),
    ("/usr/lib64", "read"),
    ("/usr/local/lib", "read"),
    ("/etc/ld.so.cache", "read"),
    ("/etc/localtime", "read"),
    ("/usr/share/zoneinfo", "read"),
    ("/sys/devices/system/cpu", "read"),
    ("/proc/sys/kernel/random/boot_id", "read"),
    ("/proc/self", "read"),
    ("/dev/null", "write"),
    ("/dev/zero", "read"),
    ("/dev/urandom", "read"),
)
RESOLVER = ("/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/usr/share/libc-bin")
CHAIN_MAX = 100  # images of one backing chain
LUKS_MEMORY = 4 << 30  # bytes: Argon2 takes as many as the disk's header says, cryptsetup at most so many
SERVED = {"directory": "served directory", "share": "served share"}  # profiles behind a relay; "served" for the others
SHARES = frozenset({"9p", "virtiofs", "v86fs"})
MEMORY = "memory:"  # what is shared instead of a directory; "": v86fs without a backend has such a tree too
NOTHING = frozenset({"net", "rng", "mailbox"})

Rule = tuple[str, str]  # a path, and a word of proto.confine.landlock.ACCESS


@dataclass
class Needs:
    """Plain values, so that a START packet can carry them."""

    profile: str = "device"  # of proto.confine.syscalls.PROFILES
    rules: list[Rule] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)  # directories that stay writable in a mount namespace
    create: list[str] = field(default_factory=list)  # overlays to be made if they are not there
    nameless: int = 0  # overlays without a file
    writes: bool = False  # files may grow without limit
    targets: list[str] = field(default_factory=list)  # of the outlet: tcp:HOST:PORT, unix:PATH, http://…
    memory: int = 0  # bytes beyond what any device may have

    def as_dict(self) -> dict[str, Any]:
        """For a packet."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Needs:
        """The inverse."""
        rules = [(str(path), str(word)) for path, word in values.get("rules", [])]
        return cls(**{**values, "rules": rules})


def needs_of(device: str, backend: str = "", properties: Mapping[str, Any] | None = None) -> Needs:
    """What a device of this kind needs."""
    given = dict(properties or {})
    if device == "relay":
        return needs_of_relay()
    needs = Needs()
    if device == "blk":
        _disk(needs, backend, _is_on(given.get("ro")))
    elif device in SHARES:
        _share(needs, backend, _is_on(given.get("ro")))
    elif device == "console":
        needs.profile = "console"
    elif device not in NOTHING:
        _own(needs, device, [backend, *given.values()])
    lent = device in ("net", "console")  # what it writes, a descriptor of the keeper's
    needs.writes = lent or needs.nameless > 0 or any(word in ("write", "tree") for _, word in needs.rules)
    return needs


def needs_of_relay() -> Needs:
    """What a relay needs: to connect, wherever its device is."""
    return Needs("relay", [(path, "read") for path in RESOLVER])


def needs_of_served(device: str, backend: str, properties: Mapping[str, Any] | None, outlet: bool) -> Needs:
    """What a device behind a relay needs, which is called at a socket that it is given; without an outlet, what it
    connects to it connects to by itself."""
    needs = needs_of(device, backend, properties)
    if needs.targets and not outlet:
        needs.profile = "relay"
        needs.rules += [(path, "read") for path in (*RESOLVER, *_certificates())]
        needs.targets = []
    else:
        needs.profile = SERVED.get(needs.profile, "served")
    return needs


def needs_of_peer(backend: str) -> Needs:
    """What the process behind a network card needs; its sockets are its own."""
    needs = Needs("peer", [(path, "read") for path in RESOLVER])
    scheme, _, rest = backend.partition(":")
    place = rest.partition(",")[0]
    if scheme == "hub":
        needs.create.append(os.path.abspath(f"{place}.lock"))
        needs.rules.append((needs.create[0], "write"))
    if scheme == "hub" or place.startswith("unix:"):
        needs.rules.append((os.path.dirname(os.path.abspath(place.removeprefix("unix:"))), "socket"))
    return needs


def needs_of_outlet() -> Needs:
    """What the process needs that connects for a disk."""
    return Needs("peer", [(path, "read") for path in (*RESOLVER, *_certificates())])


# -- disks -------------------------------------------------------------------------------------------------------------


def _disk(needs: Needs, text: str, read_only: bool) -> None:
    from devproc.blk.backend import split_options
    from devproc.blk.commit import base_of
    from devproc.blk.uri import parse_uri

    with contextlib.suppress(BulkheadError, OSError, ValueError):
        text, options = split_options(text)
        read_only = read_only or options.get("ro", "off") == "on"
        uri = parse_uri(text)
        values = uri.values()
        _named_files(needs, uri, values)
        if uri.scheme == "file":
            needs.rules.append((os.path.abspath(uri.target), "read" if read_only else "write"))
        elif uri.scheme == "luks":
            needs.rules.append((os.path.abspath(str(values["secret"])), "read"))
            needs.memory += LUKS_MEMORY
            _disk(needs, uri.target, read_only)
        elif uri.scheme == "qcow2":
            _image(needs, uri.target, read_only, bool(values["backing"]))
        elif uri.scheme == "mirror":
            _disk(needs, str(values["to"]), False)
            _disk(needs, uri.target, read_only)
        elif uri.scheme == "commit":
            _disk(needs, uri.target, read_only)
            _disk(needs, base_of(uri.target), False)
        elif uri.kind.overlay:
            _overlay(needs, str(values["overlay"]), read_only, uri.kind.target == "uri")
            if uri.kind.target == "uri":
                _disk(needs, uri.target, True)
            else:
                _remote(needs, uri.scheme, uri.target, values)
        elif uri.kind.target == "url":
            _remote(needs, uri.scheme, uri.target, values)
        else:
            _disk(needs, uri.target, read_only)


def _named_files(needs: Needs, uri: Any, values: Mapping[str, Any]) -> None:
    """Files that a parameter names, but for overlays: a filter's condition, a key."""
    from devproc.properties import FilePath, properties_of

    for name, declared in properties_of(uri.kind.load()).items():
        if declared.type is FilePath and name not in ("overlay", "certificates") and values.get(name):
            needs.rules.append((os.path.abspath(str(values[name])), "read"))


def _overlay(needs: Needs, path: str, read_only: bool, always: bool) -> None:
    """`always`: there is an overlay for a read-only disk too."""
    if read_only and not always:
        return
    if not path or (read_only and not os.path.exists(path)):
        needs.nameless += 1
        return
    needs.rules.append((os.path.abspath(path), "read" if read_only else "write"))
    if not read_only:
        needs.create.append(os.path.abspath(path))


def _remote(needs: Needs, scheme: str, target: str, values: Mapping[str, Any]) -> None:
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(f"{scheme}:{target}")
    if scheme in ("nbds", "nbds+unix"):
        needs.rules += [(path, "read") for path in _tls_files(values)]
    if scheme in ("nbd+unix", "nbds+unix"):
        needs.targets.append(f"unix:{parse_qs(parts.query).get('socket', [''])[0]}")
    elif scheme in ("nbd", "nbds"):
        needs.targets.append(f"tcp:{parts.hostname}:{parts.port or 10809}")
    else:
        needs.targets.append(f"{scheme}:{target}")
        needs.memory += int(values["cache"])
        trusted = _tls_files(values) if scheme == "https" else _certificates()  # http may be redirected to https
        needs.rules += [(path, "read") for path in trusted]


def _image(needs: Needs, target: str, read_only: bool, chain: bool) -> None:
    """A qcow2 image and what it stands on."""
    from devproc.blk.uri import parse_uri

    uri = parse_uri(target)
    if uri.scheme != "file" or uri.given:
        _disk(needs, target, read_only)
        return
    path: str | None = os.path.abspath(uri.target)
    for _ in range(CHAIN_MAX):
        if path is None:
            return
        needs.rules.append((path, "read" if read_only else "write"))
        path = _below(needs, path) if chain else None
        read_only = True


def _below(needs: Needs, path: str) -> str | None:
    """The image that a qcow2 image stands on, if its header is to be read too; its needs are noted if not."""
    from devproc.blk.qcow2 import BACKING_SCHEMES
    from devproc.blk.qcow2_format import MAGIC, read_header
    from devproc.blk.store import Peek
    from devproc.blk.uri import parse_uri

    with Peek(path) as peek:
        header = read_header(peek, os.path.basename(path))  # type: ignore[arg-type]
    if not header.backing or header.backing.startswith("json:"):
        return None
    uri = parse_uri(header.backing)
    if uri.scheme not in BACKING_SCHEMES:
        return None
    if uri.scheme != "file":
        _disk(needs, header.backing, True)
        return None
    below = os.path.abspath(os.path.join(os.path.dirname(path), uri.target))
    if header.backing_format not in ("", "qcow2"):
        needs.rules.append((below, "read"))
        return None
    with Peek(below) as peek:
        if header.backing_format == "qcow2" or peek.read(0, 4) == MAGIC:
            return below
    needs.rules.append((below, "read"))
    return None


# -- the others --------------------------------------------------------------------------------------------------------


def _share(needs: Needs, directory: str, read_only: bool) -> None:
    needs.profile = "share"
    if directory in ("", MEMORY):
        needs.nameless += 1
        return
    path = os.path.abspath(directory)
    needs.rules.append((path, "read" if read_only else "tree"))
    if not read_only:
        needs.writable.append(path)


def _own(needs: Needs, spec: str, values: list[Any]) -> None:
    """A device of somebody's own: its Python files, and what its backend or a property names by an absolute path."""
    if ".py:" in spec:
        needs.rules += _sources(Path(os.path.abspath(spec.rpartition(":")[0])))
    for value in values:
        path = value.removeprefix("file:") if isinstance(value, str) else ""
        if not os.path.isabs(path) or not os.path.exists(path):
            continue
        if os.path.isdir(path):
            needs.profile = "directory"
            needs.rules.append((path, "tree"))
        else:
            needs.rules.append((path, "write"))


def _sources(path: Path) -> Iterator[Rule]:
    """The file, the modules beside it and the packages, which it may import; of the rest of its folder, the names.
    Beside a device there may be anything: other disks, or the user's home."""
    yield str(path), "read"
    yield str(path.parent), "list"
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.endswith((".py", ".so")) or os.path.isfile(os.path.join(entry.path, "__init__.py")):
                yield entry.path, "read"


@cache
def libraries() -> tuple[Rule, ...]:
    """What any process of Python reads: the interpreter's and the system's libraries, and this project's."""
    from native.cache import directory as native_cache

    paths = [sysconfig.get_path(name) or "" for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), *(path for path in sys.path if path)]
    inside = [os.path.abspath(path) for path in paths if path and Path(path).resolve() != ROOT]
    own = [str(ROOT / name) for name in PACKAGES]
    rules = [(path, "read") for path in dict.fromkeys([*own, *inside, str(native_cache())]) if os.path.exists(path)]
    return (*SYSTEM, (str(ROOT), "list"), *rules)


@cache
def _certificates() -> tuple[str, ...]:
    """Where OpenSSL looks for whom to trust."""
    paths = ssl.get_default_verify_paths()
    found: list[str | None] = [
        paths.cafile,
        paths.capath,
        paths.openssl_cafile,
        paths.openssl_capath,
        "/etc/ssl",
        "/etc/pki",
    ]
    found += [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    return tuple(dict.fromkeys(path for path in found if path and os.path.exists(path)))


def _tls_files(values: Mapping[str, Any]) -> list[str]:
    """What encryption reads: OpenSSL's configuration, and of a directory with certificates what is a client's, not the
    server's key that may lie beside it."""
    from devproc.blk.tls import CERTIFICATES

    directory = os.path.abspath(str(values["certificates"])) if values["certificates"] else ""
    own = [os.path.join(directory, name) for name in CERTIFICATES] if directory else []
    return [*_certificates(), *(path for path in own if os.path.exists(path))]


def _is_on(value: Any) -> bool:
    return value is True or str(value).lower() in ("on", "yes", "true", "1")
