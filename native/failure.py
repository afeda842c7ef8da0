"""How a failed check of a debug build gets from machine code to a Python exception.

A failing function claims a slot of `@native.failures` with its thread, writes the number of the check there and returns
a zero; every compiled caller looks after each call whether its thread has failed and returns too. The Python wrapper
takes the slot back and raises what the Python run raises. Handlers written as IR do not look: they run on, with zeros,
until they return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from native.errors import MisalignedAccess
from native.sys import MACHINE

__all__ = ["FAILURE_IR", "TAKE_FAILURE", "Site", "failure"]

SLOTS = 64
TAKE_FAILURE = "native.take_failure"

_RAISES: Mapping[str, type[Exception]] = {
    "overflow": OverflowError,
    "shift": ValueError,
    "zero": ZeroDivisionError,
    "index": IndexError,
    "assert": AssertionError,
    "misaligned": MisalignedAccess,
}


@dataclass(frozen=True)
class Site:
    """One check: what it raises, and where it stands."""

    kind: str
    text: str
    filename: str
    line: int


def failure(site: Site) -> Exception:
    """The exception for a failed check."""
    return _RAISES[site.kind](f"{site.filename}:{site.line}: {site.text}")


_THREAD = {
    "x86_64": 'call i64 asm sideeffect "movq %fs:0, $0", "=r"()',
    "aarch64": 'call i64 asm sideeffect "mrs $0, tpidr_el0", "=r"()',
}[MACHINE]

FAILURE_IR = f"""
@native.failed = internal global i32 0
@native.failures = internal global [{SLOTS} x {{ i64, i64 }}] zeroinitializer

define internal ptr @native.slot(i64 %owner) nounwind noinline {{
entry:
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %next, %more ]
  %slot = getelementptr {{ i64, i64 }}, ptr @native.failures, i64 %i
  %found = load atomic i64, ptr %slot seq_cst, align 8
  %same = icmp eq i64 %found, %owner
  br i1 %same, label %done, label %more
more:
  %next = add i64 %i, 1
  %end = icmp eq i64 %next, {SLOTS}
  br i1 %end, label %none, label %look
done:
  ret ptr %slot
none:
  ret ptr null
}}

define internal void @native.fail(i64 %site) nounwind cold noinline {{
entry:
  %thread = {_THREAD}
  %mine = call ptr @native.slot(i64 %thread)
  %again = icmp ne ptr %mine, null
  br i1 %again, label %done, label %claim
claim:
  %free = call ptr @native.slot(i64 0)
  %full = icmp eq ptr %free, null
  br i1 %full, label %claim, label %try
try:
  %exchange = cmpxchg ptr %free, i64 0, i64 %thread seq_cst seq_cst
  %won = extractvalue {{ i64, i1 }} %exchange, 1
  br i1 %won, label %record, label %claim
record:
  %where = getelementptr i8, ptr %free, i64 8
  store i64 %site, ptr %where
  %count = atomicrmw add ptr @native.failed, i32 1 seq_cst
  br label %done
done:
  ret void
}}

define internal i1 @native.pending() nounwind {{
  %count = load atomic i32, ptr @native.failed seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %look, label %no
look:
  %thread = {_THREAD}
  %mine = call ptr @native.slot(i64 %thread)
  %failed = icmp ne ptr %mine, null
  ret i1 %failed
no:
  ret i1 false
}}

define dso_local i64 @{TAKE_FAILURE}() nounwind {{
  %thread = {_THREAD}
  %mine = call ptr @native.slot(i64 %thread)
  %failed = icmp ne ptr %mine, null
  br i1 %failed, label %take, label %no
take:
  %where = getelementptr i8, ptr %mine, i64 8
  %site = load i64, ptr %where
  %count = atomicrmw sub ptr @native.failed, i32 1 seq_cst
  store atomic i64 0, ptr %mine seq_cst, align 8
  ret i64 %site
no:
  ret i64 -1
}}
"""
