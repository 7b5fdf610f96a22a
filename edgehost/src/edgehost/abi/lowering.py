"""Lowering: Python values become component values for Wasmtime to read.

`Lowering.lowerer(type)` is called once per type; the function it returns closes over everything the
type says. It writes a `wasmtime_component_val_t` (layout in `native`) whose memory Wasmtime's
allocator owns. The target is well-formed at every step, so that an exception half-way frees
cleanly.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final

from wasmtime.component import (
    U8,
    Bool,
    Char,
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
    String,
    TupleType,
    ValType,
    VariantType,
)

from edgehost.abi import native
from edgehost.abi.lifting import SCALAR_LAYOUTS, StoreView
from edgehost.abi.native import BYTES, ENTRY_SIZE, HALF_WORDS, NAME_SIZE, VAL_SIZE, WORDS
from edgehost.abi.resources import Resource
from edgehost.abi.values import Err, Ok

__all__ = ["Lower", "Lowering"]

Lower = Callable[[StoreView, int, Any], None]
"""Writes a value at an address."""

# wasmtime_component_valkind_t: bool, ten scalars in the order of SCALAR_LAYOUTS, char, the rest.
_BOOL: Final = 0
_SCALARS: Final = {ty: (kind, text) for kind, (ty, text) in enumerate(SCALAR_LAYOUTS.items(), 1)}
_U8_KIND: Final = _SCALARS[U8][0]
_CHAR: Final = 11
_STRING, _LIST, _RECORD, _TUPLE, _VARIANT = range(12, 17)
_ENUM, _OPTION, _RESULT, _FLAGS, _RESOURCE = range(17, 22)

_ZERO_VAL = (ctypes.c_ubyte * VAL_SIZE)()
_ZERO: Final = ctypes.addressof(_ZERO_VAL)


def new_box() -> int:
    """Return the address of a new boxed value, `false` until written."""
    return native.val_new(_ZERO)  # type: ignore[no-any-return]


def _lower_bool(_store: StoreView, address: int, value: bool) -> None:
    BYTES[address + 8] = 1 if value else 0
    BYTES[address] = _BOOL


def _scalar_lowerer(kind: int, layout: str) -> Lower:
    pack = struct.Struct(layout).pack_into

    def lower(_store: StoreView, address: int, value: Any) -> None:
        pack(BYTES, address + 8, value)
        BYTES[address] = kind

    return lower


def _lower_char(_store: StoreView, address: int, value: str) -> None:
    HALF_WORDS[(address + 8) >> 2] = ord(value)
    BYTES[address] = _CHAR


def _lower_string(_store: StoreView, address: int, value: str) -> None:
    data = value.encode()
    native.byte_vec_new(address + 8, len(data), data)
    BYTES[address] = _STRING


def _lower_bytes(_store: StoreView, address: int, value: bytes) -> None:
    size = len(value)
    native.list_new(address + 8, size)
    if size:
        first = WORDS[(address >> 3) + 2]
        end = first + size * VAL_SIZE
        BYTES[first:end:VAL_SIZE] = bytes((_U8_KIND,)) * size
        BYTES[first + 8 : end + 8 : VAL_SIZE] = value
    BYTES[address] = _LIST


def _clear(address: int, size: int) -> None:
    """Make freshly allocated values well-formed: all zero is `false`."""
    BYTES[address : address + size] = bytes(size)


def _list_lowerer(lower_item: Lower) -> Lower:
    def lower(store: StoreView, address: int, value: list[Any]) -> None:
        size = len(value)
        native.list_new(address + 8, size)
        item = WORDS[(address >> 3) + 2]
        if size:
            _clear(item, size * VAL_SIZE)
        BYTES[address] = _LIST
        for element in value:
            lower_item(store, item, element)
            item += VAL_SIZE

    return lower


def _tuple_lowerer(lowers: list[Lower]) -> Lower:
    count = len(lowers)

    def lower(store: StoreView, address: int, value: tuple[Any, ...]) -> None:
        native.tuple_new(address + 8, count)
        item = WORDS[(address >> 3) + 2]
        _clear(item, count * VAL_SIZE)
        BYTES[address] = _TUPLE
        for lower_item, element in zip(lowers, value, strict=True):
            lower_item(store, item, element)
            item += VAL_SIZE

    return lower


def _record_lowerer(fields: list[tuple[str, Lower]]) -> Lower:
    encoded = tuple((name.encode(), lower) for name, lower in fields)
    count = len(encoded)

    def lower(store: StoreView, address: int, value: tuple[Any, ...]) -> None:
        native.record_new(address + 8, count)
        entry = WORDS[(address >> 3) + 2]
        _clear(entry, count * ENTRY_SIZE)
        for position, (name, _) in enumerate(encoded):  # names first: a null one is not well-formed
            native.byte_vec_new(entry + position * ENTRY_SIZE, len(name), name)
        BYTES[address] = _RECORD
        for (_, lower_field), element in zip(encoded, value, strict=True):
            lower_field(store, entry + NAME_SIZE, element)
            entry += ENTRY_SIZE

    return lower


def _option_lowerer(lower_some: Lower) -> Lower:
    def lower(store: StoreView, address: int, value: Any) -> None:
        if value is None:
            WORDS[(address >> 3) + 1] = 0
            BYTES[address] = _OPTION
            return
        box = new_box()
        WORDS[(address >> 3) + 1] = box
        BYTES[address] = _OPTION
        lower_some(store, box, value)

    return lower


def result_case_lowerer(lower_payload: Lower | None, *, is_ok: bool) -> Lower:
    """Return a function that writes one case of a result, given its plain payload."""
    flag = 1 if is_ok else 0

    def lower(store: StoreView, address: int, value: Any) -> None:
        index = address >> 3
        BYTES[address + 8] = flag
        if lower_payload is None:
            WORDS[index + 2] = 0
            BYTES[address] = _RESULT
            return
        box = new_box()
        WORDS[index + 2] = box
        BYTES[address] = _RESULT
        lower_payload(store, box, value)

    return lower


def _result_lowerer(lower_ok: Lower | None, lower_err: Lower | None) -> Lower:
    ok = result_case_lowerer(lower_ok, is_ok=True)
    err = result_case_lowerer(lower_err, is_ok=False)

    def lower(store: StoreView, address: int, value: Ok | Err) -> None:
        (ok if type(value) is Ok else err)(store, address, value.value)

    return lower


def _variant_lowerer(cases: dict[str, Lower | None]) -> Lower:
    names = {name: name.encode() for name in cases}

    def lower(store: StoreView, address: int, value: Any) -> None:
        case, payload = value if type(value) is tuple else (value, None)
        lower_payload = cases[case]
        name = names[case]
        native.byte_vec_new(address + 8, len(name), name)
        if lower_payload is None:
            WORDS[(address >> 3) + 3] = 0
            BYTES[address] = _VARIANT
            return
        box = new_box()
        WORDS[(address >> 3) + 3] = box
        BYTES[address] = _VARIANT
        lower_payload(store, box, payload)

    return lower


def _lower_enum(_store: StoreView, address: int, value: str) -> None:
    name = value.encode()
    native.byte_vec_new(address + 8, len(name), name)
    BYTES[address] = _ENUM


def _lower_flags(_store: StoreView, address: int, value: frozenset[str]) -> None:
    native.flags_new(address + 8, len(value))
    item = WORDS[(address >> 3) + 2]
    for flag in value:
        name = flag.encode()
        native.byte_vec_new(item, len(name), name)
        item += NAME_SIZE
    BYTES[address] = _FLAGS


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


class Lowering:
    """Builds lowerers for the types of one component.

    Args:
        resources: The host's identifier of each resource type the component imports.
    """

    def __init__(self, resources: list[tuple[ResourceType, int]]) -> None:
        self._resources = resources

    def lowerer(self, ty: ValType) -> Lower:  # noqa: C901 - one case per kind of type
        """Return the function that writes values of type `ty`."""
        if (layout := _SCALARS.get(type(ty))) is not None:
            return _scalar_lowerer(*layout)
        match ty:
            case Bool():
                return _lower_bool
            case Char():
                return _lower_char
            case String():
                return _lower_string
            case ListType():
                if isinstance(ty.element, U8):
                    return _lower_bytes
                return _list_lowerer(self.lowerer(ty.element))
            case TupleType():
                return _tuple_lowerer([self.lowerer(item) for item in ty.elements])
            case RecordType():
                return _record_lowerer([(name, self.lowerer(field)) for name, field in ty.fields])
            case OptionType():
                return _option_lowerer(self.lowerer(ty.payload))
            case ResultType():
                return _result_lowerer(self._optional(ty.ok), self._optional(ty.err))
            case VariantType():
                return _variant_lowerer(
                    {name: self._optional(payload) for name, payload in ty.cases}
                )
            case EnumType():
                return _lower_enum
            case FlagsType():
                return _lower_flags
            case OwnType():
                return own_lowerer(self._resource_id(ty.ty))
        raise TypeError(f"no conversion for {type(ty).__name__}")

    def result_cases(self, ty: ResultType) -> tuple[Lower, Lower]:
        """Return the functions that write the ok case and the error case of `ty`."""
        return (
            result_case_lowerer(self._optional(ty.ok), is_ok=True),
            result_case_lowerer(self._optional(ty.err), is_ok=False),
        )

    def _resource_id(self, resource: ResourceType) -> int:
        for known, type_id in self._resources:
            if known == resource:
                return type_id
        raise TypeError("a resource type that the component does not import")

    def _optional(self, ty: ValType | None) -> Lower | None:
        return None if ty is None else self.lowerer(ty)
