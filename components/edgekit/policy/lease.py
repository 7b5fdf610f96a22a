"""Collapsing of identical requests across instances: one asks the upstream, the others wait.

A lease is a value under one of a fixed number of keys: which request, by whom, until when. It is
taken by compare-and-swap from the state the request's snapshot showed, and never deleted, only
marked as ended. Its deadline is part of it: a leader that dies blocks nobody beyond that.

    leader    asks the upstream, stores the answer, ends the lease in the same batch
    follower  looks for the answer at the times the leader is expected to have it
    alone     asks the upstream itself: the key is busy with another request

A lease saves work and protects nothing: two leaders at once do the work twice, and that is all.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.policy.cache_key import CacheKey
from edgekit.policy.counters import create_once
from edgekit.ports import Clock, KeyValueStore, StoreUnavailableError

__all__ = [
    "GROWTH",
    "MAX_LOOKS",
    "Lease",
    "LeaseState",
    "Role",
    "decode_lease",
    "ended_lease",
    "lease_key",
    "poll_times_s",
]

_SLOTS = 1024
MAX_LEASE_S = 120.0
"""A lease that claims to last longer is the work of a clock that jumped."""

GROWTH = 1.6
"""A follower looks again when the leader has taken so many times as long as at the last look."""

MAX_LOOKS = 24
"""From 2 ms to a minute at that pace, and one to spare."""

_CREATION_S = 0.005
"""Time between a creator's claim and its write, with room to spare."""


class Role(enum.Enum):
    """What a request does about its lease."""

    LEADER = "leader"
    FOLLOWER = "follower"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease as it is stored; an ended one has an empty identity."""

    identity: str = ""
    owner: str = ""
    started_s: float = 0.0
    ends_s: float = 0.0

    def live(self, now_s: float) -> bool:
        """True while it binds others."""
        return bool(self.identity) and now_s < self.ends_s <= now_s + MAX_LEASE_S


@dataclass(frozen=True, slots=True)
class Lease:
    """The outcome of `acquire`: a role, and the lease in force where there is one."""

    role: Role
    state: LeaseState

    @classmethod
    def acquire(
        cls,
        store: KeyValueStore,
        clock: Clock,
        key: CacheKey,
        seen: bytes | None,
        *,
        owner: str,
        hold_s: float,
    ) -> Lease:
        """Take the lease of `key`, or join it.

        One operation for a leader, two when another instance was quicker by a moment, and up to
        two more when a key is used for the first time ever.

        Args:
            store: Where leases lie.
            clock: Wall time.
            key: Which request.
            seen: The stored lease in the request's snapshot.
            owner: Random name of this request.
            hold_s: How long the work may take: the request's remaining budget.
        """
        now_s = clock.now_s()
        current = decode_lease(seen)
        if current.live(now_s):
            return cls._join(current, key)
        hold_s = min(hold_s, MAX_LEASE_S)
        mine = LeaseState(key.identity, owner, now_s, now_s + hold_s)
        try:
            if _take(store, lease_key(key), seen, _encode(mine)):
                return cls(Role.LEADER, mine)
            found = _read_winner(store, clock, lease_key(key))
            if found is None:
                store.set(lease_key(key), _encode(mine))
                return cls(Role.LEADER, mine)
        except StoreUnavailableError:
            return cls(Role.ALONE, LeaseState())
        current = decode_lease(found)
        return cls._join(current, key) if current.live(now_s) else cls(Role.ALONE, current)

    @classmethod
    def _join(cls, current: LeaseState, key: CacheKey) -> Lease:
        same = current.identity == key.identity
        return cls(Role.FOLLOWER if same else Role.ALONE, current)


def lease_key(key: CacheKey) -> str:
    """Where the lease of `key` lies."""
    slot = int(hashlib.sha256(key.address.encode()).hexdigest()[:8], 16) % _SLOTS
    return f"lease/{slot}"


def ended_lease() -> bytes:
    """What a leader writes when it is done, whether or not there is an answer to share."""
    return _encode(LeaseState())


def decode_lease(raw: bytes | None) -> LeaseState:
    """The lease in `raw`; an ended one when it is absent or unreadable."""
    try:
        identity, owner, started_s, ends_s = json.loads(raw or b'["","",0,0]')
        return LeaseState(str(identity), str(owner), float(started_s), float(ends_s))
    except (ValueError, TypeError):
        return LeaseState()


def poll_times_s(
    state: LeaseState, *, now_s: float, predicted_ms: float | None, budget_s: float
) -> Iterator[float]:
    """Pauses of a follower before each look for the leader's answer.

    The first look comes when the leader is expected to be done, each other one when it has taken
    `GROWTH` times as long, the last at the end of the lease (or of the follower's own budget). So
    a follower is late by at most that share of the leader's time, whether that is milliseconds of
    a classifier or a minute of a language model, and looks are few: one key-value operation each.

    Args:
        state: The leader's lease.
        now_s: Wall time.
        predicted_ms: Expected time of the leader's call; None when nothing is known.
        budget_s: The follower's remaining budget.
    """
    end_s = min(state.ends_s - now_s, budget_s)
    if end_s <= 0:
        return
    expected_s = (20.0 if predicted_ms is None else predicted_ms) / 1000
    first_s = min(max(expected_s - (now_s - state.started_s), 0.002), end_s)
    at_s, next_s = 0.0, first_s
    for _ in range(MAX_LOOKS - 1):
        if next_s >= end_s:
            break
        yield next_s - at_s
        at_s, next_s = next_s, next_s * GROWTH
    yield end_s - at_s


def _take(store: KeyValueStore, name: str, seen: bytes | None, value: bytes) -> bool:
    if seen is None:
        return create_once(store, name, value)
    return store.compare_and_swap(name, seen, value)


def _read_winner(store: KeyValueStore, clock: Clock, name: str) -> bytes | None:
    """The lease that was quicker; None when its owner died before it could write it."""
    found = store.get(name)
    if found is None:
        clock.sleep(_CREATION_S)
        found = store.get(name)
    return found


def _encode(state: LeaseState) -> bytes:
    fields = [state.identity, state.owner, round(state.started_s, 3), round(state.ends_s, 3)]
    return json.dumps(fields, separators=(",", ":")).encode()
