"""fermyon:spin/key-value and wasi:keyvalue — the app's key-value stores.

Both open a store by its label, which the component must list in `key_value_stores`; both see the
same data. Limits on keys and values belong to the stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.resources import Resource
from edgehost.abi.values import ErrorResult
from edgehost.errors import StoreError
from edgehost.ports import Store

__all__ = ["INTERFACES"]

spin_key_value = HostInterface("fermyon:spin/key-value@2.0.0")
wasi_store = HostInterface("wasi:keyvalue/store@0.2.0-draft2")
wasi_batch = HostInterface("wasi:keyvalue/batch@0.2.0-draft2")
wasi_atomics = HostInterface("wasi:keyvalue/atomics@0.2.0-draft2")

MAX_BATCH_BYTES: Final = 8 << 20
"""Values in one answer. Spin allows 128 MiB; here a byte costs some 70 on its way to the guest."""

_SPIN_CASES: Final = frozenset({"store-table-full", "no-such-store", "access-denied"})
_WASI_CASES: Final = frozenset({"no-such-store", "access-denied"})


class OpenStore(Resource):
    """A store as a guest holds it: `store` in Spin's interface, `bucket` in WASI's."""

    __slots__ = ("store",)

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store


class CompareAndSwap(Resource):
    """A key whose value a guest wants to replace only if nobody else did.

    It does not count as a child of its bucket: Spin lets the bucket go first.
    """

    __slots__ = ("_known", "_seen", "key", "store")

    def __init__(self, store: Store, key: str) -> None:
        super().__init__()
        self.store = store
        self.key = key
        self._seen: bytes | None = None
        self._known = False

    def current(self) -> bytes | None:
        """The value now, which `swap` will expect."""
        self._seen = self.store.get(self.key)
        self._known = True
        return self._seen

    def swap(self, value: bytes) -> bool:
        """Replace the value `current` returned; without a `current` before, whatever is there."""
        if not self._known:
            self.store.set(self.key, value)
            return True
        return self.store.compare_and_swap(self.key, self._seen, value)


def _open(guest: Guest, label: str) -> OpenStore:
    spec = guest.spec
    if label not in spec.key_value_stores:
        raise StoreError(f"the component may not use the store {label!r}", "access-denied")
    if spec.stores is None:
        raise StoreError(f"there is no store {label!r}", "no-such-store")
    return OpenStore(spec.stores.open(label))


@contextmanager
def _spin_errors() -> Iterator[None]:
    """Turn a `StoreError` into `fermyon:spin/key-value.error`."""
    try:
        yield
    except StoreError as error:
        raise ErrorResult(_spin_error(error)) from error


@contextmanager
def _wasi_errors() -> Iterator[None]:
    """Turn a `StoreError` into `wasi:keyvalue/store.error`."""
    try:
        yield
    except StoreError as error:
        raise ErrorResult(_wasi_error(error)) from error


def _spin_error(error: StoreError) -> str | tuple[str, str]:
    return error.case if error.case in _SPIN_CASES else ("other", str(error))


def _wasi_error(error: StoreError) -> str | tuple[str, str]:
    if error.case == "store-table-full":
        return "other", "store table full"
    return error.case if error.case in _WASI_CASES else ("other", str(error))


# --- fermyon:spin/key-value -----------------------------------------------------------------------


@spin_key_value.function("[static]store.open")
def spin_open(guest: Guest, label: str) -> OpenStore:
    """Open the store `label`."""
    with _spin_errors():
        return _open(guest, label)


@spin_key_value.function("[method]store.get")
def spin_get(_guest: Guest, store: OpenStore, key: str) -> bytes | None:
    """The value of `key`, if it has one."""
    with _spin_errors():
        return store.store.get(key)


@spin_key_value.function("[method]store.set")
def spin_set(_guest: Guest, store: OpenStore, key: str, value: bytes) -> None:
    """Set `key`."""
    with _spin_errors():
        store.store.set(key, value)


@spin_key_value.function("[method]store.delete")
def spin_delete(_guest: Guest, store: OpenStore, key: str) -> None:
    """Remove `key`."""
    with _spin_errors():
        store.store.delete(key)


@spin_key_value.function("[method]store.exists")
def spin_exists(_guest: Guest, store: OpenStore, key: str) -> bool:
    """True when `key` has a value."""
    with _spin_errors():
        return store.store.exists(key)


@spin_key_value.function("[method]store.get-keys")
def spin_get_keys(_guest: Guest, store: OpenStore) -> list[str]:
    """Every key."""
    with _spin_errors():
        return store.store.get_keys()


# --- wasi:keyvalue/store --------------------------------------------------------------------------


@wasi_store.function("open")
def wasi_open(guest: Guest, identifier: str) -> OpenStore:
    """Open the store `identifier`."""
    with _wasi_errors():
        return _open(guest, identifier)


@wasi_store.function("[method]bucket.get")
def bucket_get(_guest: Guest, bucket: OpenStore, key: str) -> bytes | None:
    """The value of `key`, if it has one."""
    with _wasi_errors():
        return bucket.store.get(key)


@wasi_store.function("[method]bucket.set")
def bucket_set(_guest: Guest, bucket: OpenStore, key: str, value: bytes) -> None:
    """Set `key`."""
    with _wasi_errors():
        bucket.store.set(key, value)


@wasi_store.function("[method]bucket.delete")
def bucket_delete(_guest: Guest, bucket: OpenStore, key: str) -> None:
    """Remove `key`."""
    with _wasi_errors():
        bucket.store.delete(key)


@wasi_store.function("[method]bucket.exists")
def bucket_exists(_guest: Guest, bucket: OpenStore, key: str) -> bool:
    """True when `key` has a value."""
    with _wasi_errors():
        return bucket.store.exists(key)


@wasi_store.function("[method]bucket.list-keys")
def bucket_list_keys(
    _guest: Guest, bucket: OpenStore, cursor: str | None
) -> tuple[list[str], None]:
    """Every key at once, as Spin answers: there are no pages, so no cursor is valid."""
    if cursor is not None:
        raise ErrorResult(("other", "list_keys: cursor not supported"))
    with _wasi_errors():
        return bucket.store.get_keys(), None


# --- wasi:keyvalue/batch --------------------------------------------------------------------------


@wasi_batch.function("get-many")
def batch_get_many(
    _guest: Guest, bucket: OpenStore, keys: list[str]
) -> list[tuple[str, bytes | None]]:
    """Values in the order of `keys`."""
    with _wasi_errors():
        items = bucket.store.get_many(keys) if keys else []
    if sum(len(value) for _, value in items if value is not None) > MAX_BATCH_BYTES:
        raise ErrorResult(("other", f"query result exceeds limit of {MAX_BATCH_BYTES} bytes"))
    return items


@wasi_batch.function("set-many")
def batch_set_many(_guest: Guest, bucket: OpenStore, items: list[tuple[str, bytes]]) -> None:
    """Set all items."""
    with _wasi_errors():
        if items:
            bucket.store.set_many(items)


@wasi_batch.function("delete-many")
def batch_delete_many(_guest: Guest, bucket: OpenStore, keys: list[str]) -> None:
    """Remove all keys."""
    with _wasi_errors():
        if keys:
            bucket.store.delete_many(keys)


# --- wasi:keyvalue/atomics ------------------------------------------------------------------------


@wasi_atomics.function("increment")
def increment(_guest: Guest, bucket: OpenStore, key: str, delta: int) -> int:
    """Add `delta` to the number at `key`; the new value."""
    with _wasi_errors():
        return bucket.store.increment(key, delta)


@wasi_atomics.function("[static]cas.new")
def cas_new(_guest: Guest, bucket: OpenStore, key: str) -> CompareAndSwap:
    """Prepare to replace the value of `key`."""
    return CompareAndSwap(bucket.store, key)


@wasi_atomics.function("[method]cas.current")
def cas_current(_guest: Guest, cas: CompareAndSwap) -> bytes | None:
    """The value now."""
    with _wasi_errors():
        return cas.current()


@wasi_atomics.function("swap")
def cas_swap(_guest: Guest, cas: CompareAndSwap, value: bytes) -> None:
    """Replace the value; on a conflict the error holds a new cas that has seen the newer value."""
    try:
        if cas.swap(value):
            return
        retry = CompareAndSwap(cas.store, cas.key)
        retry.current()
    except StoreError as error:
        raise ErrorResult(("store-error", _wasi_error(error))) from error
    raise ErrorResult(("cas-failed", retry))


INTERFACES = (spin_key_value, wasi_store, wasi_batch, wasi_atomics)
