"""The default key-value store over `wasi:keyvalue`.

What real hosts do that their interface does not say, read in Spin's sources:

* `batch.get-many` leaves absent keys out and keeps no order (SQLite), or fails outright, because
  it runs KEYS instead of MGET (Redis, up to Spin 4.0). So answers are matched by key, and a
  failing batch falls back to single reads.
* `atomics.swap` for a key that was absent is a plain upsert: of two that create it together both
  succeed. Where creation must have one winner, use `increment`.
* On Redis `swap` always says that it failed, even after it has set the value. So a failed swap is
  believed only when the store does not hold our value; make swapped values unique to the writer.
* `increment` keeps its number in a form of its own: never `set` a key that is incremented.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spin_sdk.wit.imports import atomics, batch
from spin_sdk.wit.imports import wasi_keyvalue_store as store
from spin_sdk.wit.types import Err

from edgekit.ports import StoreUnavailableError

__all__ = ["DefaultStore"]

STORE_LABEL = "default"
"""The one store that exists under `spin up` without a runtime configuration."""


class DefaultStore:
    """`edgekit.ports.KeyValueStore` for a guest; opened at the first use, once per request."""

    def __init__(self) -> None:
        self._opened: store.Bucket | None = None

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        with _translated():
            return self._bucket().get(key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of `keys`."""
        if not keys:
            return []
        with _translated():
            bucket = self._bucket()
            try:
                found = dict(batch.get_many(bucket, list(keys)))
            except Err:
                return [bucket.get(key) for key in keys]
        return [found.get(key) for key in keys]

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        with _translated():
            self._bucket().set(key, value)

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items; not atomic."""
        if items:
            with _translated():
                batch.set_many(self._bucket(), list(items))

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        with _translated():
            self._bucket().delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys; absent ones are fine."""
        if keys:
            with _translated():
                batch.delete_many(self._bucket(), list(keys))

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` atomically; the new value."""
        with _translated():
            return atomics.increment(self._bucket(), key, delta)

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected`; True when set."""
        with _translated():
            operation = atomics.Cas.new(self._bucket(), key)
            if operation.current() != expected:
                operation.__exit__(None, None, None)
                return False
            try:
                atomics.swap(operation, value)
            except Err as error:
                if not isinstance(error.value, atomics.CasError_CasFailed):
                    raise
                with error.value.value as retry:
                    return retry.current() == value
            return True

    def _bucket(self) -> store.Bucket:
        if self._opened is None:
            self._opened = store.open(STORE_LABEL)
        return self._opened


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Err as error:
        reason = error.value
        if isinstance(reason, atomics.CasError_StoreError):
            reason = reason.value
        detail = getattr(reason, "value", None) or type(reason).__name__.removeprefix("Error_")
        raise StoreUnavailableError(f"key-value store {STORE_LABEL!r}: {detail}") from error
