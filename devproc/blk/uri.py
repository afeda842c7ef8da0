"""The language in which a disk's backend is named: one line, read from the left, each word standing on what follows.

    URI     = PATH | SCHEME ":" { NAME "=" VALUE ":" } TARGET
    TARGET  = PATH | "//" REST of a URL | URI, as the scheme wants it

    disk.img                                           a raw image
    qcow2:disk.qcow2                                   another format
    delay:ms=5:op=read:file:disk.img                   a filter with two parameters on a raw image
    snapshot:overlay=today.ovl:qcow2:disk.qcow2        an overlay on a qcow2 image
    http:cache=16M://example.org/disk.img              a URL; parameters stand before the two slashes

In a VALUE, %XX is the byte XX: %3A a colon, %25 a percent sign. A PATH that begins like a scheme or a parameter is
written with ./ before it. Unknown schemes and parameters are ConfigErrors that suggest the right one.
"""

from __future__ import annotations

import difflib
import importlib
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from devproc.properties import FilePath, parse_properties, properties_of
from proto.errors import ConfigError

__all__ = ["SCHEMES", "Scheme", "Uri", "absolute", "files", "is_qcow2", "name_overlays", "parse_uri", "storage"]


@dataclass(frozen=True)
class Scheme:
    """One kind of backend: the class that declares its parameters and opens it, and what its target is."""

    where: str  # MODULE:CLASS, in this package
    target: str  # path, url or uri
    summary: str
    overlay: bool = False  # what is written goes to the file of its parameter `overlay`

    def load(self) -> Any:
        """The class."""
        module, name = self.where.split(":")
        return getattr(importlib.import_module(f"devproc.blk.{module}"), name)


SCHEMES = {
    "file": Scheme("file:FileBackend", "path", "a raw image or block device"),
    "qcow2": Scheme("qcow2:Qcow2", "uri", "a qcow2 image, with its backing chain"),
    "luks": Scheme("luks:Luks", "uri", "an encrypted disk, LUKS1 or LUKS2: luks:secret=FILE:URI"),
    "snapshot": Scheme("snapshot:Snapshot", "uri", "writes go to an overlay, what is below stays as it is", True),
    "http": Scheme("http:Http", "url", "a file, or a split disk (…/blk.txt), on a web server", True),
    "https": Scheme("http:Https", "url", "the same, encrypted", True),
    "nbd": Scheme("nbd:Nbd", "url", "a network block device: nbd://HOST[:PORT][/EXPORT]"),
    "nbd+unix": Scheme("nbd:NbdUnix", "url", "the same on a Unix socket: nbd+unix:///[EXPORT]?socket=PATH"),
    "nbds": Scheme("nbd:Nbds", "url", "nbd:, encrypted: nbds:certificates=DIR://HOST[:PORT][/EXPORT]"),
    "nbds+unix": Scheme("nbd:NbdsUnix", "url", "nbd+unix:, encrypted: nbds+unix:certificates=DIR:///?socket=PATH"),
    "remote": Scheme(
        "remote:Remote", "url", "a disk of another host's `bulkhead serve`: remote:keys=DIR://HOST[:PORT]"
    ),
    "copy-on-read": Scheme("copy_on_read:CopyOnRead", "uri", "a snapshot that also keeps what was read", True),
    "mirror": Scheme("mirror:Mirror", "uri", "is copied to another disk meanwhile: `bulkhead mirror`"),
    "commit": Scheme("commit:Commit", "uri", "an overlay that is written to what it stands on: `bulkhead commit`"),
    "log": Scheme("filters:Log", "uri", "writes a line a request to the device's log"),
    "delay": Scheme("filters:Delay", "uri", "requests take longer"),
    "error": Scheme("filters:Error", "uri", "requests fail"),
    "rate": Scheme("filters:Rate", "uri", "limits bytes and requests a second"),
    "throttle": Scheme("filters:Rate", "uri", "the same, by QEMU's name"),
    "pause": Scheme("filters:Pause", "uri", "requests wait while a file exists"),
}
_SCHEME = re.compile(r"([a-z][a-z0-9+-]*):")
_PARAMETER = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=([^:]*):")


@dataclass(frozen=True)
class Uri:
    """One parsed word and the text of its target."""

    scheme: str
    given: Mapping[str, str]
    target: str

    def __str__(self) -> str:
        words = [f"{name}={_quote(value)}:" for name, value in self.given.items()]
        plain = self.kind.target == "path" and _PARAMETER.match(self.target)
        return f"{self.scheme}:{''.join(words)}{'./' if plain else ''}{self.target}"

    @property
    def kind(self) -> Scheme:
        """What the scheme is."""
        return SCHEMES[self.scheme]

    def values(self) -> dict[str, Any]:
        """All parameters, parsed. Raises ConfigError."""
        cls = self.kind.load()
        for name in self.given:
            if name not in properties_of(cls):
                hint = f"A path that begins like that is written ./{name}=…" if self.kind.target == "path" else ""
                raise _unknown(f"{self.scheme}: has no parameter {name}", name, properties_of(cls), hint)
        try:
            return parse_properties(cls, self.given, f"{self.scheme}:")
        except ConfigError as error:
            raise ConfigError(error.message, hint=f"For example: {_EXAMPLES[self.scheme]}") from error


