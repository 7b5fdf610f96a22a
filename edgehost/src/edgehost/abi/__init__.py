"""The bridge a host call crosses: component values, handles, and the state of the calling guest.

wasm    engine, linker, instances          uses
wasi    host functions, by interface       uses
abi     values, handles, lifting and lowering
"""
