"""Long runs of other people's programs on shared folders: `python tests/share_runs.py fsstress|pjdfstest|tree|work …`.

    fsstress BINARY     rounds on 9P, virtio-fs and the guest's tmpfs with the same seeds, the shares' processes killed
                        every few seconds; after each round all three trees must be equal, and equal to the host's
    pjdfstest SUITE     every file of tests on one protocol; a line for each that has failures, and which
    tree DIRECTORY      copied into the guest and out again by both protocols, with owners and modes changed meanwhile;
                        contents, modes, owners and times must be equal
    work DISK REPO      cloned, built, checked, committed, pushed and packed with the programs of a disk, by both
                        protocols at once, the shares' processes killed; files and commits must be equal

docs/testing.md says how to build them. Nothing of what is foreign is part of this repository. The exit code says
whether all was as it must be (of pjdfstest: whether it ran to its end; docs/shares.md has what deviates).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-P", "-m", "launcher"]
PAUSES = (2.0, 7.0)  # seconds between two kills
LONG_PAUSES = (10.0, 30.0)
SHOWN = 10  # differences
PROTOCOLS = {"a": "9p", "b": "virtiofs"}  # by the tag of their shares
Listing = dict[str, list[str]]  # of each name what must be equal

# What a guest tells of a tree, asking for each name as seldom as can be: NAME|KIND|… of all, and the sums of files.
TELL = """
tell() { # DIRECTORY FILE
    cd "$1" || exit 1
    find . -exec stat -c '%n|%F|%a|%u|%g|%s|%h|%t,%T|%Y|%N' {} + -type f -exec md5sum {} + >"$2.new" && mv "$2.new" "$2"
    cd /
}
"""
STRESS = """
mkdir -p /root/mem; mount -t tmpfs none /root/mem
echo ready
while read -r seed && [ "$seed" != end ]; do
    for place in /mnt/a /mnt/b /root/mem; do
        mkdir $place/s
        /mnt/tools/{program} -c -d $place/s -n {operations} -p {processes} -l 1 -s $seed >/dev/null 2>&1 &
    done
    wait
    for place in /mnt/a /mnt/b /root/mem; do tell $place/s /mnt/out/$(basename $place) & done
    wait
    echo listed; read -r go
    for place in /mnt/a /mnt/b /root/mem; do rm -rf $place/s || echo "rm fails in $place"; done
