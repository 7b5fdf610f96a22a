"""Converters between component values and Python, built once per type.

`lifter(type)` returns a function that reads a value Wasmtime passed to the host; `lowerer(type)`
one that writes a value for Wasmtime to read. Both work on the address of a
`wasmtime_component_val_t` (layout in `native`), and both close over everything the type says, so
that a call inspects no types.

Ownership: arguments belong to Wasmtime, which frees them after the call; lifting copies. Results
belong to the host until the callback returns; a lowerer leaves its target well-formed at every
step, so that an exception half-way frees cleanly.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from wasmtime.component import (
    BorrowType,
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    ValType,
    VariantType,
)
from wasmtime.component import _types as scalar

from edgehost.abi import native
from edgehost.abi.native import BYTES, ENTRY_SIZE, NAME_SIZE, U32, U64, VAL_SIZE
from edgehost.abi.resources import Resource, ResourceTable
from edgehost.abi.values import Err, Ok

__all__ = ["Lift", "Lower", "StoreView", "TypeConverters"]


class StoreView(Protocol):
    """What converters need to know of the store a value lives in."""

    context: int
    scratch: int
    """Address of 8 bytes that only this store's thread writes."""
    table: ResourceTable


Lift = Callable[[StoreView, int], Any]
Lower = Callable[[StoreView, int, Any], None]

# wasmtime_component_valkind_t
_BOOL, _STRING, _LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS, _RESOURCE = (
    0,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
)

_ZERO_VAL = (ctypes.c_ubyte * VAL_SIZE)()
_ZERO: Final = ctypes.addressof(_ZERO_VAL)


def new_box() -> int:
    """Return the address of a new boxed value, `false` until written."""
    return native.val_new(_ZERO)  # type: ignore[no-any-return]


def _name(address: int) -> str:
    """The text of the `{size, data}` pair at `address`."""
    index = address >> 3
    data = U64[index + 1]
    return str(BYTES[data : data + U64[index]], "utf-8")


# --- scalars -------------------------------------------------------------------------------------

_SCALARS: Final[dict[type[ValType], tuple[int, str]]] = {
    scalar.S8: (1, "=b"),
    scalar.U8: (2, "=B"),
    scalar.S16: (3, "=h"),
    scalar.U16: (4, "=H"),
    scalar.S32: (5, "=i"),
    scalar.U32: (6, "=I"),
    scalar.S64: (7, "=q"),
    scalar.U64: (8, "=Q"),
    scalar.F32: (9, "=f"),
    scalar.F64: (10, "=d"),
}
_CHAR_KIND: Final = 11
_U8_KIND: Final = 2


def _lift_bool(_store: StoreView, address: int) -> bool:
    return BYTES[address + 8] != 0


def _lower_bool(_store: StoreView, address: int, value: bool) -> None:
    BYTES[address + 8] = 1 if value else 0
    BYTES[address] = _BOOL


def _scalar_lifter(layout: str) -> Lift:
    unpack = struct.Struct(layout).unpack_from

    def lift(_store: StoreView, address: int) -> Any:
        return unpack(BYTES, address + 8)[0]

    return lift


def _scalar_lowerer(kind: int, layout: str) -> Lower:
    pack = struct.Struct(layout).pack_into

    def lower(_store: StoreView, address: int, value: Any) -> None:
        pack(BYTES, address + 8, value)
        BYTES[address] = kind

    return lower


def _lift_char(_store: StoreView, address: int) -> str:
    return chr(U32[(address + 8) >> 2])


def _lower_char(_store: StoreView, address: int, value: str) -> None:
    U32[(address + 8) >> 2] = ord(value)
    BYTES[address] = _CHAR_KIND


def _lift_string(_store: StoreView, address: int) -> str:
    index = address >> 3
    data = U64[index + 2]
    return str(BYTES[data : data + U64[index + 1]], "utf-8")


def _lower_string(_store: StoreView, address: int, value: str) -> None:
    data = value.encode()
    native.byte_vec_new(address + 8, len(data), data)
    BYTES[address] = _STRING


# --- lists, tuples, records -----------------------------------------------------------------------


