"""What is done to which device, in which order, after which pauses: computed from a seed, and from nothing else.

The n-th fault of a machine is the same for the same seed, guest and `--only`, on every host; when it happens, relative
to what the guest is doing, is the host's doing. That is what can be repeated of a run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.chaos.stepped import steps
from proto.errors import ConfigError

__all__ = ["KINDS", "ROLES", "Fault", "Target", "chosen", "plan"]


@dataclass(frozen=True)
class Target:
    """A device of a machine. `fit` names what else than the usual can be done to it."""

    id: str
    role: str  # of ROLES
    fit: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kind:
    """A sort of fault: how often it is chosen, and what a device must fit for it."""

    weight: int
    needs: str
    what: str


@dataclass(frozen=True)
class Fault:
    """One fault. `parameter` is a step's number, or a random number for whoever carries it out."""

    number: int
    id: str
    kind: str
    parameter: int
    pause: float  # seconds before it

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} {self.id}" + (f" at step {self.parameter}" if self.kind == "step" else "")


ROLES = {
    "disk": "disks",
    "fs": "shared folders (9P, virtio-fs, v86fs)",
    "net": "the network card",
    "rng": "the random number device",
}
KINDS = {
    "kill": Kind(34, "", "SIGKILL"),
    "segv": Kind(8, "", "SIGSEGV"),
    "stop": Kind(3, "", "SIGSTOP: it hangs"),
    "restart": Kind(4, "", "`bulkhead restart`"),
    "step": Kind(26, "step", "a fault at a numbered step of pop, complete or recover"),
    "exception": Kind(3, "step", "an exception in the device's Python"),
    "swap": Kind(18, "swap", "`bulkhead swap`: a delay filter, another property, the folder anew, reloaded code"),
    "noise": Kind(3, "", "messages between core and device are lost, garbled and doubled"),
    "cut": Kind(4, "cut", "SIGKILL of the process behind the card, in which the connections live"),
    "replug": Kind(4, "cut", "`bulkhead swap net0` to another network, and back"),
    "mirror": Kind(4, "mirror", "`bulkhead mirror`, raw to qcow2 or back, with a kill on the way"),
}
UNREACHED = ("_broken(", "return 0", "return False", "rejected", "_guard", "_unmark")  # after a driver's mistakes only
PAUSE = 0.3  # seconds at most, mostly less
APART = 3  # so many faults come between two of one device, if there are as many devices


def chosen(only: str) -> frozenset[str]:
    """The words of --only. Raises ConfigError."""
    words = frozenset(filter(None, only.split(",")))
    known = [*ROLES, *KINDS]
    for word in sorted(words):
        if word not in known:
            raise ConfigError(f"--only: there is no {word}", hint=f"There are {', '.join(known)}.")
    return words


def plan(seed: int, guest: str, targets: Sequence[Target], only: frozenset[str]) -> Iterator[Fault]:
    """The faults of one machine, without end. Raises ConfigError when `only` leaves nothing."""
    random_ = random.Random(f"{seed} {guest}")
    roles = only & ROLES.keys() or ROLES.keys()
    kinds = only & KINDS.keys() or KINDS.keys()
    possible = {
        target.id: [name for name in KINDS if name in kinds and KINDS[name].needs in ("", *target.fit)]
        for target in targets
        if target.role in roles
    }
    ids = [id for id, names in possible.items() if names]
    if not ids:
        raise ConfigError(f"--only {','.join(sorted(only))} leaves nothing to do in the {guest} guest")
    numbers = [
        step.number
        for step in steps()
        if step.function != "_begin_table" and not any(word in step.text for word in UNREACHED)
    ]
    recent: list[str] = []
    number = 0
    while True:
        number += 1
        fresh = [id for id in ids if id not in recent[-min(APART, len(ids) - 1) :]] if len(ids) > 1 else ids
        id = random_.choice(fresh)
        names = possible[id]
        kind = random_.choices(names, [KINDS[name].weight for name in names])[0]
        parameter = random_.choice(numbers) if kind == "step" else random_.randrange(1 << 16)
        recent.append(id)
        yield Fault(number, id, kind, parameter, random_.random() ** 2 * PAUSE)
