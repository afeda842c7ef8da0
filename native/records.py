"""Typed records over raw memory.

    class Avail(Record):
        flags: u16 = relaxed()
        idx: u16 = acquire()                 # load acquire, store release
        ring: Array[u16] = relaxed(count=0)  # flexible: as many as there are

`Avail(address)` is a typed pointer. Reading a field is one load, writing it one store, of the field's width and order;
the same text compiles to one machine instruction. Layout is C's natural alignment; `offset=` and `count=` are explicit
where given. A field may be a record (embedded), and an array may be of records: `cpu.tlb[i].tag`.

Orders: `plain` is private memory, not atomic; `relaxed` is atomic without ordering; `acquire` loads acquire and
stores release. Outside machine code all three are the Python run's checked accesses (see `native.memory`).

Not offered: bit fields, unions, inheritance between records, byte orders other than the host's (little-endian).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from native import memory
from native.types import IntType

__all__ = ["Array", "ArrayView", "Field", "Record", "acquire", "field_address", "plain", "relaxed"]

T = TypeVar("T")


@dataclass(frozen=True)
class FieldOptions:
    """What `plain()`, `relaxed()` and `acquire()` say about a field."""

    order: str
    count: int | None
    offset: int | None


def plain(*, count: int | None = None, offset: int | None = None) -> Any:
    """Private memory: ordinary loads and stores."""
    return FieldOptions("plain", count, offset)


def relaxed(*, count: int | None = None, offset: int | None = None) -> Any:
    """Shared memory: each access atomic, in no order with others."""
    return FieldOptions("relaxed", count, offset)


def acquire(*, count: int | None = None, offset: int | None = None) -> Any:
    """Shared memory: loads acquire, stores release."""
    return FieldOptions("acquire", count, offset)


@dataclass(frozen=True)
class ArrayOf:
    """What `Array[u16]` is at run time."""

    element: IntType | type[Record]


if TYPE_CHECKING:

    class Array(Generic[T]):
        """An array field; `Array[u16]` and `Array[SomeRecord]`."""

        def __getitem__(self, index: int) -> T: ...
        def __setitem__(self, index: int, value: T) -> None: ...
        def __len__(self) -> int: ...

else:

    class Array:
        """An array field; `Array[u16]` and `Array[SomeRecord]`."""

        def __class_getitem__(cls, element: Any) -> ArrayOf:
            return ArrayOf(element)


@dataclass(frozen=True)
class Field:
    """One field of a layout. `count` is None for a single value and 0 for a flexible array."""

    name: str
    type: IntType | type[Record]
    order: str
    count: int | None
    offset: int

    @property
    def stride(self) -> int:
        """Bytes from one element to the next."""
        return self.type.size if isinstance(self.type, IntType) else self.type.size()

    def address(self, base: int, index: int = 0) -> int:
        """Where element `index` is, checked against the count."""
        if index < 0 or (self.count and index >= self.count):
            raise IndexError(f"{self.name}[{index}] of {self.count}")
        return base + self.offset + index * self.stride

    def read(self, base: int, index: int = 0) -> Any:
        address = self.address(base, index)
        return memory.load(address, self.type) if isinstance(self.type, IntType) else self.type(address)

    def write(self, base: int, value: int, index: int = 0) -> None:
        if not isinstance(self.type, IntType):
            raise TypeError(f"{self.name} is a record: assign its fields")
        memory.store(self.address(base, index), self.type, value)

    def __get__(self, record: Record | None, owner: Any) -> Any:
        if record is None:
            return self
        if self.count is None:
            return self.read(record.address)
        return ArrayView(self, record)

    def __set__(self, record: Record, value: int) -> None:
        if self.count is not None:
            raise TypeError(f"{self.name} is an array: assign its elements")
        self.write(record.address, value)

    def describe(self) -> str:
        """One line of `Record.layout()`."""
        kind = self.type.name if isinstance(self.type, IntType) else f"{{{self.type.layout()}}}"
        count = "" if self.count is None else f"[{self.count or ''}]"
        return f"{self.offset} {self.name}: {kind}{count} {self.order}"


class ArrayView:
    """`record.field` where the field is an array."""

    __slots__ = ("field", "record")

    def __init__(self, field: Field, record: Record) -> None:
        self.field = field
        self.record = record

    def __getitem__(self, index: int) -> Any:
        return self.field.read(self.record.address, index)

    def __setitem__(self, index: int, value: int) -> None:
        self.field.write(self.record.address, value, index)

    def __len__(self) -> int:
        return self.field.count or 0


class Record:
    """A typed pointer. Subclass it with annotated fields; see the module's text."""

    __slots__ = ("__weakref__", "_address", "_owner")

    fields: ClassVar[dict[str, Field]] = {}
    align: ClassVar[int] = 1
    _size: ClassVar[int] = 0
    _layout: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if cls.__base__ is not Record:
            raise TypeError(f"{cls.__name__}: a record cannot inherit from a record")
        _lay_out(cls, sys._getframe(1))

    def __init__(self, address: int, owner: object = None) -> None:
        self._address = address
        self._owner = owner  # what must live as long as this pointer does

    @property
    def address(self) -> int:
        """Where the record is."""
        return self._address

    @property
    def _as_parameter_(self) -> int:  # ctypes passes a record as its address
        return self._address

    @classmethod
    def size(cls) -> int:
        """Bytes, with the padding at the end; a flexible array counts nothing."""
        return cls._size

    @classmethod
    def offset(cls, field: str) -> int:
        """Where a field begins."""
        return cls.fields[field].offset

    @classmethod
    def layout(cls) -> str:
        """The layout as stable text: what version hashes are made from."""
        return cls._layout

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._address == other._address

    def __hash__(self) -> int:
        return hash((type(self), self._address))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address:#x}>"


