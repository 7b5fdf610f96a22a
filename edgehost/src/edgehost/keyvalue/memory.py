"""A store that lives as long as the host."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edgehost.keyvalue.limits import (
    AnswerSize,
    check_entry,
    check_key,
    counter_from_bytes,
    counter_to_bytes,
    sum_in_64_bits,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keys and values in a dict; a `Store`.

    No call waits for anything but another call's dict operation.
    """

    __slots__ = ("_lock", "_values")

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        check_key(key)
        return self._values.get(key)

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        check_entry(key, value)
        with self._lock:
            self._values[key] = bytes(value)

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        check_key(key)
        with self._lock:
            self._values.pop(key, None)

    def exists(self, key: str) -> bool:
        """True when `key` holds a value."""
        check_key(key)
        return key in self._values

    def get_keys(self) -> list[str]:
        """Every key."""
        with self._lock:
            keys = list(self._values)
        AnswerSize().add(keys)
        return keys

    def get_many(self, keys: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Values in the order of `keys`, of one moment."""
        for key in keys:
            check_key(key)
        with self._lock:
            found = [(key, self._values.get(key)) for key in keys]
        size = AnswerSize()
        for entry in found:
            size.add(entry)
        return found

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items at once."""
        for key, value in items:
            check_entry(key, value)
        with self._lock:
            self._values.update((key, bytes(value)) for key, value in items)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys at once; absent ones are fine."""
        for key in keys:
            check_key(key)
        with self._lock:
            for key in keys:
                self._values.pop(key, None)

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` to the counter at `key` (absent counts as 0); the new value."""
        check_key(key)
        with self._lock:
            number = counter_from_bytes(key, self._values.get(key))
            total = sum_in_64_bits(key, number, delta)
            self._values[key] = counter_to_bytes(total)
            return total

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected` (None: absent); True when set."""
        check_entry(key, value)
        with self._lock:
            if self._values.get(key) != expected:
                return False
            self._values[key] = bytes(value)
            return True

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
