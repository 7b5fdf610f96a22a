"""Lifting: component values that Wasmtime passed to the host become Python values.

`lifter(type)` is called once per type; the function it returns closes over everything the type
says, so that a call inspects no types. It works on the address of a `wasmtime_component_val_t`
(layout in `native`). The value belongs to Wasmtime, which frees it after the call; lifting copies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from wasmtime.component import (
    F32,
    F64,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    BorrowType,
    Char,
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResultType,
    String,
    TupleType,
    ValType,
    VariantType,
)

from edgehost.abi import native
from edgehost.abi.native import BYTES, ENTRY_SIZE, HALF_WORDS, NAME_SIZE, VAL_SIZE, WORDS
from edgehost.abi.resources import Resource, ResourceTable
from edgehost.abi.values import Err, Ok

__all__ = ["SCALAR_LAYOUTS", "Lift", "StoreView", "lifter"]


class StoreView(Protocol):
    """What conversions need to know of the store a value lives in."""

    context: int
    scratch: int
    """Address of 8 bytes that only this store's thread writes."""
    table: ResourceTable


Lift = Callable[[StoreView, int], Any]
"""Reads the value at an address."""

SCALAR_LAYOUTS: Final[dict[type[ValType], str]] = {
    S8: "=b",
    U8: "=B",
    S16: "=h",
    U16: "=H",
    S32: "=i",
    U32: "=I",
    S64: "=q",
    U64: "=Q",
    F32: "=f",
    F64: "=d",
}


def _name(address: int) -> str:
    """The text of the `{size, data}` pair at `address`."""
    index = address >> 3
    data = WORDS[index + 1]
    return str(BYTES[data : data + WORDS[index]], "utf-8")


def _lift_bool(_store: StoreView, address: int) -> bool:
    return BYTES[address + 8] != 0


def _scalar_lifter(layout: str) -> Lift:
    unpack = struct.Struct(layout).unpack_from

    def lift(_store: StoreView, address: int) -> Any:
        return unpack(BYTES, address + 8)[0]

    return lift


def _lift_char(_store: StoreView, address: int) -> str:
    return chr(HALF_WORDS[(address + 8) >> 2])


def _lift_string(_store: StoreView, address: int) -> str:
    index = address >> 3
    data = WORDS[index + 2]
    return str(BYTES[data : data + WORDS[index + 1]], "utf-8")


def _lift_bytes(_store: StoreView, address: int) -> bytes:
    index = address >> 3
    first = WORDS[index + 2] + 8
    return bytes(BYTES[first : first + WORDS[index + 1] * VAL_SIZE : VAL_SIZE])


def _list_lifter(lift_item: Lift) -> Lift:
    def lift(store: StoreView, address: int) -> list[Any]:
        index = address >> 3
        first = WORDS[index + 2]
        end = first + WORDS[index + 1] * VAL_SIZE
        return [lift_item(store, item) for item in range(first, end, VAL_SIZE)]

    return lift


def _tuple_lifter(lifts: list[Lift]) -> Lift:
    offsets = tuple((lift, position * VAL_SIZE) for position, lift in enumerate(lifts))

    def lift(store: StoreView, address: int) -> tuple[Any, ...]:
        first = WORDS[(address >> 3) + 2]
        return tuple([lift_item(store, first + offset) for lift_item, offset in offsets])

    return lift


def _record_lifter(lifts: list[Lift]) -> Lift:
    offsets = tuple(
        (lift, position * ENTRY_SIZE + NAME_SIZE) for position, lift in enumerate(lifts)
    )

    def lift(store: StoreView, address: int) -> tuple[Any, ...]:
        first = WORDS[(address >> 3) + 2]
        return tuple([lift_item(store, first + offset) for lift_item, offset in offsets])

    return lift


def _option_lifter(lift_some: Lift) -> Lift:
    def lift(store: StoreView, address: int) -> Any:
        box = WORDS[(address >> 3) + 1]
        return lift_some(store, box) if box else None

    return lift


def _result_lifter(lift_ok: Lift | None, lift_err: Lift | None) -> Lift:
    def lift(store: StoreView, address: int) -> Ok | Err:
        box = WORDS[(address >> 3) + 2]
        if BYTES[address + 8]:
            return Ok(lift_ok(store, box) if lift_ok is not None else None)
        return Err(lift_err(store, box) if lift_err is not None else None)

    return lift


def _variant_lifter(cases: dict[str, Lift | None]) -> Lift:
    def lift(store: StoreView, address: int) -> Any:
        case = _name(address + 8)
        lift_payload = cases[case]
        if lift_payload is None:
            return case
        return case, lift_payload(store, WORDS[(address >> 3) + 3])

    return lift


def _lift_enum(_store: StoreView, address: int) -> str:
    return _name(address + 8)


def _lift_flags(_store: StoreView, address: int) -> frozenset[str]:
    index = address >> 3
    first = WORDS[index + 2]
    end = first + WORDS[index + 1] * NAME_SIZE
    return frozenset(_name(item) for item in range(first, end, NAME_SIZE))


def _take_rep(store: StoreView, address: int) -> int:
    """Read the handle at `address` and release Wasmtime's own record of it."""
    scratch = store.scratch
    error = native.any_to_host(store.context, WORDS[(address >> 3) + 1], scratch)
    if error:
        raise native.call_error(error)
    host = WORDS[scratch >> 3]
    rep: int = native.host_rep(host)
    native.host_delete(host)
    return rep


def _lift_borrow(store: StoreView, address: int) -> Resource:
    return store.table.get(_take_rep(store, address))


def _lift_own(store: StoreView, address: int) -> Resource:
    return store.table.take(_take_rep(store, address))


def lifter(ty: ValType) -> Lift:  # noqa: C901 - one case per kind of type
    """Return the function that reads values of type `ty`."""
    if (layout := SCALAR_LAYOUTS.get(type(ty))) is not None:
        return _scalar_lifter(layout)
    match ty:
        case Bool():
            return _lift_bool
        case Char():
            return _lift_char
        case String():
            return _lift_string
        case ListType():
            if isinstance(ty.element, U8):
                return _lift_bytes
            return _list_lifter(lifter(ty.element))
        case TupleType():
            return _tuple_lifter([lifter(item) for item in ty.elements])
        case RecordType():
            return _record_lifter([lifter(field) for _, field in ty.fields])
        case OptionType():
            return _option_lifter(lifter(ty.payload))
        case ResultType():
            return _result_lifter(_optional(ty.ok), _optional(ty.err))
        case VariantType():
            return _variant_lifter({name: _optional(payload) for name, payload in ty.cases})
        case EnumType():
            return _lift_enum
        case FlagsType():
            return _lift_flags
        case OwnType():
            return _lift_own
        case BorrowType():
            return _lift_borrow
    raise TypeError(f"no conversion for {type(ty).__name__}")


def _optional(ty: ValType | None) -> Lift | None:
    return None if ty is None else lifter(ty)
