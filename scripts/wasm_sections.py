"""Drop the custom sections of a WebAssembly component, nested modules and components included.

Custom sections (DWARF, names, producers) never influence execution; in a component made by
componentize-py they are half of the file, and every host reads, hashes and ships them.

Source:
    WebAssembly core specification 2.0, section 5.5.2 (sections); component model,
    design/mvp/Binary.md (a component is a preamble with layer 1 and sections whose ids 1 and 4
    hold whole modules and components).
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["WasmFormatError", "strip_custom_sections"]

CORE_PREAMBLE = b"\0asm\x01\0\0\0"
COMPONENT_PREAMBLE = b"\0asm\x0d\0\x01\0"

CUSTOM_SECTION = 0
CORE_MODULE_SECTION = 1
COMPONENT_SECTION = 4

MAX_NESTING = 16


class WasmFormatError(ValueError):
    """The bytes are no WebAssembly module or component, or they end too early."""


def strip_custom_sections(wasm: bytes) -> bytes:
    """The same program without any custom section.

    Raises:
        WasmFormatError: Unknown preamble, a section past the end, or nesting deeper than 16.
    """
    return b"".join(_strip(memoryview(wasm), depth=0))


def _strip(wasm: memoryview, depth: int) -> Iterator[bytes | memoryview]:
    preamble = bytes(wasm[:8])
    if preamble not in (CORE_PREAMBLE, COMPONENT_PREAMBLE):
        raise WasmFormatError(f"not a WebAssembly module or component: starts with {preamble!r}")
    if depth > MAX_NESTING:
        raise WasmFormatError(f"components nested deeper than {MAX_NESTING}")
    nests = preamble == COMPONENT_PREAMBLE
    yield preamble
    for section_id, payload in _sections(wasm):
        if section_id == CUSTOM_SECTION:
            continue
        if nests and section_id in (CORE_MODULE_SECTION, COMPONENT_SECTION):
            inner = b"".join(_strip(payload, depth + 1))
            yield bytes((section_id,)) + _encode_u32(len(inner))
            yield inner
        else:
            yield bytes((section_id,)) + _encode_u32(len(payload))
            yield payload


def _sections(wasm: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Id and payload of each section after the preamble."""
    offset = 8
    while offset < len(wasm):
        section_id = wasm[offset]
        size, start = _decode_u32(wasm, offset + 1)
        if start + size > len(wasm):
            raise WasmFormatError(f"section {section_id} at byte {offset} runs past the end")
        yield section_id, wasm[start : start + size]
        offset = start + size


def _decode_u32(data: memoryview, offset: int) -> tuple[int, int]:
    """An unsigned LEB128 of at most 32 bits and the offset after it."""
    value = 0
    for count in range(5):
        if offset + count >= len(data):
            raise WasmFormatError("the file ends inside a section size")
        byte = data[offset + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, offset + count + 1
    raise WasmFormatError(f"section size at byte {offset} is longer than 32 bits")


def _encode_u32(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
