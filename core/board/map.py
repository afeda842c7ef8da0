"""The memory map: a tree of regions that flattens to a table and prints itself.

A region is RAM, ROM, MMIO, a container of others at offsets, or an alias of part of another region. Where two regions
overlap, the one with the higher priority is visible (and shows through holes of a container, as in QEMU). Two regions
of the same priority must not overlap: that is a mistake in a machine description and raises ConfigError.

`flatten` gives the sorted, disjoint ranges that the bus looks an address up in; `render_tree` and `render_flat` give
the text of `--print-map`, in the format of QEMU's `info mtree` and `info mtree -f`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from proto.errors import ConfigError

ADDRESS_SPACE = 1 << 56  # bytes a physical address can name (Sv39 and Sv48: 56 bits)


class RegionKind(Enum):
    """What answers an access; the value is the word printed in the map."""

    RAM = "ram"
    ROM = "rom"
    MMIO = "i/o"
    CONTAINER = "container"
    ALIAS = "alias"


@dataclass
class Region:
    """One node of the map. `size` in bytes; `device` is what the bus table is made from, opaque here."""

    name: str
    size: int
    kind: RegionKind
    device: object = None
    priority: int = 0
    target: Region | None = None  # of an alias
    target_offset: int = 0  # where in `target` the alias begins
    children: list[tuple[int, Region]] = field(default_factory=list)  # of a container: (offset, region)

    def add(self, offset: int, region: Region) -> Region:
        """Place `region` at `offset` of this container and return it. Raises ConfigError on overlap or overhang."""
        if offset < 0 or offset + region.size > self.size:
            raise ConfigError(f"{region.name} at {offset:#x}, {region.size:#x} bytes, does not fit into {self.name}")
        for other_offset, other in self.children:
            disjoint = offset + region.size <= other_offset or other_offset + other.size <= offset
            if not disjoint and other.priority == region.priority:
                raise ConfigError(f"{region.name} at {offset:#x} overlaps {other.name} at {other_offset:#x}")
        self.children.append((offset, region))
        return region


@dataclass(frozen=True)
class FlatRange:
    """Addresses [base, base + size) are bytes [offset, offset + size) of `region`."""

    base: int
    size: int
    region: Region
    offset: int

    @property
    def end(self) -> int:
        """The first address after the range."""
        return self.base + self.size


def container(name: str, size: int = ADDRESS_SPACE, priority: int = 0) -> Region:
    """An empty region that holds others."""
    return Region(name, size, RegionKind.CONTAINER, priority=priority)


def alias(name: str, target: Region, offset: int, size: int, priority: int = 0) -> Region:
    """A second place where `size` bytes of `target`, from `offset`, appear. Raises ConfigError past its end."""
    if offset < 0 or offset + size > target.size:
        raise ConfigError(f"alias {name} reaches past the end of {target.name}")
    return Region(name, size, RegionKind.ALIAS, priority=priority, target=target, target_offset=offset)


def flatten(root: Region) -> list[FlatRange]:
    """The disjoint ranges that are visible under `root`, sorted by address."""
    ranges: list[FlatRange] = []
    _render(root, 0, 0, root.size, ranges)
    return sorted(ranges, key=lambda item: item.base)


def _render(region: Region, origin: int, low: int, high: int, ranges: list[FlatRange]) -> None:
    """Add what is visible in [low, high) of `region`, whose byte 0 lies at `origin`, below what is there already."""
    if region.kind is RegionKind.CONTAINER:
        for offset, child in sorted(region.children, key=lambda item: -item[1].priority):
            base = origin + offset
            if max(low, base) < min(high, base + child.size):
                _render(child, base, max(low, base), min(high, base + child.size), ranges)
    elif region.kind is RegionKind.ALIAS:
        assert region.target is not None
        _render(region.target, origin - region.target_offset, low, high, ranges)
    else:
        for start, end in list(_gaps(ranges, low, high)):
            ranges.append(FlatRange(start, end - start, region, start - origin))


def _gaps(ranges: list[FlatRange], low: int, high: int) -> Iterator[tuple[int, int]]:
    """The parts of [low, high) that no range covers."""
    for item in sorted(ranges, key=lambda item: item.base):
        if item.end <= low or item.base >= high:
            continue
        if low < item.base:
            yield low, item.base
        low = item.end
    if low < high:
        yield low, high


def render_tree(root: Region, origin: int = 0, depth: int = 0) -> str:
    """The tree as text, one region a line, children indented and sorted by address."""
    line = f"{'  ' * depth}{_span(origin, root.size)} (prio {root.priority}, {_word(root)}): {root.name}"
    if root.target is not None:
        last = root.target_offset + root.size - 1
        line = line.replace(root.name, f"alias {root.name} @{root.target.name} {root.target_offset:016x}-{last:016x}")
    below = [
        render_tree(child, origin + offset, depth + 1)
        for offset, child in sorted(root.children, key=lambda item: item[0])
    ]
    return "\n".join([line, *below])


def render_flat(ranges: list[FlatRange]) -> str:
    """The flattened table as text; a range that does not begin with its region's first byte shows `@offset`."""
    return "\n".join(
        f"{_span(item.base, item.size)} (prio {item.region.priority}, {_word(item.region)}): {item.region.name}"
        + (f" @{item.offset:016x}" if item.offset else "")
        for item in ranges
    )


def _span(base: int, size: int) -> str:
    return f"{base:016x}-{base + size - 1:016x}"


def _word(region: Region) -> str:
    """RAM or ROM by name; containers and aliases count as i/o, as in QEMU."""
    return region.kind.value if region.kind in (RegionKind.RAM, RegionKind.ROM) else RegionKind.MMIO.value