def _lift_bytes(_store: StoreView, address: int) -> bytes:
    index = address >> 3
    first = U64[index + 2] + 8
    return bytes(BYTES[first : first + U64[index + 1] * VAL_SIZE : VAL_SIZE])


def _lower_bytes(_store: StoreView, address: int, value: bytes) -> None:
    size = len(value)
    native.list_new(address + 8, size)
    if size:
        first = U64[(address >> 3) + 2]
        end = first + size * VAL_SIZE
        BYTES[first:end:VAL_SIZE] = b"\x02" * size  # the kind: u8
        BYTES[first + 8 : end + 8 : VAL_SIZE] = value
    BYTES[address] = _LIST


def _clear(address: int, size: int) -> None:
    """Make freshly allocated values well-formed: all zero is `false`."""
    BYTES[address : address + size] = bytes(size)


def _list_lifter(lift_item: Lift) -> Lift:
    def lift(store: StoreView, address: int) -> list[Any]:
        index = address >> 3
        first = U64[index + 2]
        end = first + U64[index + 1] * VAL_SIZE
        return [lift_item(store, item) for item in range(first, end, VAL_SIZE)]

    return lift


def _list_lowerer(lower_item: Lower) -> Lower:
    def lower(store: StoreView, address: int, value: list[Any]) -> None:
        size = len(value)
        native.list_new(address + 8, size)
        item = U64[(address >> 3) + 2]
        if size:
            _clear(item, size * VAL_SIZE)
        BYTES[address] = _LIST
        for element in value:
            lower_item(store, item, element)
            item += VAL_SIZE

    return lower


def _tuple_lifter(lifts: list[Lift]) -> Lift:
    offsets = tuple((lift, position * VAL_SIZE) for position, lift in enumerate(lifts))

    def lift(store: StoreView, address: int) -> tuple[Any, ...]:
        first = U64[(address >> 3) + 2]
        return tuple([lift_item(store, first + offset) for lift_item, offset in offsets])

    return lift


def _tuple_lowerer(lowers: list[Lower]) -> Lower:
    count = len(lowers)

    def lower(store: StoreView, address: int, value: tuple[Any, ...]) -> None:
        native.tuple_new(address + 8, count)
        item = U64[(address >> 3) + 2]
        _clear(item, count * VAL_SIZE)
        BYTES[address] = _TUPLE
        for lower_item, element in zip(lowers, value, strict=True):
            lower_item(store, item, element)
            item += VAL_SIZE

    return lower


def _record_lifter(lifts: list[Lift]) -> Lift:
    offsets = tuple(
        (lift, position * ENTRY_SIZE + NAME_SIZE) for position, lift in enumerate(lifts)
    )

    def lift(store: StoreView, address: int) -> tuple[Any, ...]:
        first = U64[(address >> 3) + 2]
        return tuple([lift_item(store, first + offset) for lift_item, offset in offsets])

    return lift


def _record_lowerer(fields: list[tuple[str, Lower]]) -> Lower:
    encoded = tuple((name.encode(), lower) for name, lower in fields)
    count = len(encoded)

    def lower(store: StoreView, address: int, value: tuple[Any, ...]) -> None:
        native.record_new(address + 8, count)
        entry = U64[(address >> 3) + 2]
        _clear(entry, count * ENTRY_SIZE)
        for position, (name, _) in enumerate(encoded):  # names first: a null one is not well-formed
            native.byte_vec_new(entry + position * ENTRY_SIZE, len(name), name)
        BYTES[address] = _RECORD
        for (_, lower_field), element in zip(encoded, value, strict=True):
            lower_field(store, entry + NAME_SIZE, element)
            entry += ENTRY_SIZE

    return lower


# --- option, result, variant, enum, flags ---------------------------------------------------------


def _option_lifter(lift_some: Lift) -> Lift:
    def lift(store: StoreView, address: int) -> Any:
        box = U64[(address >> 3) + 1]
        return lift_some(store, box) if box else None

    return lift