def parse_uri(text: str) -> Uri:
    """The first word of `text`. Raises ConfigError for a scheme that does not exist."""
    found = _SCHEME.match(text)
    if found is None:
        return Uri("file", {}, text)
    scheme, rest = found[1], text[found.end() :]
    if scheme not in SCHEMES:
        hint = f"A path with a colon is written file:{text}. Schemes: {', '.join(SCHEMES)}."
        raise _unknown(f"{text}: there is no scheme {scheme}:", scheme, SCHEMES, hint)
    given: dict[str, str] = {}
    while (parameter := _PARAMETER.match(rest)) is not None:
        if parameter[1] in given:
            raise ConfigError(f"{scheme}: {parameter[1]}= is given twice")
        given[parameter[1]] = urllib.parse.unquote(parameter[2])
        rest = rest[parameter.end() :]
    if not rest:
        raise ConfigError(
            f"the disk {text!r} names no {SCHEMES[scheme].target}", hint=f"For example: {_EXAMPLES[scheme]}"
        )
    if SCHEMES[scheme].target == "url" and not rest.startswith("//"):
        raise ConfigError(f"{text}: a URL has two slashes", hint=f"For example: {_EXAMPLES[scheme]}")
    return Uri(scheme, given, rest)


_EXAMPLES = {name: f"{name}:disk.img" for name in SCHEMES} | {
    "luks": "luks:secret=passphrase.txt:disk.luks",
    "delay": "delay:ms=20:op=read:disk.img",
    "error": "error:percent=1:start=1M:end=2M:disk.img",
    "rate": "rate:bytes=10M:requests=500:disk.img",
    "throttle": "throttle:bytes=10M:requests=500:disk.img",
    "pause": "pause:when=held:disk.img",
    "copy-on-read": "copy-on-read:overlay=copy.ovl:disk.img",
    "http": "http://localhost:8000/disk.img",
    "https": "https://example.org/disk.img",
    "nbd": "nbd://localhost/",
    "remote": "remote:keys=keys://server:5757",
    "nbd+unix": "nbd+unix:///?socket=/run/nbd.sock",
    "nbds": "nbds:certificates=pki://server/",
    "nbds+unix": "nbds+unix:certificates=pki:///?socket=/run/nbd.sock",
}


def absolute(text: str, resolve: Callable[[str], str]) -> str:
    """The same URI with every path, in parameters too, as `resolve` gives it. Raises ConfigError for anything that is
    wrong with its grammar, its schemes or its parameters, at every level, and for a bare path to a qcow2 image on which
    something is to stand: what an image is, is said and never guessed."""
    uri = parse_uri(text)
    uri.values()
    declared = properties_of(uri.kind.load())
    given = {name: resolve(value) if declared[name].type is FilePath else value for name, value in uri.given.items()}
    target = uri.target
    if uri.kind.target == "path":
        target = resolve(target)
    elif uri.kind.target == "uri":
        if uri.scheme != "qcow2" and _SCHEME.match(target) is None and is_qcow2(resolve(target)):
            hint = f"Write qcow2:{target} there; its very bytes as a disk would be file:{target}."
            raise ConfigError(f"{target} is a qcow2 image, not a raw one", hint=hint)
        target = absolute(target, resolve)
    return str(Uri(uri.scheme, given, target))


def is_qcow2(path: str) -> bool:
    """Does a file begin like a qcow2 image? False when it cannot be read: whoever opens it says what is wrong."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"QFI\xfb"
    except OSError:
        return False


def name_overlays(text: str, path: str) -> str:
    """The same URI, in which every overlay that has no file has one: `path` and a number. What is written then lives
    as long as those files, and not only as long as a process."""
    uri = parse_uri(text)
    if uri.kind.target == "path":
        return text
    given, target = dict(uri.given), uri.target
    if uri.kind.target == "uri":
        target = name_overlays(target, f"{path}+")
    if uri.kind.overlay and not given.get("overlay"):
        given["overlay"] = f"{path}.overlay"
    return str(Uri(uri.scheme, given, target))


def storage(text: str, *, overlays: bool = True) -> frozenset[str]:
    """The files and URLs that stand at the ends of a URI: what two processes must not have open at once if one of them
    writes."""
    uri = parse_uri(text)
    found = {uri.given["overlay"]} if overlays and uri.given.get("overlay") else set()
    if uri.scheme == "mirror":
        found |= storage(uri.given.get("to", ""), overlays=overlays)
    if uri.kind.target == "uri":
        return frozenset(found | storage(uri.target, overlays=overlays))
    return frozenset(found | {uri.target.split(",")[0]})


def files(text: str, read_only: bool) -> list[tuple[str, bool]]:
    """The local files that a disk's URI opens, and whether to be written: images and overlays, no backing chains."""
    uri = parse_uri(text)
    if uri.kind.target == "path":
        return [(uri.target, not read_only)]
    found = [(uri.given["overlay"], not read_only)] if uri.kind.overlay and uri.given.get("overlay") else []
    if uri.kind.target == "uri":
        found += files(uri.target, read_only or uri.kind.overlay)
    return found


def _quote(value: str) -> str:
    return value.replace("%", "%25").replace(":", "%3A")


def _unknown(message: str, name: str, known: Mapping[str, Any], hint: str) -> ConfigError:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if close:
        return ConfigError(f"{message}; did you mean {close[0]}?", hint=hint)
    return ConfigError(message, hint=hint or (f"It has: {', '.join(known)}." if known else "It has none."))
