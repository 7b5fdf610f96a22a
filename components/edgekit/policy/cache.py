"""The response cache: a set-associative store inside the key-value store.

Keys, with `<set>` and `<way>` as small numbers:

    cache/e/<set>/<way>      one stored answer
    cache/u/<set>            when each way of the set was last used: 4 bytes each
    cache/g                  purge counter of everything
    cache/g/t/<tenant>       … of one tenant
    cache/g/m/<model>        … of one model (hashed)

The address of a request picks its set; an answer lies in any way of it. That bounds the store by
construction (sets × ways × largest entry, whatever races or dies), needs no listing of keys, reads
all candidates in the request's one batch, and evicts the least recently used way of a set at the
cost of nothing but its overwriting. A purge adds 1 to a counter; entries remember the counters
under which their request began, so an answer computed before a purge is never served after it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.policy.cache_entry import StoredAnswer, decode_answer, encode_answer
from edgekit.policy.cache_key import CacheKey
from edgekit.policy.counters import read_counter
from edgekit.policy.snapshot import Snapshot
from edgekit.ports import KeyValueStore

__all__ = ["CacheShape", "Lookup", "ResponseCache"]

Items = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bounds of the cache: at most ``sets * ways * max_entry_bytes`` bytes.

    Attributes:
        sets: 512 sets of 4 ways hold 2,048 answers, 128 MiB when every one is of the largest size.
        ways: 4: conflicts are rare, and a lookup reads at most 4 entries.
        max_entry_bytes: 64 KiB: a lookup moves 256 KiB at worst; larger answers are not stored.
    """

    sets: int = 512
    ways: int = 4
    max_entry_bytes: int = 65_536


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the cache holds for one key.

    Attributes:
        answer: The stored answer with this very identity, under the purge counters of now.
        way: Where it lies, or where a new one is to go.
        generations: Purge counters of now; a new entry is stored under them.
        used_s: Time of last use of each way, in whole seconds of wall time.
    """

    key: CacheKey
    answer: StoredAnswer | None
    way: int
    generations: tuple[int, ...]
    used_s: tuple[int, ...]


class ResponseCache:
    """Lookup, storage and purge. Reads from a `Snapshot`, writes as items of a batch."""

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape

    def keys(self, key: CacheKey, *, tenant: str, model: str) -> list[str]:
        """What `find` needs in its snapshot."""
        index = self._set_of(key.address)
        return [
            *self._way_keys(index),
            _use_key(index),
            *_generation_keys(tenant, model),
        ]

    def find(
        self, snapshot: Snapshot, key: CacheKey, *, tenant: str, model: str, now_s: float
    ) -> Lookup:
        """Look `key` up in a snapshot of its `keys`."""
        index = self._set_of(key.address)
        stored = [decode_answer(snapshot.get(name)) for name in self._way_keys(index)]
        generations = tuple(
            read_counter(snapshot.get(name)) for name in _generation_keys(tenant, model)
        )
        used_s = self._read_uses(snapshot.get(_use_key(index)))
        matches = [
            way
            for way, answer in enumerate(stored)
            if answer and answer.identity == key.identity and answer.generations == generations
        ]
        if matches:
            # Two instances may have stored the same answer in two ways: the newer one counts.
            way = max(matches, key=lambda match: _stored_at_s(stored[match]))
            return Lookup(key, stored[way], way, generations, used_s)
        victim = _victim(stored, key, used_s, now_s)
        return Lookup(key, None, victim, generations, used_s)

    def touch_items(self, lookup: Lookup, now_s: float) -> Items:
        """Items that record the use of the answer found.

        Stamps of other ways are written back as they were read: a use in between is forgotten,
        which is what makes this LRU approximate.
        """
        used_s = list(lookup.used_s)
        used_s[lookup.way] = max(0, min(int(now_s), 2**32 - 1))
        index = self._set_of(lookup.key.address)
        return [(_use_key(index), struct.pack(f"<{len(used_s)}I", *used_s))]

    def store_items(self, lookup: Lookup, answer: StoredAnswer, now_s: float) -> Items:
        """Items that store `answer` where `lookup` said; none when it is too large."""
        data = encode_answer(answer)
        if len(data) > self._shape.max_entry_bytes:
            return []
        index = self._set_of(lookup.key.address)
        return [(self._way_keys(index)[lookup.way], data), *self.touch_items(lookup, now_s)]

    def purge_all(self, store: KeyValueStore) -> None:
        """Make every stored answer a miss. Raises StoreUnavailableError, as the purges below do."""
        store.increment(_ALL, 1)

    def purge_tenant(self, store: KeyValueStore, tenant: str) -> None:
        """Make every stored answer of `tenant` a miss."""
        store.increment(_tenant_key(tenant), 1)

    def purge_model(self, store: KeyValueStore, model: str) -> None:
        """Make every stored answer of `model` a miss, for all tenants."""
        store.increment(_model_key(model), 1)

    def purge_key(self, store: KeyValueStore, address: str) -> bool:
        """Delete what lies under one address, as `Cache-Status` names it; True when anything did.

        Raises:
            ValueError: `address` is not hexadecimal.
        """
        names = self._way_keys(self._set_of(address))
        stored = [decode_answer(data) for data in store.get_many(names)]
        doomed = [
            name
            for name, answer in zip(names, stored, strict=True)
            if answer and answer.address == address
        ]
        if doomed:
            store.delete_many(doomed)
        return bool(doomed)

    def _set_of(self, address: str) -> int:
        return int(address[:16], 16) % self._shape.sets

    def _way_keys(self, index: int) -> list[str]:
        return [f"cache/e/{index}/{way}" for way in range(self._shape.ways)]

    def _read_uses(self, raw: bytes | None) -> tuple[int, ...]:
        count = self._shape.ways
        if raw is None or len(raw) != 4 * count:
            return (0,) * count
        return struct.unpack(f"<{count}I", raw)


_ALL = "cache/g"


def _generation_keys(tenant: str, model: str) -> list[str]:
    return [_ALL, _tenant_key(tenant), _model_key(model)]


def _tenant_key(tenant: str) -> str:
    return f"cache/g/t/{tenant}"


def _model_key(model: str) -> str:
    # Hashed: a model name comes from the path and may be longer than a key can be.
    return f"cache/g/m/{hashlib.sha256(model.encode()).hexdigest()[:32]}"


def _use_key(index: int) -> str:
    return f"cache/u/{index}"


def _stored_at_s(answer: StoredAnswer | None) -> float:
    return answer.stored_at_s if answer else 0.0


def _victim(
    stored: Sequence[StoredAnswer | None], key: CacheKey, used_s: Sequence[int], now_s: float
) -> int:
    """The way to overwrite: an old answer to this request, else a free way, a dead one, the LRU."""

    def rank(way: int) -> tuple[int, int]:
        answer = stored[way]
        if answer is not None and answer.address == key.address:
            return (0, 0)
        if answer is None:
            return (1, 0)
        if answer.freshness(now_s).usable_for_s <= 0:
            return (2, used_s[way])
        return (3, used_s[way])

    return min(range(len(stored)), key=rank)
