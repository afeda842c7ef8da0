"""Packages of another architecture and release through the host's own apt, which does not notice.

apt runs with a configuration file of ours, read after the host's: lists, archives, package status and sources are in a
private directory, hooks are off, the architecture is riscv64. What stays the host's is what knows how to reach its
mirror: methods, proxies, certificates, credentials. The mirror itself is taken from the host's sources, whichever way
they are written, by asking apt (`apt-get indextargets`). Signatures are checked with the host's archive keyring, or,
where that one is older than the release wanted, with the one of the host's own, signed, debian-archive-keyring package.

Promises: nothing outside the directory is written; an interrupted download goes on where it was (where the mirror can);
what is returned was checked against the signed index. Does not: install anything, or follow dependencies.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launcher.images.errors import ImagesError, SignatureError

__all__ = ["KEYRINGS", "Apt", "Package", "Progress", "Source"]
__all__ += ["debian_mirrors", "host_architecture", "members", "require_tools"]

Progress = Callable[[str, float | None], None]  # what is being done, and how far it is (0..1), where that is known

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)

# Names under which Debian's main archive is listed. Updates, security and backports live beside it and are not needed.
MAIN_SUITES = frozenset(
    ("oldoldstable", "oldstable", "stable", "testing", "unstable", "bullseye", "bookworm", "trixie", "forky", "sid")
)

ROOM = 1 << 20  # bytes; an apt that has failed where less is left has failed for that

CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update;
#clear DPkg;
#clear Dir::Etc::parts;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Check-Valid-Until "true";
Acquire::AllowInsecureRepositories "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{directory}";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::State::extended_states "{directory}/extended_states";
Dir::Cache "{directory}";
Dir::Cache::archives "{directory}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Log "{directory}";
"""


# An installed package, as far as our apt knows, that is everything the wanted ones depend on.
STATUS = """\
Package: bulkhead-host
Status: install ok installed
Architecture: all
Version: 1
Maintainer: nobody
Provides: {provides}
Description: stands for what the packages depend on; only their files are wanted
"""


@dataclass(frozen=True)
class Source:
    """One line of a sources.list: where, which release, and the keyring its signature is checked with.

    A mirror on this host's disk ("file:") is copied from, like one on the network: apt would use its files in place."""

    uri: str
    suite: str
    keyring: Path | None = None

    def line(self) -> str:
        options = f"[signed-by={self.keyring}] " if self.keyring else ""
        uri = f"copy:{self.uri.removeprefix('file:')}" if self.uri.startswith("file:") else self.uri
        return f"deb {options}{uri} {self.suite} main\n"


@dataclass(frozen=True)
class Package:
    """What the index says of a package."""

    name: str
    version: str
    architecture: str
    depends: tuple[str, ...]
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The name apt gives the file it downloads: the version's colon is escaped, as in a URI."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def debian_mirrors() -> list[Source]:
    """The Debian archives this host's apt uses, as (uri, suite) without keyring; empty on a host that has none.

    Where the host has fetched its lists, apt knows whose archive each is. Where not (a fresh container), a source
    counts as Debian's when its suite is one of Debian's and it has a component `main`."""
    fetched = [source for source, origin in _sources() if origin == "Debian"]
    return fetched or [source for source, _ in _sources("--no-release-info")]


def _sources(*options: str) -> dict[tuple[Source, str], None]:
    """The host's sources of a main archive, with the origin their Release file gives; each once, in order."""
    fields = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    answer = _run(["apt-get", "indextargets", *options, "--format", fields, "Created-By: Packages"])
    rows = [line.split("|", 3) for line in answer.splitlines()]
    found = {
        (Source(site, suite), origin): None
        for site, suite, component, origin in rows
        if component == "main" and suite in MAIN_SUITES
    }
    return found