_RESERVED = frozenset(name for name in dir(Record) if not name.startswith("__")) | {"_address", "_owner"}


def _lay_out(cls: type[Record], scope: FrameType) -> None:
    """Give every annotated field its offset, and the class its descriptors."""
    end, align, lines = 0, 1, []
    fields: dict[str, Field] = {}
    for name, annotation in cls.__annotations__.items():
        if name in _RESERVED:
            raise TypeError(f"{cls.__name__}.{name}: the name is taken by Record itself")
        options = cls.__dict__.get(name, FieldOptions("plain", None, None))
        if not isinstance(options, FieldOptions):
            raise TypeError(f"{cls.__name__}.{name}: a field has no default value")
        field = _place(cls, name, _resolve(annotation, scope), options, end)
        own = field.type.size if isinstance(field.type, IntType) else field.type.align
        end = max(end, field.offset + field.stride * (1 if field.count is None else field.count))
        align = max(align, own)
        fields[name] = field
        setattr(cls, name, field)
        lines.append(field.describe())
    cls.fields = fields
    cls.align = align
    cls._size = -(-end // align) * align
    cls._layout = f"{cls.__name__} size {cls._size} align {align}; " + "; ".join(lines)


def _place(cls: type[Record], name: str, kind: Any, options: FieldOptions, end: int) -> Field:
    where = f"{cls.__name__}.{name}"
    count = options.count
    if isinstance(kind, ArrayOf):
        if count is None:
            raise TypeError(f"{where}: an array needs count= (0 = flexible)")
        kind = kind.element
    elif count is not None:
        raise TypeError(f"{where}: count= belongs to an Array")
    if isinstance(kind, IntType):
        if kind.bits > 64:
            raise TypeError(f"{where}: {kind} cannot be a field")
        align = kind.size
    elif isinstance(kind, type) and issubclass(kind, Record):
        if options.order != "plain":
            raise TypeError(f"{where}: the order belongs to the fields of {kind.__name__}")
        align = kind.align
    else:
        raise TypeError(f"{where}: a field is an integer type, a Record or an Array of one, not {kind!r}")
    offset = -(-end // align) * align if options.offset is None else options.offset
    if offset % align or offset < 0:
        raise TypeError(f"{where}: offset {offset} is not a multiple of {align}")
    return Field(name, kind, options.order, count, offset)


def _resolve(annotation: Any, scope: FrameType) -> Any:
    """An annotation, possibly as text, as the class statement means it."""
    if not isinstance(annotation, str):
        return annotation
    found = scope.f_locals.get(annotation) or scope.f_globals.get(annotation)
    return found if found is not None else eval(annotation, scope.f_globals, scope.f_locals)


def field_address(record: Record, field: str, index: int | None = None) -> int:
    """`addressof(record.field)` and `addressof(record.field[index])`."""
    return type(record).fields[field].address(record.address, index or 0)