done
"""
SUITE = """
grep -q ^nobody: /etc/passwd || echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd
grep -q ^nobody: /etc/group || echo nobody:x:65534: >>/etc/group
mkdir /root/bin; printf '#!/bin/sh\nmd5sum | cut -c1-32\n' >/root/bin/openssl; chmod +x /root/bin/openssl
export PATH=/root/bin:$PATH # all that the suite wants of openssl is names
cp -r /mnt/tools /root/suite; mkdir /mnt/a/work /root/said; cd /mnt/a/work; chmod 777 .
for file in /root/suite/tests/*/*.t; do
    sh $file >/root/said/out 2>/root/said/error </dev/null
    status=$? bad=$(grep '^not ok' /root/said/out | grep -vc TODO) todo=$(grep '^not ok' /root/said/out | grep -c TODO)
    plan=$(grep -m 1 '^1\\.\\.' /root/said/out) ok=$(grep -c '^ok' /root/said/out)
    echo "${file#/root/suite/tests/} $plan ok $ok bad $bad todo $todo status $status" >>/mnt/out/said
    grep '^not ok' /root/said/out >>/mnt/out/said
done
echo finished
"""
COPY = """
mkdir -p /root/mem; mount -t tmpfs -o size=90%,nr_inodes=1m none /root/mem
pipe() {
    begun=$(date +%s); cp -a /mnt/in$1 /root/mem/$1 || echo "cp into the guest by $1 fails"
    echo "$1: in after $(($(date +%s) - begun)) s"; cd /root/mem/$1
    find . -type f -name '*a*' -exec chown 1000:1001 {} +; find . -type f -name '*b*' -exec chmod 4750 {} +
    find . -type d -name '*c*' -exec chmod 2775 {} +
    find . -type f -name '*d*' -exec touch -d '2001-02-03 04:05:06' {} +
    begun=$(date +%s); cp -a /root/mem/$1 /mnt/$1/s || echo "cp out of the guest by $1 fails"
    echo "$1: out after $(($(date +%s) - begun)) s"
    tell /root/mem/$1 /mnt/out/mem-$1; tell /mnt/$1/s /mnt/out/$1
}
pipe a & pipe b & wait
echo finished
"""
WORK = """
root=/mnt/disk; mkdir -p $root; mount -t ext4 /dev/vdb $root
for place in proc dev; do mount --bind /$place $root/$place; done
mount -t tmpfs none $root/tmp; mkdir -p $root/mnt/a $root/mnt/b
for tag in a b; do mount --bind /mnt/$tag $root/mnt/$tag; cp -r /mnt/tools /mnt/$tag/store; done
cat >$root/tmp/work <<'X'
export HOME=/tmp PATH=/usr/bin:/bin GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='2026-01-01 00:00:00 +0000'
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
step() { # NAME COMMAND
    begun=$(date +%s) name=$1; shift
    sh -e -c "$*" >/tmp/$tag-$name 2>&1 </dev/null; status=$?
    echo "$tag: $name: status $status after $(($(date +%s) - begun)) s"
    [ $status = 0 ] || { tail -n 5 /tmp/$tag-$name; exit 1; }
}
tag=$1; cd /mnt/$tag || exit 1
step clone 'git clone -q --no-local store work'; cd work
step build {build}
step check {check}
step commit 'git checkout -q -b ours; echo more >>README; git add -A -f; git commit -q -m ours; git push -q origin ours'
step clean 'git checkout -q -; [ -z "$(git status --porcelain --ignored)" ]; git checkout -q ours'
step again 'git clone -q --no-local -b ours ../store ../again; diff -r -x .git . ../again; rm -rf ../again'
step pack 'git gc -q'
step fsck 'git fsck --full --strict --no-progress; git -C ../store fsck --strict --no-progress'
step status '[ -z "$(git status --porcelain --ignored)" ]; git rev-parse HEAD >../head; mv .git ../git'
X
echo ready; read -r go
for tag in a b; do
    { chroot $root /bin/sh /tmp/work $tag; cp /mnt/$tag/head /mnt/out/head-$tag; tell /mnt/$tag/work /mnt/out/$tag; } &
done; wait
echo finished
"""


class Guest:
    """A Debian guest that runs a script, with shares `a` (9P), `b` (virtio-fs), `out` and `tools`."""

    def __init__(self, place: Path, tools: Path, script: str, *more: str, only: str = "") -> None:
        self.name = f"share-runs-{os.getpid()}"
        shares = []
        for tag, protocol in ({"a": only} if only else PROTOCOLS).items():
            (place / tag).mkdir()
            shares.append(f"--share={place / tag},tag={tag},proto={protocol}")
        (place / "out").mkdir()
        shares += [f"--share={place / 'out'},tag=out", f"--share={tools},tag=tools,ro"]
        words = ["run", "--name", self.name, "-m", "1200M", *shares, *more, "--", "sh", "-c", TELL + script]
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def until(self, word: str) -> None:
        """Show what it says up to this. Raises RuntimeError when it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
            print(f"guest: {line.rstrip()}", flush=True)
        raise RuntimeError(f"the guest has ended with status {self.process.wait()}")

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def kill_a_share(self, id: str) -> bool:
        """kill -9. False when it is just not there, or has not served since the last time: so the guest gets on."""
        words = [*COMMAND, "ps", "--json", "--machine", self.name]
        seen = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        with contextlib.suppress(ValueError, ProcessLookupError):
            for row in json.loads(seen.stdout)["processes"]:
                if row["id"] == id and row["state"] == "running":
                    os.kill(row["pid"], signal.SIGKILL)
                    return True
        return False

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()


class Killer:
    """Kills the shares' processes while it is `at_work`."""

    def __init__(self, guest: Guest, pauses: tuple[float, float] = PAUSES) -> None:
        self.kills = {"fs0": 0, "fs1": 0}
        self.at_work = threading.Event()
        self._guest, self._pauses = guest, pauses
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        choose = random.Random(1)
        while not self._end.wait(choose.uniform(*self._pauses)):
            id = choose.choice(sorted(self.kills))
            if self.at_work.is_set() and self._guest.kill_a_share(id):
                self.kills[id] += 1

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


# -- trees, as guest and host see them ---------------------------------------------------------------------------------


def told(path: Path, *, times: bool) -> Listing:
    """What `tell` has written: kind, mode, owner, group, size, links, device, a time if wanted, and a target or a sum.
    The size of a directory is its file system's business, and of a link its target is enough."""
    seen, sums = {}, {}
    for line in path.read_text().splitlines():
        if "|" in line:
            name, *fields, quoted = line.split("|")
            if fields[0] == "directory":
                fields[4] = fields[6] = ""
            elif fields[0] == "symbolic link":
                fields = [fields[0], "", "", "", "", fields[5], "", ""]
            seen[name] = fields if times else fields[:-1]
            seen[name] += [target.strip("'") for target in quoted.split(" -> ")[1:]]
        else:
            sum, _, name = line.partition("  ")
            sums[name] = sum
    return {name: [*fields, sums[name]] if name in sums else fields for name, fields in seen.items()}


def plain(listing: Listing) -> Listing:
    """Of what the guest has told that which the host sees as well."""
    kinds = {"directory": "directory", "symbolic link": "link"}
    return {
        name: [kinds.get(kind, "file"), size, *rest] for name, (kind, _, _, _, size, _, _, *rest) in listing.items()
    }


def of_the_host(directory: Path) -> Listing:
    """The same of a directory here."""
    seen: Listing = {".": ["directory", ""]}
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in folders + files):
            status, name = path.lstat(), f"./{path.relative_to(directory)}"
            if stat.S_ISDIR(status.st_mode):
                seen[name] = ["directory", ""]
            elif stat.S_ISLNK(status.st_mode):
                seen[name] = ["link", "", os.readlink(path)]
            elif stat.S_ISREG(status.st_mode):
                seen[name] = ["file", str(status.st_size), hashlib.md5(path.read_bytes()).hexdigest()]
            else:
                seen[name] = ["file", "0"]
    return seen


def differences(what: str, one: Listing, other: Listing) -> int:
    """How many names differ; the first ones are shown. What is no regular file has no sum in the guest."""
    names = sorted(one.keys() | other.keys())
    bad = [name for name in names if not _equal(one.get(name), other.get(name))]
    for name in bad[:SHOWN]:
        print(f"{what}: {name}: {one.get(name)} / {other.get(name)}", flush=True)
    return len(bad)


def _equal(one: list[str] | None, other: list[str] | None) -> bool:
    if one is None or other is None:
        return False
    special = {len(one), len(other)} == {2, 3} and one[:2] == other[:2] == ["file", "0"]
    return one == other or special


# -- the runs ----------------------------------------------------------------------------------------------------------


def fsstress(options: argparse.Namespace, place: Path) -> bool:
    if not os.access(options.program, os.X_OK):
        sys.exit(f"{options.program} is no program that can be run")
    tools = options.program.resolve().parent
    script = STRESS.format(program=options.program.name, operations=options.operations, processes=options.processes)
    wrong = count = 0
    with Guest(place, tools, script) as guest, Killer(guest) as killer:
        guest.until("ready")
        begun = time.monotonic()
        while count == 0 or time.monotonic() < begun + 60 * options.minutes:
            count += 1
            killer.at_work.set()
            guest.tell(str(count))
            guest.until("listed")
            killer.at_work.clear()
            trees = {tag: told(place / "out" / tag, times=False) for tag in ("a", "b", "mem")}
            if len(trees["mem"]) < 2:
                sys.exit("it has made no files, so there is nothing to compare")
            for tag, protocol in PROTOCOLS.items():
                wrong += differences(f"host and {protocol}", of_the_host(place / tag / "s"), plain(trees[tag]))
                wrong += differences(f"tmpfs and {protocol}", trees["mem"], trees[tag])
            kills = sum(killer.kills.values())
            minutes = (time.monotonic() - begun) / 60
            print(
                f"{minutes:.1f} min: round {count}, {len(trees['mem'])} names, {kills} kills, {wrong} differences",
                flush=True,
            )
            guest.tell("go on")
        guest.tell("end")
    return not wrong


def pjdfstest(options: argparse.Namespace, place: Path) -> bool:
    with Guest(place, options.suite.resolve(), SUITE, only=options.protocol) as guest:
        guest.until("finished")
    files = bad = 0
    for line in (place / "out" / "said").read_text().splitlines():
        whole = line.startswith("not ok") or " bad 0 todo 0 status 0" not in line
        files += not line.startswith("not ok")
        bad += line.startswith("not ok") and "TODO" not in line
        if whole:
            print(line)
    print(f"{files} files of tests, {bad} tests are not ok")
    return True


def tree(options: argparse.Namespace, place: Path) -> bool:
    source = options.directory.resolve()
    more = [f"--share={source},tag=in{tag},ro,proto={protocol}" for tag, protocol in PROTOCOLS.items()]
    with Guest(place, source, COPY, *more) as guest:
        guest.until("finished")
    wrong, wanted = 0, of_the_host(source)
    for tag, protocol in PROTOCOLS.items():
        copied = told(place / "out" / tag, times=True)
        wrong += differences(f"in the guest and on {protocol}", told(place / "out" / f"mem-{tag}", times=True), copied)
        wrong += differences(f"before and after {protocol}", wanted, of_the_host(place / tag / "s"))
        print(f"{protocol}: {len(copied)} names")
    print(f"{wrong} differences")
    return not wrong


def work(options: argparse.Namespace, place: Path) -> bool:
    script = WORK.replace("{build}", shlex.quote(options.build)).replace("{check}", shlex.quote(options.check))
    disk = f"--disk=snapshot:{options.disk.resolve()}"
    wrong = 0
    with Guest(place, options.repository.resolve(), script, disk) as guest:
        guest.until("ready")
        with Killer(guest, LONG_PAUSES) as killer:
            killer.at_work.set()
            guest.tell("go on")
            guest.until("finished")
    trees = {tag: told(place / "out" / tag, times=False) for tag in PROTOCOLS}
    ends = [place / "out" / f"head-{tag}" for tag in PROTOCOLS]
    heads = {end.read_text() if end.exists() else end.name for end in ends}
    for tag, protocol in PROTOCOLS.items():
        wrong += differences(f"host and {protocol}", of_the_host(place / tag / "work"), plain(trees[tag]))
    wrong += differences("9p and virtiofs", trees["a"], trees["b"])
    print(f"{len(trees['a'])} names, {sum(killer.kills.values())} kills, {wrong} differences, {len(heads)} commits")
    return not wrong and len(heads) == 1 and all(end.exists() for end in ends)


def main() -> int:
    parser = argparse.ArgumentParser(description="Long runs on shared folders.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new directory for the shares, which stays")
    verbs = parser.add_subparsers(required=True)
    stress = verbs.add_parser("fsstress")
    stress.add_argument("program", type=Path)
    stress.add_argument("--minutes", type=float, default=60)
    stress.add_argument("--operations", type=int, default=400, help="of each process in a round")
    stress.add_argument("--processes", type=int, default=3, help="on each tree")
    stress.set_defaults(run=fsstress)
    suite = verbs.add_parser("pjdfstest")
    suite.add_argument("suite", type=Path, help="the directory with the program and tests/")
    suite.add_argument("--protocol", choices=sorted(PROTOCOLS.values()), required=True)
    suite.set_defaults(run=pjdfstest)
    copied = verbs.add_parser("tree")
    copied.add_argument("directory", type=Path)
    copied.set_defaults(run=tree)
    worked = verbs.add_parser("work")
    worked.add_argument("disk", type=Path, help="an ext4 image of a root directory with git, a compiler and make")
    worked.add_argument("repository", type=Path, help="a bare one")
    worked.add_argument("--build", default="make", metavar="COMMAND")
    worked.add_argument("--check", default="make check", metavar="COMMAND")
    worked.set_defaults(run=work)
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True)
        return 0 if options.run(options, options.keep.resolve()) else 1
    with _scratch() as place:
        return 0 if options.run(options, place) else 1


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="bulkhead-shares-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