class Apt:
    """An apt of our own in `directory`, for one architecture, with the given sources."""

    def __init__(self, directory: Path, architecture: str, sources: Sequence[Source]) -> None:
        require_tools()
        self.directory = directory.absolute()
        self.architecture = architecture
        self.sources = tuple(sources)
        self._configuration = self.directory / "apt.conf"

    def update(self, progress: Progress) -> None:
        """Fetch and check the package index. Raises ImagesError with apt's own words."""
        self._prepare()
        self._apt("update", progress=progress, what="package index")

    def show(self, *names: str) -> dict[str, Package]:
        """The newest version of each package, by name. Raises ImagesError where the index has none."""
        found = {}
        answer = _run(["apt-cache", "-c", str(self._configuration), "show", "--no-all-versions", *names])
        for stanza in answer.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
            if fields:
                found[fields["Package"]] = _package(fields)
        for name in names:
            if name not in found:
                raise ImagesError(f"the mirror has no package {name} for {self.architecture}")
        return found

    def download(self, packages: Sequence[Package], progress: Progress) -> list[Path]:
        """The packages' files, in the order asked for; what is already there, even in part, is not fetched again."""
        # `apt-get download` starts again after an interruption, `install --download-only` goes on; but it wants
        # dependencies, so they are declared to be there.
        own = {package.name for package in packages}
        provided = sorted({name for package in packages for name in package.depends} - own)
        provides = ", ".join(f"{name} (= 9999:0)" for name in provided)
        (self.directory / "status").write_text(STATUS.format(provides=provides or "nothing"))
        what = ", ".join(package.name for package in packages)
        names = [f"{package.name}={package.version}" for package in packages]
        self._apt("install", "--yes", "--download-only", *names, progress=progress, what=what)
        return [self.directory / "archives" / package.file_name for package in packages]

    def _prepare(self) -> None:
        for name in ("lists/partial", "archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        (self.directory / "sources.list").write_text("".join(source.line() for source in self.sources))
        self._configuration.write_text(CONFIGURATION.format(directory=self.directory, architecture=self.architecture))

    def _apt(self, verb: str, *arguments: str, progress: Progress, what: str) -> None:
        read_end, write_end = os.pipe()
        command = [
            "apt-get",
            "-q",
            "-c",
            str(self._configuration),
            "-o",
            f"APT::Status-Fd={write_end}",
            verb,
            *arguments,
        ]
        with contextlib.ExitStack() as stack:
            status = stack.enter_context(os.fdopen(read_end, encoding="utf-8", errors="replace"))
            errors = stack.enter_context(open(self.directory / "errors.log", "w+", encoding="utf-8", errors="replace"))
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self.directory / "archives",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[write_end],
                    env=_environment(),
                    process_group=0,
                )
            finally:
                os.close(write_end)
            try:
                _report(status, what, progress)
                code = process.wait()
            finally:
                if process.poll() is None:
                    # All of apt, as Ctrl-C would: its methods then date what they have, so that it can be gone on with.
                    os.killpg(process.pid, signal.SIGINT)
                    process.wait()
            errors.seek(0)
            complaints = errors.read()
        # apt calls a list that it could not fetch a warning, and goes on with an older one or none.
        failed = re.findall(r"^(?:E|W): ((?:Failed to fetch|GPG error|The repository|Some index).*)$", complaints, re.M)
        if code or failed:
            if shutil.disk_usage(self.directory).free < ROOM:  # apt itself may have found no place to say so
                complaints += "\nE: No space left on device"
            raise _failure(verb, code, complaints)


def members(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The regular files of a package whose path (no leading slash) is wanted, in the archive's order."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    if member.isreg() and wanted(path):
                        content = archive.extractfile(member)
                        assert content is not None
                        yield path, content.read()
            process.stdout.read()
        except tarfile.TarError as error:
            raise ImagesError(f"{package.name} is damaged: {error}", hint="bulkhead images --clean") from error
        finally:
            if process.poll() is None and process.stdout.read(1):
                process.terminate()
        complaint = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise ImagesError(f"{package.name} cannot be unpacked: {complaint}", hint="bulkhead images --clean")


def host_architecture() -> str:
    """Debian's name for the host's architecture."""
    return _run(["dpkg", "--print-architecture"]).strip()


def require_tools() -> None:
    """Raise ImagesError that names the first tool of apt's that this host lacks."""
    for name in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        if shutil.which(name) is None:
            raise ImagesError(
                f"this host has no {name}: the Debian guest is fetched through Debian's own apt",
                hint="The bundled guest needs nothing: bulkhead run --guest bundled",
            )


def _package(fields: dict[str, str]) -> Package:
    """A package from its stanza in the index."""
    depends = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"
    names = tuple(part.split()[0] for part in re.split(r"[,|]", depends) if part.split())
    size = int(fields["Size"])
    return Package(fields["Package"], fields["Version"], fields["Architecture"], names, size, fields["SHA256"])


def _report(status: IO[str], what: str, progress: Progress) -> None:
    """Turn apt's status lines (`dlstatus:item:percent:text`) into progress until apt closes the descriptor."""
    progress(what, 0.0)
    for line in status:
        kind, _, rest = line.partition(":")
        fields = rest.split(":")
        if kind == "dlstatus" and len(fields) >= 2:
            with contextlib.suppress(ValueError):
                progress(what, float(fields[1]) / 100)
    progress(what, 1.0)


def _failure(verb: str, code: int, complaints: str) -> ImagesError:
    """What apt's complaints come down to, for a person."""
    lines = [line[3:].strip() for line in complaints.splitlines() if line.startswith(("E: ", "W: "))]
    first = lines[0] if lines else f"apt-get {verb} failed with status {code}"
    unreachable = (
        r"Temporary failure resolving|Could not resolve|Could not connect|Connection failed|timed out|Network is"
    )
    if re.search(unreachable, complaints):
        return ImagesError(
            f"the Debian mirror does not answer: {first}", hint="Is there a network? Try: apt-get update"
        )
    if re.search("NO_PUBKEY|not signed|Missing key|no longer valid|BADSIG|EXPKEYSIG", complaints):
        return SignatureError(
            f"the mirror's signature cannot be checked: {first}", hint="Update debian-archive-keyring."
        )
    if "No space left" in complaints:
        return ImagesError(f"the disk is full: {first}", hint="The Debian guest needs about 600 MB in the cache.")
    return ImagesError(f"apt: {first}")


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment(), check=False
    )
    if result.returncode:
        complaint = result.stderr.strip().splitlines()[-1:] or [f"status {result.returncode}"]
        raise ImagesError(f"{command[0]}: {complaint[0]}")
    return result.stdout


def _environment() -> dict[str, str]:
    """The caller's own, for proxies and certificates, with messages that can be read by a program."""
    return {**os.environ, "LC_ALL": "C"}
