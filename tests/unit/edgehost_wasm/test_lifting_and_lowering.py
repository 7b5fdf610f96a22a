"""Component values: what is lowered is lifted back unchanged, and nothing leaks on an error."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime.component import Component, ComponentInstanceType, FuncType, ValType

from edgehost.abi import native
from edgehost.abi.lifting import lifter
from edgehost.abi.lowering import Lowering
from edgehost.abi.native import VAL_SIZE
from edgehost.abi.resources import ResourceTable
from edgehost.abi.values import Err, Ok

COMPONENT = """
(component (import "types" (instance
  (type $record (record (field "a" u8) (field "b-c" (option string))))
  (export "pair" (type $r (eq $record)))
  (type $variant (variant (case "none") (case "text" string) (case "many" (list $r))))
  (export "choice" (type $v (eq $variant)))
  (type $enum (enum "red" "green"))
  (export "color" (type $e (eq $enum)))
  (type $flags (flags "read" "write" "exec"))
  (export "rights" (type $f (eq $flags)))
  (export "probe" (func
    (param "bool" bool) (param "s8" s8) (param "u8" u8) (param "s16" s16) (param "u16" u16)
    (param "s32" s32) (param "u32" u32) (param "s64" s64) (param "u64" u64) (param "f64" f64)
    (param "char" char) (param "string" string) (param "bytes" (list u8))
    (param "strings" (list string)) (param "tuple" (tuple u8 string (list u8)))
    (param "record" $r) (param "option" (option u32)) (param "variant" $v) (param "enum" $e)
    (param "flags" $f) (param "result" (result (list u8) (error string)))
    (param "nested" (option (result (result (option string) (error u8)))))
  )))))
"""


class Store:
    """A store without resources."""

    context = 0
    scratch = 0
    table = ResourceTable()


@pytest.fixture(scope="module")
def value_types() -> dict[str, ValType]:
    """The parameter types of the component above, by name."""
    engine = wasmtime.Engine()
    component = Component(engine, wasmtime.wat2wasm(COMPONENT))
    interface = component.type.imports(engine)["types"].ty
    assert isinstance(interface, ComponentInstanceType)
    probe = interface.exports(engine)["probe"].ty
    assert isinstance(probe, FuncType)
    return dict(probe.params)


@pytest.fixture
def slot() -> Iterator[int]:
    """The address of an empty value."""
    memory = (ctypes.c_uint64 * (VAL_SIZE // 8))()
    yield ctypes.addressof(memory)
    native.val_delete(ctypes.addressof(memory))


def round_trip(ty: ValType, value: Any) -> Any:
    memory = (ctypes.c_uint64 * (VAL_SIZE // 8))()
    address = ctypes.addressof(memory)
    Lowering([]).lowerer(ty)(Store, address, value)
    try:
        return lifter(ty)(Store, address)
    finally:
        native.val_delete(address)


pairs = st.tuples(st.integers(0, 255), st.none() | st.text(max_size=5))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "s8": st.integers(-128, 127),
    "u8": st.integers(0, 255),
    "s16": st.integers(-(1 << 15), (1 << 15) - 1),
    "u16": st.integers(0, (1 << 16) - 1),
    "s32": st.integers(-(1 << 31), (1 << 31) - 1),
    "u32": st.integers(0, (1 << 32) - 1),
    "s64": st.integers(-(1 << 63), (1 << 63) - 1),
    "u64": st.integers(0, (1 << 64) - 1),
    "f64": st.floats(allow_nan=False),
    "char": st.characters(codec="utf-8"),
    "string": st.text(),
    "bytes": st.binary(),
    "strings": st.lists(st.text()),
    "tuple": st.tuples(st.integers(0, 255), st.text(), st.binary()),
    "record": pairs,
    "option": st.none() | st.integers(0, 9),
    "variant": st.just("none")
    | st.tuples(st.just("text"), st.text())
    | st.tuples(st.just("many"), st.lists(pairs)),
    "enum": st.sampled_from(["red", "green"]),
    "flags": st.frozensets(st.sampled_from(["read", "write", "exec"])),
    "result": st.binary().map(Ok) | st.text().map(Err),
    "nested": st.none()
    | st.just(Err(None))
    | (st.none() | st.text()).map(lambda text: Ok(Ok(text)))
    | st.integers(0, 255).map(lambda number: Ok(Err(number))),
}


def test_every_type_of_the_component_has_a_strategy(value_types: dict[str, ValType]) -> None:
    assert set(VALUES) == set(value_types)


@pytest.mark.parametrize("name", VALUES)
def test_value_comes_back_as_it_was_lowered(value_types: dict[str, ValType], name: str) -> None:
    @settings(max_examples=50)
    @given(VALUES[name])
    def check(value: Any) -> None:
        assert round_trip(value_types[name], value) == value

    check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("u8", 256),
        ("string", "\ud800"),
        ("strings", ["fine", "\ud800"]),
        ("tuple", (1, "two")),
        ("record", (1, "\ud800")),
        ("variant", ("unknown", 1)),
        ("variant", ("many", [(1, None), (2, "\ud800")])),
        ("result", Ok(None)),
    ],
)
def test_value_that_does_not_fit_raises_and_leaves_its_slot_freeable(
    value_types: dict[str, ValType], slot: int, name: str, value: Any
) -> None:
    lower = Lowering([]).lowerer(value_types[name])

    with pytest.raises((ValueError, TypeError, KeyError, struct.error)):
        lower(Store, slot, value)


def test_large_byte_list_is_copied_exactly(value_types: dict[str, ValType]) -> None:
    data = bytes(range(256)) * 1000

    assert round_trip(value_types["bytes"], data) == data
