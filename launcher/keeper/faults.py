"""The rules that stop or change devices' requests (`proto.faults`), and what they hold: the keeper's part.

The rules of a device are kept here, and the counts of their matches in a segment: both outlive the process, and every
successor is given them in START. A running process is told with RULES, and says with HELD which rules are in force and
which requests it holds, whenever that changes. What becomes of those is ordered with HELD in the other direction.

Answers the requests BREAK, BREAKS, BREAK_CLEAR and HOLD of the control socket; what a device says of itself is shown,
never relied on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.keeper.member import Member
from launcher.keeper.segments import Segment
from proto.channel import Packet
from proto.errors import ConfigError
from proto.faults import RULES_MAX, RULES_SIZE, TALLY_SIZE, Rule, Tally
from proto.room import Room

if TYPE_CHECKING:
    from launcher.keeper.child import Child
    from launcher.keeper.supervisor import Supervisor

__all__ = ["ORDERS", "Faults"]

ORDERS = ("go", "drop", "fail", "change")
SHOWN = 256  # held requests of one device
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "queue": int,
    "number": int,
    "head": int,
    "rule": int,
    "at": str,
    "op": str,
    "words": str,
    "since": (int, float),
    "due": (int, float),
}


@dataclass
class _Record:
    """What is remembered of one device through all its lives."""

    rules: dict[int, Rule] = field(default_factory=dict)  # by slot
    segment: Segment | None = None
    in_force: tuple[int, int] = (0, -1)  # epoch, and how many rules it says it has
    held: list[dict[str, Any]] = field(default_factory=list)
    more: int = 0

    def tally(self) -> Tally:
        if self.segment is None:
            self.segment = Segment(RULES_SIZE, "rules")
        return Tally(self.segment.view()[:TALLY_SIZE])

    def empty_room(self) -> None:
        """Nothing that is in no ring is held any more."""
        if self.segment is not None:
            Room(self.segment.view()[TALLY_SIZE:]).clear()


class Faults:
    """All rules of a machine; in the keeper's loop."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._records: dict[str, _Record] = {}
        for rule in supervisor.machine.faults:
            self._add(Rule.parse(rule))

    def _record(self, id: str) -> _Record:
        return self._records.setdefault(id, _Record())

    # -- processes -------------------------------------------------------------------------------------------------

    def start_body(self, member: Member) -> tuple[dict[str, Any], dict[str, int]]:
        """What START has for a device with rules, and the descriptor of their counts."""
        record = self._records.get(member.id)
        if record is None or not record.rules or self._supervisor.quarantine.stands_in(member):
            return {}, {}
        record.tally()
        assert record.segment is not None
        return {"rules": [rule.as_dict() for rule in record.rules.values()]}, {"rules": record.segment.fd}

    def tell(self, member: Member, child: Child) -> None:
        """The rules as they are now, to the device's process, or to the one that is about to be it."""
        record = self._records.get(member.id)
        if record is not None and record.segment is not None:
            rules = [rule.as_dict() for rule in record.rules.values()]
            child.send("RULES", {"rules": rules}, {"rules": record.segment.fd})

    def heard(self, member: Member, packet: Packet) -> None:
        """HELD: which rules are in force, and what they hold."""
        body = packet.body
        record = self._record(member.id)
        if member.epoch < record.in_force[0]:
            return  # a predecessor in a swap
        rows = [row for row in map(_row, body.get("held", [])[:SHOWN]) if row is not None]
        record.held, record.more = rows, int(body.get("more", 0)) + max(0, len(body.get("held", [])) - SHOWN)
        record.in_force = member.epoch, int(body.get("rules", 0))

    def died(self, member: Member) -> None:
        """A process is dead: what it held, nobody does now. One that spoke for no device yet, as a candidate of a swap,
        held nothing."""
        record = self._records.get(member.id)
        if record is not None and member.epoch == record.in_force[0]:
            record.held, record.more, record.in_force = [], 0, (0, -1)
            if not record.rules:
                record.empty_room()

    def begin_anew(self) -> None:
        """The guest starts again: matches are counted from the beginning."""
        for record in self._records.values():
            record.held, record.more = [], 0
            record.empty_room()
            if record.segment is not None:
                for slot in range(RULES_MAX):
                    record.tally().clear(slot)

    def close(self) -> None:
        """The machine has ended."""
        for record in self._records.values():
            if record.segment is not None:
                record.segment.close()

    def held(self, member: Member) -> tuple[list[dict[str, Any]], int]:
        """The requests of a device that are held, and how many more there are."""
        record = self._records.get(member.id)
        return (record.held, record.more) if record is not None else ([], 0)

    # -- requests --------------------------------------------------------------------------------------------------

    def add(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """BREAK {rules}: these, too. All of them or none."""
        rules = [Rule.parse(rule) for rule in body.get("rules", [])]
        for rule in rules:
            self._device(rule.device)
        wanted = {id: sum(rule.device == id for rule in rules) for id in {rule.device for rule in rules}}
        for id, number in wanted.items():
            if len(self._record(id).rules) + number > RULES_MAX:
                raise ConfigError(f"{id} would have more than {RULES_MAX} rules", hint=f"bulkhead break {id} --clear")
        added = [self._add(rule) for rule in rules]
        for id in wanted:
            self._tell(id)
        return {"rules": [{"device": rule.device, "number": rule.slot + 1} for rule in added]}

    def clear(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """BREAK_CLEAR {id?, number?}: forget rules; what they held goes on."""
        ids = [self._device(str(body["id"])).id] if body.get("id") else list(self._records)
        removed = 0
        for id in ids:
            record = self._record(id)
            number = body.get("number")
            if number is not None and int(number) - 1 not in record.rules:
                raise ConfigError(f"{id} has no rule {number}", hint="See: bulkhead break --list")
            slots = list(record.rules) if number is None else [int(number) - 1]
            for slot in slots:
                del record.rules[slot]
            removed += len(slots)
            if slots:
                self._tell(id)
        return {"removed": removed}

    def list(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """BREAKS {}: rules with their counts, what is held, and the time of `since` and `due`."""
        rules, held, more = [], [], 0
        for id, record in self._records.items():
            for slot, rule in sorted(record.rules.items()):
                matched, taken = record.tally().counts(slot)
                plain = {name: value for name, value in rule.as_dict().items() if name not in ("slot", "data")}
                plain |= {"number": slot + 1, "data": rule.data.hex(), "matched": matched, "taken": taken}
                rules.append({**plain, "in_force": self._in_force(id), "text": rule.describe()})
            held += [{"device": id, **row} for row in record.held]
            more += record.more
        return {"rules": rules, "held": held, "more": more, "now": time.monotonic()}

    def order(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """HOLD {id, then, keys | count, data?, offset?}: what becomes of requests that are held: those of the keys, or
        the first so many (0: all)."""
        member = self._device(str(body.get("id", "")))
        then = body.get("then")
        if then not in ORDERS:
            raise ConfigError(f"{then}: expected one of {', '.join(ORDERS)}")
        record = self._record(member.id)
        keys = body.get("keys") or [[row["queue"], row["number"]] for row in record.held]
        keys = [[int(queue), int(number)] for queue, number in keys]
        count = int(body.get("count", 0))
        keys = keys[:count] if count else keys
        if not keys:
            raise ConfigError(f"{member.id} holds no request", hint="See: bulkhead break --list")
        order = {"then": then, "keys": keys, "data": bytes(body.get("data", b"")), "offset": int(body.get("offset", 0))}
        if member.child is None or not member.child.send("HELD", order):
            raise ConfigError(f"{member.id} is just {member.state}", hint="Try again when its process serves.")
        return {"keys": keys}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _in_force(self, id: str) -> bool:
        record = self._records[id]
        member = self._supervisor.members[id]
        return member.child is not None and record.in_force == (member.epoch, len(record.rules))

    def _device(self, id: str) -> Member:
        for member in self._supervisor.devices:
            if member.id == id:
                if member.device is not None and member.device.kind != "virtio":
                    raise ConfigError(f"{id} has no queues", hint="Rules are for virtio devices.")
                return member
        known = ", ".join(member.id for member in self._supervisor.devices)
        raise ConfigError(
            f"{self._supervisor.machine.name} has no device {id}", hint=f"It has: {known}." if known else "It has none."
        )

    def _add(self, rule: Rule) -> Rule:
        record = self._record(rule.device)
        slot = next(slot for slot in range(RULES_MAX + 1) if slot not in record.rules)
        if slot == RULES_MAX:
            raise ConfigError(f"{rule.device} has {RULES_MAX} rules already")
        record.rules[slot] = rule = dataclasses.replace(rule, slot=slot)
        record.tally().clear(slot)
        return rule

    def _tell(self, id: str) -> None:
        """A process that runs; one that is being started finds them in its START, or here, later."""
        member = self._supervisor.members[id]
        self._records[id].tally()
        if member.child is not None and member.started and not self._supervisor.quarantine.stands_in(member):
            self.tell(member, member.child)


def _row(row: Any) -> dict[str, Any] | None:
    """A held request as a device tells it, if that is what it looks like."""
    if not isinstance(row, dict) or any(not isinstance(row.get(name), kind) for name, kind in _FIELDS.items()):
        return None
    return {name: row[name][:200] if isinstance(row[name], str) else row[name] for name in _FIELDS}