def _option_lowerer(lower_some: Lower) -> Lower:
    def lower(store: StoreView, address: int, value: Any) -> None:
        if value is None:
            U64[(address >> 3) + 1] = 0
            BYTES[address] = _OPTION
            return
        box = new_box()
        U64[(address >> 3) + 1] = box
        BYTES[address] = _OPTION
        lower_some(store, box, value)

    return lower


def _result_lifter(lift_ok: Lift | None, lift_err: Lift | None) -> Lift:
    def lift(store: StoreView, address: int) -> Ok | Err:
        box = U64[(address >> 3) + 2]
        if BYTES[address + 8]:
            return Ok(lift_ok(store, box) if lift_ok is not None else None)
        return Err(lift_err(store, box) if lift_err is not None else None)

    return lift


def result_case_lowerer(lower_payload: Lower | None, *, is_ok: bool) -> Lower:
    """Return a function that writes one case of a result, given its plain payload."""
    flag = 1 if is_ok else 0

    def lower(store: StoreView, address: int, value: Any) -> None:
        index = address >> 3
        BYTES[address + 8] = flag
        if lower_payload is None:
            U64[index + 2] = 0
            BYTES[address] = _RESULT
            return
        box = new_box()
        U64[index + 2] = box
        BYTES[address] = _RESULT
        lower_payload(store, box, value)

    return lower


def _result_lowerer(lower_ok: Lower | None, lower_err: Lower | None) -> Lower:
    ok = result_case_lowerer(lower_ok, is_ok=True)
    err = result_case_lowerer(lower_err, is_ok=False)

    def lower(store: StoreView, address: int, value: Ok | Err) -> None:
        (ok if type(value) is Ok else err)(store, address, value.value)

    return lower


def _variant_lifter(cases: dict[str, Lift | None]) -> Lift:
    def lift(store: StoreView, address: int) -> Any:
        case = _name(address + 8)
        lift_payload = cases[case]
        if lift_payload is None:
            return case
        return case, lift_payload(store, U64[(address >> 3) + 3])

    return lift


def _variant_lowerer(cases: dict[str, Lower | None]) -> Lower:
    names = {name: name.encode() for name in cases}

    def lower(store: StoreView, address: int, value: Any) -> None:
        case, payload = value if type(value) is tuple else (value, None)
        lower_payload = cases[case]
        name = names[case]
        native.byte_vec_new(address + 8, len(name), name)
        if lower_payload is None:
            U64[(address >> 3) + 3] = 0
            BYTES[address] = _VARIANT
            return
        box = new_box()
        U64[(address >> 3) + 3] = box
        BYTES[address] = _VARIANT
        lower_payload(store, box, payload)

    return lower


def _lift_enum(_store: StoreView, address: int) -> str:
    return _name(address + 8)


def _lower_enum(_store: StoreView, address: int, value: str) -> None:
    name = value.encode()
    native.byte_vec_new(address + 8, len(name), name)
    BYTES[address] = _ENUM


def _lift_flags(_store: StoreView, address: int) -> frozenset[str]:
    index = address >> 3
    first = U64[index + 2]
    end = first + U64[index + 1] * NAME_SIZE
    return frozenset(_name(item) for item in range(first, end, NAME_SIZE))


def _lower_flags(_store: StoreView, address: int, value: frozenset[str]) -> None:
    native.flags_new(address + 8, len(value))
    item = U64[(address >> 3) + 2]
    for flag in value:
        name = flag.encode()
        native.byte_vec_new(item, len(name), name)
        item += NAME_SIZE
    BYTES[address] = _FLAGS


# --- resources ------------------------------------------------------------------------------------


def _take_rep(store: StoreView, address: int) -> int:
    """Read the handle at `address` and release Wasmtime's own record of it."""
    scratch = store.scratch
    error = native.any_to_host(store.context, U64[(address >> 3) + 1], scratch)
    if error:
        raise native.call_error(error)
    host = U64[scratch >> 3]
    rep: int = native.host_rep(host)
    native.host_delete(host)
    return rep


def _lift_borrow(store: StoreView, address: int) -> Resource:
    return store.table.get(_take_rep(store, address))


def _lift_own(store: StoreView, address: int) -> Resource:
    return store.table.take(_take_rep(store, address))


