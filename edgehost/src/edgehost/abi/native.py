"""Wasmtime's C API as plain integers, and a window on this process's memory.

The stock bindings wrap every pointer in a ctypes object; at forty host calls a request that is most
of the time. Here pointers are `int`, and values are read and written in place:

* `BYTES`, `HALF_WORDS` (32 bits) and `WORDS` (64) view the whole address space, so a field is one
  index operation and a `list<u8>` one strided copy. Only addresses from Wasmtime are ever used.
* Short calls go through `PyDLL` and keep the GIL: releasing it costs more than they take, and with
  several guests running it would hand over to another thread each time. Calls that run or set up
  Wasm go through `CDLL` and release it.

Layout of `wasmtime_component_val_t` (include/wasmtime/component/val.h), 32 bytes::

    0  kind: u8
    8  scalar | string {size, data} | list, tuple, record, flags {size, data} | option* | resource*
       | result {is_ok: u8, val* at 16} | variant {case name {size, data}, val* at 24}
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from wasmtime import WasmtimeError, _bindings, _ffi

__all__ = [
    "BYTES",
    "ENTRY_SIZE",
    "HALF_WORDS",
    "NAME_SIZE",
    "VAL_SIZE",
    "WORDS",
    "address_of",
    "call_error",
    "new_error",
    "take_error",
]

VAL_SIZE: Final = 32
ENTRY_SIZE: Final = 48  # record entry: name {size, data}, then the value
NAME_SIZE: Final = 16

if (
    ctypes.sizeof(_bindings.wasmtime_component_val) != VAL_SIZE
    or ctypes.sizeof(_bindings.wasmtime_component_valrecord_entry) != ENTRY_SIZE
    or _bindings.wasmtime_component_val.of.offset != 8
):  # pragma: no cover - guards an upgrade of wasmtime
    raise ImportError("this version of wasmtime lays out component values differently")

_SPAN: Final = 1 << 56  # above any user-space address, below what memoryview can count

BYTES: Final = memoryview((ctypes.c_ubyte * _SPAN).from_address(0)).cast("B")
HALF_WORDS: Final = (ctypes.c_uint32 * (_SPAN // 4)).from_address(0)
WORDS: Final = (ctypes.c_uint64 * (_SPAN // 8)).from_address(0)

_Pointer = ctypes.c_size_t
_Size = ctypes.c_size_t
_HANDLE = _ffi.dll._handle
_held = ctypes.PyDLL(None, handle=_HANDLE)
_released = ctypes.CDLL(None, handle=_HANDLE)


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = library[name]
    function.restype = result
    function.argtypes = list(arguments)
    return function


# Values. `out` is the address the callee writes to.
byte_vec_new = _bind(_held, "wasm_byte_vec_new", None, _Pointer, _Size, ctypes.c_char_p)
byte_vec_delete = _bind(_held, "wasm_byte_vec_delete", None, _Pointer)
list_new = _bind(_held, "wasmtime_component_vallist_new_uninit", None, _Pointer, _Size)
tuple_new = _bind(_held, "wasmtime_component_valtuple_new_uninit", None, _Pointer, _Size)
record_new = _bind(_held, "wasmtime_component_valrecord_new_uninit", None, _Pointer, _Size)
flags_new = _bind(_held, "wasmtime_component_valflags_new_uninit", None, _Pointer, _Size)
val_new = _bind(_held, "wasmtime_component_val_new", _Pointer, _Pointer)
val_delete = _bind(_held, "wasmtime_component_val_delete", None, _Pointer)

# Resources.
host_new = _bind(
    _held,
    "wasmtime_component_resource_host_new",
    _Pointer,
    ctypes.c_bool,
    ctypes.c_uint32,
    ctypes.c_uint32,
)
host_rep = _bind(_held, "wasmtime_component_resource_host_rep", ctypes.c_uint32, _Pointer)
host_delete = _bind(_held, "wasmtime_component_resource_host_delete", None, _Pointer)
any_to_host = _bind(
    _held, "wasmtime_component_resource_any_to_host", _Pointer, _Pointer, _Pointer, _Pointer
)
host_to_any = _bind(
    _held, "wasmtime_component_resource_host_to_any", _Pointer, _Pointer, _Pointer, _Pointer
)

# Stores and instances.
store_new = _bind(_released, "wasmtime_store_new", _Pointer, _Pointer, _Pointer, _Pointer)
store_context = _bind(_held, "wasmtime_store_context", _Pointer, _Pointer)
store_delete = _bind(_released, "wasmtime_store_delete", None, _Pointer)
store_limiter = _bind(_held, "wasmtime_store_limiter", None, _Pointer, *([ctypes.c_int64] * 5))
set_epoch_deadline = _bind(
    _held, "wasmtime_context_set_epoch_deadline", None, _Pointer, ctypes.c_uint64
)
EPOCH_CALLBACK: Final = ctypes.CFUNCTYPE(_Size, _Pointer, _Pointer, _Pointer, _Pointer)
store_epoch_callback = _bind(
    _held,
    "wasmtime_store_epoch_deadline_callback",
    None,
    _Pointer,
    EPOCH_CALLBACK,
    _Pointer,
    _Pointer,
)
increment_epoch = _bind(_held, "wasmtime_engine_increment_epoch", None, _Pointer)
instantiate = _bind(
    _released,
    "wasmtime_component_linker_instantiate",
    _Pointer,
    _Pointer,
    _Pointer,
    _Pointer,
    _Pointer,
)
instance_get_func = _bind(
    _held,
    "wasmtime_component_instance_get_func",
    ctypes.c_bool,
    _Pointer,
    _Pointer,
    _Pointer,
    _Pointer,
)
func_call = _bind(
    _released,
    "wasmtime_component_func_call",
    _Pointer,
    _Pointer,
    _Pointer,
    _Pointer,
    _Size,
    _Pointer,
    _Size,
)

# Linking.
FUNC_CALLBACK: Final = ctypes.CFUNCTYPE(
    _Size, _Pointer, _Pointer, _Pointer, _Pointer, _Size, _Pointer, _Size
)
DESTRUCTOR: Final = ctypes.CFUNCTYPE(_Size, _Pointer, _Pointer, ctypes.c_uint32)
linker_add_func = _bind(
    _held,
    "wasmtime_component_linker_instance_add_func",
    _Pointer,
    _Pointer,
    ctypes.c_char_p,
    _Size,
    FUNC_CALLBACK,
    _Pointer,
    _Pointer,
)
linker_add_resource = _bind(
    _held,
    "wasmtime_component_linker_instance_add_resource",
    _Pointer,
    _Pointer,
    ctypes.c_char_p,
    _Size,
    _Pointer,
    DESTRUCTOR,
    _Pointer,
    _Pointer,
)

# Errors.
error_new = _bind(_held, "wasmtime_error_new", _Pointer, ctypes.c_char_p)
error_message = _bind(_held, "wasmtime_error_message", None, _Pointer, _Pointer)
error_delete = _bind(_held, "wasmtime_error_delete", None, _Pointer)


def address_of(pointer: Any) -> int:
    """Return the address a ctypes pointer of the stock bindings holds."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def new_error(message: str) -> int:
    """Return a new error for a callback to hand to Wasmtime, which then owns it."""
    return error_new(message.encode("utf-8", "replace").replace(b"\0", b"?"))  # type: ignore[no-any-return]


def take_error(error: int) -> str:
    """Free `error` and return its text."""
    buffer = ctypes.create_string_buffer(NAME_SIZE)
    address = ctypes.addressof(buffer)
    error_message(error, address)
    error_delete(error)
    size, data = WORDS[address >> 3], WORDS[(address >> 3) + 1]
    try:
        return bytes(BYTES[data : data + size]).decode("utf-8", "replace")
    finally:
        byte_vec_delete(address)


def call_error(error: int) -> WasmtimeError:
    """Free `error` and return it as the exception the stock bindings raise."""
    return WasmtimeError(take_error(error))
