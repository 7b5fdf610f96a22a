"""`wasm_sections`: custom sections go, everything else stays byte by byte."""

from __future__ import annotations

import pytest

from wasm_sections import (
    COMPONENT_PREAMBLE,
    CORE_PREAMBLE,
    MAX_NESTING,
    WasmFormatError,
    strip_custom_sections,
)


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def section(section_id: int, payload: bytes) -> bytes:
    return bytes((section_id,)) + leb(len(payload)) + payload


CUSTOM = section(0, b"\x04name" + bytes(300))
CODE = section(10, bytes(200))


def test_strip_core_module_drops_custom_sections_only() -> None:
    module = CORE_PREAMBLE + CUSTOM + CODE + CUSTOM
    assert strip_custom_sections(module) == CORE_PREAMBLE + CODE


def test_strip_component_descends_into_modules_and_components() -> None:
    def component(custom: bytes) -> bytes:
        module = section(1, CORE_PREAMBLE + custom + CODE)
        inner = section(4, COMPONENT_PREAMBLE + custom + module)
        return COMPONENT_PREAMBLE + custom + module + inner + section(11, b"\x01")

    assert strip_custom_sections(component(CUSTOM)) == component(b"")


def test_strip_core_section_one_is_no_nested_module() -> None:
    module = CORE_PREAMBLE + section(1, b"types") + section(4, b"tables")
    assert strip_custom_sections(module) == module


def test_strip_twice_changes_nothing_more() -> None:
    once = strip_custom_sections(COMPONENT_PREAMBLE + CUSTOM + section(7, b"abc"))
    assert strip_custom_sections(once) == once


@pytest.mark.parametrize(
    ("wasm", "text"),
    [
        (b"", "not a WebAssembly"),
        (b"\x7fELF1234", "not a WebAssembly"),
        (COMPONENT_PREAMBLE + b"\x07\x05abc", "runs past the end"),
        (COMPONENT_PREAMBLE + b"\x07", "inside a section size"),
        (COMPONENT_PREAMBLE + b"\x07\x80", "inside a section size"),
        (COMPONENT_PREAMBLE + b"\x07\xff\xff\xff\xff\xff\x01", "longer than 32 bits"),
        (COMPONENT_PREAMBLE + section(1, b"no module"), "not a WebAssembly"),
    ],
)
def test_strip_malformed_file_says_where(wasm: bytes, text: str) -> None:
    with pytest.raises(WasmFormatError, match=text):
        strip_custom_sections(wasm)


def test_strip_nesting_without_end_is_refused() -> None:
    wasm = COMPONENT_PREAMBLE
    for _ in range(MAX_NESTING + 1):
        wasm = COMPONENT_PREAMBLE + section(4, wasm)
    with pytest.raises(WasmFormatError, match="nested deeper"):
        strip_custom_sections(wasm)