def own_lowerer(type_id: int) -> Lower:
    """Return a function that gives the guest a handle to a host object."""

    def lower(store: StoreView, address: int, value: Resource) -> None:
        host = native.host_new(True, store.table.add(value), type_id)
        error = native.host_to_any(store.context, host, address + 8)
        native.host_delete(host)
        if error:
            raise native.call_error(error)
        BYTES[address] = _RESOURCE

    return lower


class TypeConverters:
    """Builds converters for the types of one component.

    Args:
        resources: The host's identifier of each resource type the component imports.
    """

    def __init__(self, resources: list[tuple[ResourceType, int]]) -> None:
        self._resources = resources

    def resource_id(self, resource: ResourceType) -> int:
        """The identifier `resource` was linked under."""
        for known, type_id in self._resources:
            if known == resource:
                return type_id
        raise TypeError("a resource type that the component does not import")

    def lifter(self, ty: ValType) -> Lift:  # noqa: C901 - one case per kind of type
        """Return the function that reads values of type `ty`."""
        if (layout := _SCALARS.get(type(ty))) is not None:
            return _scalar_lifter(layout[1])
        match ty:
            case scalar.Bool():
                return _lift_bool
            case scalar.Char():
                return _lift_char
            case scalar.String():
                return _lift_string
            case ListType():
                if isinstance(ty.element, scalar.U8):
                    return _lift_bytes
                return _list_lifter(self.lifter(ty.element))
            case TupleType():
                return _tuple_lifter([self.lifter(item) for item in ty.elements])
            case RecordType():
                return _record_lifter([self.lifter(field) for _, field in ty.fields])
            case OptionType():
                return _option_lifter(self.lifter(ty.payload))
            case ResultType():
                return _result_lifter(self._optional_lifter(ty.ok), self._optional_lifter(ty.err))
            case VariantType():
                return _variant_lifter(
                    {name: self._optional_lifter(payload) for name, payload in ty.cases}
                )
            case EnumType():
                return _lift_enum
            case FlagsType():
                return _lift_flags
            case OwnType():
                return _lift_own
            case BorrowType():
                return _lift_borrow
        raise TypeError(f"no conversion for {type(ty).__name__}")

    def lowerer(self, ty: ValType) -> Lower:  # noqa: C901 - one case per kind of type
        """Return the function that writes values of type `ty`."""
        if (layout := _SCALARS.get(type(ty))) is not None:
            return _scalar_lowerer(*layout)
        match ty:
            case scalar.Bool():
                return _lower_bool
            case scalar.Char():
                return _lower_char
            case scalar.String():
                return _lower_string
            case ListType():
                if isinstance(ty.element, scalar.U8):
                    return _lower_bytes
                return _list_lowerer(self.lowerer(ty.element))
            case TupleType():
                return _tuple_lowerer([self.lowerer(item) for item in ty.elements])
            case RecordType():
                return _record_lowerer([(name, self.lowerer(field)) for name, field in ty.fields])
            case OptionType():
                return _option_lowerer(self.lowerer(ty.payload))
            case ResultType():
                return _result_lowerer(
                    self._optional_lowerer(ty.ok), self._optional_lowerer(ty.err)
                )
            case VariantType():
                return _variant_lowerer(
                    {name: self._optional_lowerer(payload) for name, payload in ty.cases}
                )
            case EnumType():
                return _lower_enum
            case FlagsType():
                return _lower_flags
            case OwnType():
                return own_lowerer(self.resource_id(ty.ty))
        raise TypeError(f"no conversion for {type(ty).__name__}")

    def result_cases(self, ty: ResultType) -> tuple[Lower, Lower]:
        """Return the functions that write the ok case and the error case of `ty`."""
        return (
            result_case_lowerer(self._optional_lowerer(ty.ok), is_ok=True),
            result_case_lowerer(self._optional_lowerer(ty.err), is_ok=False),
        )

    def _optional_lifter(self, ty: ValType | None) -> Lift | None:
        return None if ty is None else self.lifter(ty)

    def _optional_lowerer(self, ty: ValType | None) -> Lower | None:
        return None if ty is None else self.lowerer(ty)
