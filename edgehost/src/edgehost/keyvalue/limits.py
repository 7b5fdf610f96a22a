"""Sizes a store takes, and the form its counters have.

Spin's own stores bound only what one answer may hold (128 MiB). Its guide promises keys of 256
bytes and values of 1 MB, managed platforms keys of 255 bytes; holding guests to what every platform
takes keeps an app portable, and bounds what one call can cost the host.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgehost.errors import StoreError

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "AnswerSize",
    "check_entry",
    "check_key",
    "check_value",
    "counter_from_bytes",
    "counter_to_bytes",
    "sum_in_64_bits",
]

MAX_KEY_BYTES = 255
MAX_VALUE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 128 << 20
_COUNTER_BYTES = 8


def check_key(key: str) -> None:
    """Raise `StoreError` when `key` is too long, or no Unicode text."""
    if len(key) <= MAX_KEY_BYTES and key.isascii():
        return
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise StoreError("the key is not valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise StoreError(f"the key is {size} bytes long; the limit is {MAX_KEY_BYTES} bytes")


def check_value(value: bytes) -> None:
    """Raise `StoreError` when `value` is too long."""
    if len(value) > MAX_VALUE_BYTES:
        raise StoreError(
            f"the value is {len(value)} bytes long; the limit is {MAX_VALUE_BYTES} bytes"
        )


def check_entry(key: str, value: bytes) -> None:
    """Raise `StoreError` when either is too long."""
    check_key(key)
    check_value(value)


class AnswerSize:
    """Adds up what one answer holds, and refuses to go on past the limit."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, parts: Iterable[str | bytes | None]) -> None:
        """Count `parts`. Raises `StoreError` when the answer would be too large."""
        self._bytes += sum(len(part) for part in parts if part is not None)
        if self._bytes > MAX_ANSWER_BYTES:
            raise StoreError(f"query result exceeds limit of {MAX_ANSWER_BYTES} bytes")


def counter_from_bytes(key: str, value: bytes | None) -> int:
    """The integer a SQLite or memory store keeps: 8 bytes, little-endian, signed; absent is 0."""
    if value is None:
        return 0
    if len(value) != _COUNTER_BYTES:
        raise StoreError(
            f'the value of "{key}" is no counter: it is {len(value)} bytes long, not '
            f"{_COUNTER_BYTES}"
        )
    return int.from_bytes(value, "little", signed=True)


def counter_to_bytes(number: int) -> bytes:
    """The form `counter_from_bytes` reads."""
    return number.to_bytes(_COUNTER_BYTES, "little", signed=True)


def sum_in_64_bits(key: str, number: int, delta: int) -> int:
    """`number + delta`. Raises `StoreError` when that is no signed 64-bit integer."""
    total = number + delta
    if not -(1 << 63) <= total < 1 << 63:
        raise StoreError(f'incrementing "{key}" by {delta} would overflow 64 bits')
    return total
