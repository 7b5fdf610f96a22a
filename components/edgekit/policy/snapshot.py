"""All a request needs from the key-value store, read in one round trip."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.ports import KeyValueStore, StoreUnavailableError

__all__ = ["Snapshot"]


class Snapshot:
    """Values as they were at one moment.

    Attributes:
        available: False when the store did not answer: then every value is absent, and nothing
            should be written back on the strength of it.
    """

    __slots__ = ("_values", "available")

    def __init__(self, values: dict[str, bytes | None], *, available: bool = True) -> None:
        self._values = values
        self.available = available

    @classmethod
    def read(cls, store: KeyValueStore, keys: Iterable[str]) -> Snapshot:
        """Read `keys` in one batch; never raises, see `available`."""
        names = list(dict.fromkeys(keys))
        try:
            values = store.get_many(names)
        except StoreUnavailableError:
            return cls({}, available=False)
        return cls(dict(zip(names, values, strict=True)))

    def get(self, key: str) -> bytes | None:
        """The value of `key`; None when it was absent, or not read at all."""
        return self._values.get(key)
