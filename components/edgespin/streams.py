"""Writing to `wasi:io` output streams without exceeding what the host has room for."""

from __future__ import annotations

from spin_sdk.wit.imports.streams import OutputStream

__all__ = ["MAX_BLOCKING_WRITE", "write_all"]

MAX_BLOCKING_WRITE = 4096
"""Most bytes that `blocking-write-and-flush` takes; more traps."""


def write_all(stream: OutputStream, data: bytes) -> None:
    """All of `data` has been handed to the transport.

    Raises:
        Err: The receiver has gone (`StreamError_Closed` or `StreamError_LastOperationFailed`).
    """
    if not data:
        return
    if len(data) <= MAX_BLOCKING_WRITE:
        stream.blocking_write_and_flush(data)
        return
    view = memoryview(data)
    offset = 0
    with stream.subscribe() as writable:
        while offset < len(data):
            room = stream.check_write()
            if room == 0:
                writable.block()
                continue
            stream.write(bytes(view[offset : offset + room]))
            offset += room
    stream.blocking_flush()
