"""Shrinking a program on which two machines differ to the shortest one that still makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from random_programs import Image, Program

Differing = Callable[[Sequence[Program]], list[bool]]


def differing(first: Callable[[Image], bytes], second: Callable[[Image], bytes]) -> Differing:
    """On which programs do two machines end with different memory?"""

    def compare(programs: Sequence[Program]) -> list[bool]:
        image = Image(programs)
        one, two = first(image), second(image)
        return [image.results(one, number) != image.results(two, number) for number in range(len(programs))]

    return compare


def shrink(program: Program, differs: Differing) -> Program:
    """The shortest program found by leaving out states, then units, larger stretches of them first."""
    alone = [program.on([state]) for state in program.states]
    program = next((one for one, bad in zip(alone, differs(alone), strict=True) if bad), program)
    size = max(1, len(program.units) // 2)
    while True:
        starts = range(0, len(program.units), size)
        shorter = [program.without(start, start + size) for start in starts]
        found = (
            next((one for one, bad in zip(shorter, differs(shorter), strict=True) if bad), None) if shorter else None
        )
        if found is not None:
            program = found
        elif size == 1:
            return program
        else:
            size //= 2


def explain(program: Program, first: Callable[[Image], bytes], second: Callable[[Image], bytes]) -> str:
    """The program and what the machines made of it, for a failed test."""
    image = Image([program])
    one, two = image.results(first(image), 0), image.results(second(image), 0)
    lines = [program.describe(), f"state before: {program.states[0].hex()}"]
    for number, (mine, theirs) in enumerate(zip(one[1], two[1], strict=True)):
        for offset in range(0, len(mine), 8):
            a, b = mine[offset : offset + 8], theirs[offset : offset + 8]
            if a != b:
                where = f"state {number}, {offset:#x}"
                lines.append(f"{where}: {a[::-1].hex()} and {b[::-1].hex()}")
    for offset in range(0, len(one[0]), 8):
        a, b = one[0][offset : offset + 8], two[0][offset : offset + 8]
        if a != b:
            lines.append(f"data {offset:#x}: {a[::-1].hex()} and {b[::-1].hex()}")
    return "\n".join(lines)
